"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from difftori_isaac.run.errors import RunError

NAME = ".lock"
"""File in a run directory that a training holds."""


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[None]:
    """Context in which no other process holds the same file; on a file system without locks, one may.

    Raises:
        BlockingIOError: If another one does, unless that is waited for.
    """
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield


@contextmanager
def training(run_dir: Path) -> Iterator[None]:
    """Context in which no other process trains in a run directory, which is made if there is none.

    Raises:
        RunError: If another one does, or the directory cannot be written.
    """
    with ExitStack() as held:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(run_dir / NAME, wait=False))
        except BlockingIOError:
            raise RunError(f"another process trains {run_dir}; wait for it to end, or stop it, and try again") from None
        except OSError as error:
            raise RunError(f"cannot write to run_dir {run_dir}: {error}; give one that can be written") from error
        yield
