"""One trial of a sweep: a training process of its own, its run directory, and a record of how it went."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import lock
from difftori_isaac.run.compose import quoted
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.files import read_settings
from difftori_isaac.run.lock import alone
from difftori_isaac.run.metrics import read_metrics, table
from difftori_isaac.run.record import write_atomic

PREFIX = "++trial."
"""What Hydra sees before the key of a trial's override: its own configuration has none of them."""

MAX_NAME = 120
"""Longest name of a run directory that is written out [byte]."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Progress:
    """How far a run has come, from its files."""

    iterations: int = 0
    """Iterations done."""
    total: int | None = None
    """Iterations to do; None if the run has not begun."""
    last: float | None = None
    """Mean return in the last iteration that has one."""
    best: float | None = None
    """Highest mean return of an iteration."""
    damage: str = ""
    """Which of the files is damaged, in one line."""

    @classmethod
    def read(cls, run_dir: Path) -> Progress:
        """Reads the files of a run, which may be missing or damaged."""
        metrics = run_dir / "metrics.csv"
        if not (metrics.is_file() and (run_dir / "config.yaml").is_file()):
            return cls()
        try:
            rows, total = read_metrics(metrics), read_settings(run_dir, "max_iterations")["max_iterations"]
        except ConfigError as error:
            return cls(damage=" ".join(str(error).split()))
        returns = [float(row["mean_return"]) for row in rows if row.get("mean_return")]
        done = int(rows[-1]["iteration"]) if rows else 0
        return cls(done, total, returns[-1] if returns else None, max(returns, default=None))


@dataclass(frozen=True)
class Record:
    """How a trial went, in ``records/<trial>.json``."""

    number: int
    """Place in the sweep."""
    trial: str
    """Name of the trial, that of its run directory too."""
    values: dict[str, str]
    """What tells it from the other trials: override keys and values."""
    status: Literal["running", "finished", "stopped", "failed"]
    """finished: every iteration was done; stopped: it saved its state on a signal and can go on."""
    iterations: int = 0
    """Iterations done."""
    last_return: float | None = None
    """Mean return in the last iteration that has one."""
    best_return: float | None = None
    """Highest mean return of an iteration."""
    reason: str = ""
    """Why it failed, in one line."""
    log: str = ""
    """File of its output, relative to the sweep's directory."""


def trial_name(overrides: Sequence[str]) -> str:
    """Name of a trial's run directory: what tells it from the others."""
    name = re.sub(r"[^\w.,=+-]", "_", ",".join(overrides)) or "trial"
    encoded = name.encode()
    if len(encoded) <= MAX_NAME:
        return name
    return f"{encoded[:MAX_NAME].decode(errors='ignore')}_{sha256(encoded).hexdigest()[:8]}"


