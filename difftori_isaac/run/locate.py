"""Where runs lie: names of new run directories, and the checkpoint that ``latest``, ``best`` or a path means."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import lock
from difftori_isaac.run.errors import ConfigError, RunError

RUNS = Path("runs")


def runs_of(task: str, policy: str) -> Path:
    """Directory of all runs of a task with a policy, relative to where the script is started."""
    return RUNS / folder_name(task) / policy


def folder_name(task: str) -> str:
    """Name of the folder of a task's runs."""
    return re.sub(r"[^\w.+-]", "_", task)


def new_run_dir(run_dir: str | None, *, task: str, policy: str, seed: int) -> Path:
    """Path of the directory of a new run; it does not exist yet, or is empty.

    Raises:
        ConfigError: If it has content.
    """
    if run_dir is None:
        return runs_of(task, policy) / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed{seed}"
    path = Path(run_dir)
    if path.exists() and not (path.is_dir() and not any(item.name != lock.NAME for item in path.iterdir())):
        raise ConfigError(f"run_dir {run_dir} exists; allowed: a new directory, or resume=latest to continue the run")
    return path


def make_folder(path: Path) -> Path:
    """Makes a directory of its own for who calls this: with _2, _3, ... behind the name where there is one already.

    Raises:
        RunError: If it cannot be made.
    """
    return _make_new(path, partial(Path.mkdir, parents=True))


def make_file(path: Path) -> Path:
    """Makes an empty file of its own for who calls this: with _2, _3, ... before its suffix where there is one already.

    Raises:
        RunError: If it cannot be made.
    """

    def make(made: Path) -> None:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch(exist_ok=False)

    return _make_new(path, make, path.suffix)


def _make_new(path: Path, make: Callable[[Path], None], suffix: str = "") -> Path:
    made, number = path, 1
    while True:
        try:
            make(made)
            return made
        except FileExistsError as error:
            if not os.path.lexists(made):  # a folder above it is a broken link
                raise RunError(f"cannot make {path}: {error.strerror}; give a place that can be written") from error
            number += 1
            made = path.with_name(f"{path.name.removesuffix(suffix)}_{number}{suffix}")
        except OSError as error:
            raise RunError(f"cannot make {path}: {error.strerror}; give a place that can be written") from error


def output_file(given: str | None, default: Path) -> Path:
    """File that a result goes to: the one asked for, or the default.

    Raises:
        ConfigError: If a directory was asked for.
    """
    if given is not None and Path(given).is_dir():
        raise ConfigError(f"output is {given}, a directory; allowed: a file, such as {Path(given) / default.name}")
    return Path(given) if given else default


def find_checkpoint(which: str, *, run_dir: str | None, task: str | None, policy: str, key: str) -> Path:
    """The file that ``latest``, ``best``, a run directory or a checkpoint file means.

    Without ``run_dir``, latest and best are looked for in the run of ``task`` and ``policy`` that was saved last.

    Raises:
        ConfigError: If there is no such checkpoint.
    """
    if which not in ("latest", "best"):
        path = Path(which)
        if not path.exists():
            raise ConfigError(
                f"{key} is {which}, which does not exist; allowed: latest, best, a checkpoint file or a run"
            )
        is_inside = path == checkpoints.folder(path.parent) and not checkpoints.numbered(path)
        run = path.parent if is_inside else path
        return checkpoints.find(run, "latest") if path.is_dir() else path
    if run_dir is not None:
        if not Path(run_dir).is_dir():
            raise ConfigError(f"run_dir {run_dir} does not exist; allowed with {key}={which}: the directory of a run")
        return checkpoints.find(Path(run_dir), which)
    if task is None:
        raise ConfigError(f"{key}={which} needs to know the run; give run_dir=<directory> or task=<name>")
    parent = runs_of(task, policy)
    saved = {run: found[-1].stat().st_mtime for run in parent.glob("*") if (found := checkpoints.numbered(run))}
    if not saved:
        raise ConfigError(
            f"{key}={which} finds no run of task {task} with policy {policy} in {parent}; "
            f"allowed: run_dir=<directory>, {key}=<checkpoint file>, or train one first"
        )
    return checkpoints.find(max(saved, key=lambda run: saved[run]), which)


def same(first: str | Path, second: str | Path) -> bool:
    """Whether two paths mean the same place."""
    return Path(first).resolve() == Path(second).resolve()


def run_dir_of(path: Path) -> Path | None:
    """Run directory that a checkpoint file lies in; None if it lies elsewhere, in whatever folder."""
    run_dir = path.parent.parent
    return run_dir if path.parent == checkpoints.folder(run_dir) and (run_dir / "config.yaml").is_file() else None
