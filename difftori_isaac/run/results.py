"""What a run directory tells, read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.files import Evaluation, RunRecord, read_json, read_settings
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.run.plot import Curve, check_rising


@dataclass(frozen=True)
class Results:
    """The files of a run directory; what a run has not written is empty."""

    run_dir: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every setting.

        Raises:
            ConfigError: If the directory is no run's, or the file is damaged.
        """
        return read_settings(self.run_dir, "task", "policy", "seed", "max_iterations")

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Columns of metrics.csv, shapes (num_iterations,); NaN where one is empty.

        Raises:
            ConfigError: If the file is damaged.
        """
        path = self.run_dir / "metrics.csv"
        rows = read_metrics(path) if path.is_file() else []
        names = list(rows[0]) if rows else []
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """Starts of the run, from run.json.

        Raises:
            ConfigError: If the file is damaged.
        """
        return read_json(self.run_dir / "run.json", RunRecord).get("starts", [])

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The result of `scripts/evaluate.py`, from eval.json.

        Raises:
            ConfigError: If the file is damaged.
        """
        return read_json(self.run_dir / "eval.json", Evaluation)

    @property
    def video(self) -> Path | None:
        """The newest video."""
        videos = (self.run_dir / "videos").glob("*.mp4")
        return max(videos, key=lambda path: path.stat().st_mtime, default=None)

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.last("iteration") or 0)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its last iteration; one whose checkpoints are still there has saved it too."""
        saved = checkpoints.newest(self.run_dir) or self.iteration
        return self.iteration == saved == self.config["max_iterations"]

    @property
    def status(self) -> str:
        """Where the run is, in words."""
        state = "finished" if self.finished else "not finished"
        return f"{state}, {self.iteration} of {self.config['max_iterations']} iterations"

    @cached_property
    def best_return(self) -> float | None:
        """Mean return of the best checkpoint; None if there is none yet."""
        try:
            return checkpoints.load(checkpoints.find(self.run_dir, "best"), mapped=True).best_return
        except ConfigError:
            return None

    def curve(self, x: str, y: str) -> Curve:
        """Two columns of metrics.csv, without the rows in which one is empty or not finite.

        Raises:
            ConfigError: If there is no column ``x``, it is empty, or it falls somewhere.
        """
        path = self.run_dir / "metrics.csv"
        if x not in self.columns:
            raise ConfigError(f"x is {x!r}, which {path} has not; allowed: {', '.join(self.columns)}")
        if not len(self._values(x)):
            there = ", ".join(name for name in self.columns if len(self._values(name)))
            raise ConfigError(f"x is {x!r}, which is empty in {path}; allowed: a column with values: {there}")
        xs, ys = self.columns[x], self.columns.get(y, np.full_like(self.columns[x], np.nan))
        both = np.isfinite(xs) & np.isfinite(ys)
        check_rising(xs[both], x, path)
        return xs[both], ys[both]

    def last(self, column: str) -> float | None:
        """The last value of a column; None if it has none."""
        values = self._values(column)
        return float(values[-1]) if len(values) else None

    def mean(self, column: str) -> float | None:
        """The mean of a column; None if it has no value."""
        values = self._values(column)
        return float(values.mean()) if len(values) else None

    def total(self, column: str) -> float | None:
        """The sum of a column; None if it has no value."""
        values = self._values(column)
        return float(values.sum()) if len(values) else None

    @property
    def env_steps_per_s(self) -> float | None:
        """Environment steps per second over the whole run."""
        steps, seconds = self.last("env_steps"), self.last("wall_time_s")
        return steps / seconds if steps and seconds else None

    def _values(self, column: str) -> np.ndarray:
        values = self.columns.get(column, np.empty(0))
        return values[np.isfinite(values)]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + str(key): value}
    return found


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash for none."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