@dataclass(frozen=True)
class Trial:
    """What Hydra calls for each trial, in whichever process or job: trains, and returns the objective."""

    sweep_dir: Path
    """Directory of the sweep, absolute."""
    fixed: tuple[str, ...]
    """Overrides that all trials share."""
    objective: Literal["last", "best"]
    """Mean return that counts."""

    def __call__(self, config: Any) -> float | None:
        """Runs the trial whose overrides Hydra has composed; None if it has no return."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        overrides = [item.removeprefix(PREFIX) for item in hydra.overrides.task if item.startswith(PREFIX)]
        record = self.run(overrides, hydra.job.num)
        return record.best_return if self.objective == "best" else record.last_return

    def run(self, overrides: Sequence[str], number: int) -> Record:
        """Starts the trial, continues it, or leaves it as it is if it is finished."""
        name = trial_name(overrides)
        records, run_dir = self.sweep_dir / "records", self.sweep_dir / name
        records.mkdir(parents=True, exist_ok=True)
        log = records / f"{name}.log"
        values = dict(item.split("=", 1) for item in overrides)
        with alone(records / f"{name}.lock", wait=True):
            if is_finished(run_dir, [*self.fixed, *overrides]):
                record = self._record(number, name, values, "finished")
                print(f"{name}: is finished", flush=True)
                return record
            record = self._record(number, name, values, "running")
            if record.status == "failed":
                print(f"{name}: failed, {record.reason}", flush=True)
                return record
            print(f"{name}: started, {log}", flush=True)
            began, status, reason = time.monotonic(), "stopped", ""
            told = log.stat().st_size if log.exists() else 0
            try:
                code = _train(self._arguments(overrides, run_dir, number), log)
                if code != 0:
                    status, reason = "failed", _last_words(log, told) or f"exit code {code}"
                elif is_finished(run_dir, [*self.fixed, *overrides]):
                    status = "finished"
            finally:
                record = self._record(number, name, values, status, reason)
                returned = "" if record.last_return is None else f", return {record.last_return:.4g}"
                print(f"{name}: {status} after {time.monotonic() - began:.0f} s{returned}", flush=True)
            return record

    def _arguments(self, overrides: Sequence[str], run_dir: Path, number: int) -> list[str]:
        """Arguments of the training script. A directory without a checkpoint holds nothing that could go on."""
        arguments = [*self.fixed, *overrides, f"run_dir={quoted(run_dir)}"]
        keys = {item.partition("=")[0] for item in arguments}
        if "device" not in keys and (count := _num_gpus()) > 1:
            arguments.append(f"device=cuda:{number % count}")
        if run_dir.exists():
            with alone(run_dir / lock.NAME, wait=True):  # what a killed sweep has left behind may still be saving
                pass
        if checkpoints.numbered(run_dir):
            rate = "learner.learning_rate="  # which would replace what a schedule has arrived at
            arguments = [item for item in arguments if not item.startswith(rate)]
            arguments.append("resume=latest")
        elif run_dir.exists():
            shutil.rmtree(run_dir)
        return arguments

    def _record(self, number: int, name: str, values: dict[str, str], status: Any, reason: str = "") -> Record:
        """Writes how the trial went; with a damaged run it failed."""
        progress = Progress.read(self.sweep_dir / name)
        if progress.damage:
            status, reason = "failed", reason or progress.damage
        record = Record(
            number=number,
            trial=name,
            values=values,
            status=status,
            iterations=progress.iterations,
            last_return=progress.last,
            best_return=progress.best,
            reason=reason,
            log=f"records/{name}.log",
        )
        write_atomic(self.sweep_dir / "records" / f"{name}.json", json.dumps(asdict(record), indent=2) + "\n")
        return record


def is_finished(run_dir: Path, overrides: Sequence[str]) -> bool:
    """Whether a run has done all iterations that it or ``overrides`` ask for, and saved the last one."""
    progress, saved = Progress.read(run_dir), checkpoints.newest(run_dir)
    asked = [found[1] for item in overrides if (found := re.fullmatch(r"max_iterations=(\d+)", item))]
    total = int(asked[-1]) if asked else progress.total
    return total is not None and min(progress.iterations, saved) >= total


def read_records(sweep_dir: Path) -> list[Record]:
    """Records of all trials in a sweep's directory, in order.

    Raises:
        ConfigError: If one is damaged.
    """
    found = [_read_record(path) for path in (sweep_dir / "records").glob("*.json")]
    return sorted(found, key=lambda record: (record.number, record.trial))


def _read_record(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is damaged ({reason}); allowed: the file as it was written, or none") from None


def write_table(sweep_dir: Path, records: Sequence[Record]) -> Path:
    """Writes trials.csv: one row per trial, one column per swept key.

    Raises:
        RunError: If it cannot be written; the one from before stays.
    """
    keys = list(dict.fromkeys(key for record in records for key in record.values))
    columns = [*keys, "status", "iterations", "last_return", "best_return", "run_dir", "reason"]
    path = sweep_dir / "trials.csv"
    rows = (asdict(record) | record.values | {"run_dir": sweep_dir / record.trial} for record in records)
    write_atomic(path, table(columns, rows))
    return path


def _train(arguments: Sequence[str], log: Path) -> int:
    """Runs the training script to its end; if this process is stopped, the script saves first."""
    command = [sys.executable, "-m", "difftori_isaac.scripts.train", *arguments]
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _num_gpus() -> int:
    """GPUs to spread trials over; a Slurm job uses those it was given."""
    import torch

    return 0 if "SLURM_JOB_ID" in os.environ else torch.cuda.device_count()


def _last_words(log: Path, start: int) -> str:
    """The last error in a trial's output, or else its last line, behind the first ``start`` bytes of earlier tries."""
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")
