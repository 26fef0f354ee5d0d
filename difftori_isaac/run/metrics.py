"""Numbers of a run: episode statistics, metrics.csv and, beside it, TensorBoard or Weights & Biases."""

from __future__ import annotations

import csv
import io
import secrets
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from difftori_isaac.run.config import TrainConfig, to_dict
from difftori_isaac.run.errors import ConfigError, RunError

WINDOW = 100
"""Finished episodes over which the mean return is taken, as in rsl_rl."""

WANDB_TIMEOUT_S = 30
"""How long to wait for the wandb server before logging offline [s]."""

COLUMNS = (
    "iteration",
    "env_steps",
    "wall_time_s",
    "mean_return",
    "mean_episode_length",
    "success_rate",
    "env_steps_per_s",
    "solver_converged",
    "nonfinite_envs",
)
"""First columns of metrics.csv; the learner's losses follow."""

Row = dict[str, float | None]


class _Collected(NamedTuple):
    """What a process saw since its last summary."""

    window: list[tuple[float, float]]
    whole: list[float]
    num_finished: int
    sums: dict[str, float]
    weights: dict[str, int]
    num_nonfinite: int


class EpisodeStatistics:
    """Returns, lengths and successes of finished episodes."""

    def __init__(
        self,
        num_envs: int,
        device: str,
        success_rate: Callable[[Mapping[str, Any]], float | None],
        gather: Callable[[_Collected], list[_Collected]] = lambda collected: [collected],
        max_episode_length: int = 0,
    ) -> None:
        """Begin with empty statistics.

        Args:
            num_envs: Environments of this process.
            device: Their device.
            success_rate: Share of successes in the extras of a step.
            gather: Gives what all processes collected for what this one did.
            max_episode_length: Steps of the longest episode.
        """
        self._success_rate = success_rate
        self._gather = gather
        self._returns = torch.zeros(num_envs, device=device)
        self._lengths = torch.zeros(num_envs, device=device)
        self._num_steps, self._num_uneven = 0, 2 * max_episode_length
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._whole: deque[float] = deque(maxlen=WINDOW)
        self._steps: list[torch.Tensor] = []
        self._logs: list[tuple[torch.Tensor, float | None, dict[str, Any]]] = []
        self.nonfinite = torch.zeros(num_envs, dtype=torch.bool, device=device)
        """Environments in which something non-finite was contained since the last summary, shape (num_envs,)."""
        self.whole_return: float | None = None
        """Mean return of the last 100 episodes of all processes that compare, at the last summary; None before.

        Those that end within the steps of two full episodes do not: the first of an environment began at a random age,
        and of the next ones the short ones end first.
        """

    def step(self, rewards: torch.Tensor, dones: torch.Tensor, extras: Mapping[str, Any]) -> None:
        """Takes in one environment step.

        Args:
            rewards: Rewards, shape (num_envs,).
            dones: Ends of episodes, shape (num_envs,).
            extras: The environment's extras.
        """
        done = dones.bool()
        self._returns = self._returns + rewards
        self._lengths = self._lengths + 1
        self._num_steps += 1
        whole = torch.full_like(self._returns, self._num_steps > self._num_uneven)
        self._steps.append(torch.stack((done.float(), self._returns, self._lengths, whole)))
        self._returns = torch.where(done, 0.0, self._returns)
        self._lengths = torch.where(done, 0.0, self._lengths)
        counted = done
        if (mask := extras.get("nonfinite")) is not None:
            self.nonfinite, counted = self.nonfinite | mask, done & ~mask
        self._logs.append((counted.sum(), self._success_rate(extras), dict(extras.get("log", {}))))

    def summary(self) -> tuple[Row, dict[str, float]]:
        """Statistics of the steps since the last call: columns of metrics.csv, and means of the environment's own log.

        They are those of all processes. What the environment logs at the end of episodes is weighted by the number of
        episodes that ended, but for those with NaN or Inf, which its log leaves out. Where no episode ended, there is
        nothing to report: the columns are None.
        """
        steps = torch.stack(self._steps).transpose(1, 2).flatten(0, 1).cpu()
        finished = steps[steps[:, 0] > 0, 1:].tolist()
        self._window.extend((episode_return, length) for episode_return, length, _ in finished)
        self._whole.extend(episode_return for episode_return, _, whole in finished if whole)
        sums: dict[str, float] = {}
        weights: dict[str, int] = {}
        for count, success, log in self._logs:
            if ended := int(count):
                for key, value in {**log, **({} if success is None else {"success_rate": success})}.items():
                    if (mean := _mean(value)) is not None:
                        sums[key] = sums.get(key, 0.0) + ended * mean
                        weights[key] = weights.get(key, 0) + ended
        num_nonfinite = int(self.nonfinite.sum())
        collected = _Collected(list(self._window), list(self._whole), len(finished), sums, weights, num_nonfinite)
        self._steps, self._logs = [], []
        self.nonfinite = torch.zeros_like(self.nonfinite)
        parts = self._gather(collected)
        whole = [episode_return for part in parts for episode_return in part.whole]
        compares = self._num_steps > self._num_uneven and len(whole) >= WINDOW
        self.whole_return = sum(whole) / len(whole) if compares else None
        return _summary(parts)

    def state_dict(self) -> dict[str, Any]:
        """The windows of finished episodes. Running episodes belong to the environment and restart with it."""
        return {"window": [list(item) for item in self._window], "whole": list(self._whole)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self._window = deque((tuple(item) for item in state["window"]), maxlen=WINDOW)
        self._whole = deque(state.get("whole", ()), maxlen=WINDOW)  # checkpoints from before have none


def _mean(value: Any) -> float | None:
    """A number that an environment logs, or the mean of several; None of what is no number, such as a text."""
    try:
        return torch.as_tensor(value).float().mean().item()
    except (RuntimeError, TypeError, ValueError):
        return None


def _summary(parts: Sequence[_Collected]) -> tuple[Row, dict[str, float]]:
    row: Row = dict.fromkeys(("mean_return", "mean_episode_length", "success_rate"))
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for part in parts:
        for key in part.sums:
            sums[key] = sums.get(key, 0.0) + part.sums[key]
            weights[key] = weights.get(key, 0) + part.weights[key]
    means = {key: sums[key] / weights[key] for key in sums}
    if any(part.num_finished for part in parts):
        window = [episode for part in parts for episode in part.window]
        row["mean_return"], row["mean_episode_length"] = (sum(v) / len(v) for v in zip(*window, strict=True))
        row["success_rate"] = means.pop("success_rate", None)
    row["nonfinite_envs"] = sum(part.num_nonfinite for part in parts)
    return row, means


def merged(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The losses and statistics of all processes as one: failures are added up, everything else is averaged.

    What some of them leave out is averaged over the others.
    """
    names = dict.fromkeys(name for part in losses for name in part)
    given = {name: [part[name] for part in losses if name in part] for name in names}
    return {
        name: sum(values) if name.endswith("_failures") else sum(values) / len(values) for name, values in given.items()
    }


class MetricsFile:
    """metrics.csv: one row per iteration, on the disk as soon as it is written."""

    def __init__(self, path: Path, *, keep_until: int) -> None:
        """Opens the file and cuts rows of later iterations than ``keep_until``."""
        self.path = path
        rows = [row for row in read_metrics(path) if int(row["iteration"]) <= keep_until] if path.exists() else []
        self._columns = list(rows[0]) if rows else list(COLUMNS)
        self._rewrite(rows)

    def write(self, row: Row) -> None:
        """Appends a row; columns that are new are added at the end."""
        cells = {key: _cell(value) for key, value in row.items()}
        try:
            if new := [key for key in cells if key not in self._columns]:
                rows = read_metrics(self.path)
                self._columns += new
                self._rewrite(rows)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(cells)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}; checkpoints are untouched") from error

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(table(self._columns, rows), encoding="utf-8", newline="")
        temporary.replace(self.path)


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV: what one has beyond the columns is left out, what it lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.8g}"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Complete rows of a metrics.csv or eval.csv; a row that was cut off while being written is left out.

    Raises:
        ConfigError: If the file is damaged.
    """
    try:
        text = path.read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no table ({error}); allowed: the file as it was written") from None
    if rows and "iteration" not in rows[0]:
        columns = ", ".join(map(str, rows[0]))
        raise ConfigError(f"{path} has the columns {columns}; allowed: the file as it was written, with 'iteration'")
    rows = [row for row in rows if None not in row.values() and None not in row and row["iteration"].isdigit()]
    if found := next(filter(None, map(_damaged_cell, rows)), None):
        raise ConfigError(f"{found} of {path}; allowed: a number, or nothing")
    return rows


def _damaged_cell(row: Mapping[str, str]) -> str | None:
    """Says which cell of a row is no number, if one is not."""
    for column, cell in row.items():
        try:
            float(cell or "nan")
        except (TypeError, ValueError):  # of cells beyond the header's, which are a list
            return f"{column} is {cell!r} in iteration {row['iteration']}"
    return None


class Writer(Protocol):
    """Where curves go, beside metrics.csv."""

    def write(self, values: Mapping[str, float], iteration: int) -> None:
        """Takes in the values of one iteration."""

    def close(self) -> None:
        """Flushes what is left."""


class NoWriter:
    """``logger=none``."""

    def write(self, values: Mapping[str, float], iteration: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TensorBoardWriter:
    """``logger=tensorboard``: event files in the run directory. A disk that is full does not end a training."""

    def __init__(self, run_dir: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter | None = None
        try:
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=iteration + 1, flush_secs=10)
        except OSError as error:
            warnings.warn(
                f"TensorBoard cannot write ({error.strerror}); there are no curves, metrics.csv has them",
                stacklevel=2,
            )

    def write(self, values: Mapping[str, float], iteration: int) -> None:
        """Takes in the values of one iteration."""
        if self._writer is None:
            return
        try:
            for key, value in values.items():
                self._writer.add_scalar(key, value, iteration)
        except OSError as error:
            self._writer = None
            warnings.warn(
                f"TensorBoard cannot write ({error.strerror}); curves end before iteration {iteration}, "
                "metrics.csv has them",
                stacklevel=2,
            )

    def close(self) -> None:
        """Flushes what is left."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


class WandbWriter:
    """``logger=wandb``. A server that cannot be reached never ends a training: the log goes to the run directory."""

    def __init__(self, config: TrainConfig, run_dir: Path) -> None:
        import wandb

        settings = config.wandb
        options = {
            "project": settings.project,
            "entity": settings.entity,
            "name": settings.name or run_dir.name,
            "id": _wandb_id(run_dir),
            "resume": "allow",
            "dir": str(run_dir),
            "config": to_dict(config),
        }
        self._errors = (wandb.Error, OSError)
        try:
            self._run = wandb.init(mode=settings.mode, settings=wandb.Settings(init_timeout=WANDB_TIMEOUT_S), **options)
        except self._errors as error:
            warnings.warn(
                f"wandb cannot be reached ({str(error).splitlines()[0]}); logging offline to {run_dir / 'wandb'}, "
                "send it later with `wandb sync`",
                stacklevel=2,
            )
            wandb.teardown()  # lets go of the run's id
            self._run = wandb.init(mode="offline", **options)

    def write(self, values: Mapping[str, float], iteration: int) -> None:
        """Takes in the values of one iteration."""
        try:
            self._run.log(dict(values), step=iteration)
        except self._errors as error:
            warnings.warn(f"wandb did not take iteration {iteration} ({error}); metrics.csv has it", stacklevel=2)

    def close(self) -> None:
        """Flushes what is left."""
        try:
            self._run.finish()
        except self._errors as error:
            warnings.warn(f"wandb did not finish ({error}); send the log later with `wandb sync`", stacklevel=2)


def _wandb_id(run_dir: Path) -> str:
    """What the server tells a run from others by: kept in its directory, for resumes, wherever that lies by then."""
    path = run_dir / "wandb" / "id"
    with suppress(OSError):
        if found := path.read_text(encoding="utf-8").strip():
            return found
    made = secrets.token_hex(8)
    with suppress(OSError):  # a resume then begins another one
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made, encoding="utf-8")
    return made


def make_writer(config: TrainConfig, run_dir: Path, iteration: int) -> Writer:
    """The writer that ``logger=`` names."""
    if config.logger == "wandb":
        return WandbWriter(config, run_dir)
    return TensorBoardWriter(run_dir, iteration) if config.logger == "tensorboard" else NoWriter()
