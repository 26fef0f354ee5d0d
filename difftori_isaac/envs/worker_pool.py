"""Environments in processes of their own, which share one array with this one.

The processes are started by command line: a fork beside torch's and CUDA's threads is not safe, and what
multiprocessing spawns would import the main script, and torch with it, once more in each.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difftori_isaac.envs.env_slice import EnvSlice, Recipe
from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.envs.signals import STOP_SIGNALS

_CODE = "import sys; from difftori_isaac.envs.worker_pool import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"
_PATIENCE_S = 5.0
"""How long the processes may take to end, all together, before they are killed [s]."""


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection
    indices: range


class WorkerPool:
    """As :class:`~difftori_isaac.envs.env_slice.EnvSlice`, in several processes.

    One that fails or dies ends all of them. They end with this process, in whatever way it ends, and leave signals to
    it.
    """

    def __init__(self, recipe: Recipe, num_envs: int, num_workers: int) -> None:
        """Starts the processes, which make the environments.

        Raises:
            SimulatorError: An environment cannot be made.
        """
        self._name = recipe.name
        bounds = [num_envs * worker // num_workers for worker in range(num_workers + 1)]
        memory = os.memfd_create("envs")
        self._workers: list[_Worker] = []
        self._stop = weakref.finalize(self, _stop, self._workers)
        try:
            for start, stop in pairwise(bounds):
                self._workers.append(_start(memory, range(start, stop)))
            made = self._call("make", *((recipe, worker.indices) for worker in self._workers))
            row_type, self.metadata = made[0]
            os.ftruncate(memory, num_envs * row_type.itemsize)
            self.data = _rows(memory, row_type)
            self._call("share", *((worker.indices,) for worker in self._workers))
        finally:
            os.close(memory)

    def reset(self, seeds: Sequence[int]) -> None:
        """See :class:`~difftori_isaac.envs.env_slice.Envs`."""
        self._call("reset", *((seeds[worker.indices.start : worker.indices.stop],) for worker in self._workers))

    def step(self) -> None:
        """See :class:`~difftori_isaac.envs.env_slice.Envs`."""
        self._call("step", *(() for _ in self._workers))

    def render(self) -> np.ndarray:
        """See :class:`~difftori_isaac.envs.env_slice.Envs`."""
        return self._call("render", ())[0]

    def close(self) -> None:
        """Ends the processes."""
        self._stop()

    def _call(self, command: str, *arguments: tuple[Any, ...]) -> list[Any]:
        """Sends a command to the first workers, one tuple of arguments to each, and waits for their answers."""
        asked = self._workers[: len(arguments)]
        answers = []
        worker = None
        try:
            for worker, values in zip(asked, arguments, strict=True):
                worker.pipe.send((command, values))
            for worker in asked:
                answers.append(worker.pipe.recv())
        except (EOFError, OSError):
            assert worker is not None
            self._stop()
            first, last, code = worker.indices[0], worker.indices[-1], worker.process.returncode
            which = f"environment {first}" if first == last else f"environments {first} to {last}"
            raise SimulatorError(f"the process of {which} of {self._name} died (exit code {code})") from None
        for done, value in answers:
            if not done:
                self._stop()
                raise SimulatorError(value)
        return [value for _, value in answers]


def _start(memory: int, indices: range) -> _Worker:
    ours, theirs = Pipe()
    # -P: the working directory hides no modules, unless it does so in this process
    command = [sys.executable, "-P", "-c", _CODE, str(theirs.fileno()), str(memory)]
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with theirs:
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=(theirs.fileno(), memory),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to this process alone
        )
    return _Worker(process, ours, indices)


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    deadline = time.monotonic() + _PATIENCE_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _rows(memory: int, row_type: np.dtype) -> np.ndarray:
    return np.frombuffer(mmap.mmap(memory, 0), row_type)


def serve(pipe: int, memory: int) -> None:
    """Does in a worker what the pool asks for, until its end of the pipe is closed.

    Args:
        pipe: File descriptor of this end of the pipe.
        memory: File descriptor of the shared rows.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(pipe)
    envs: Any = None
    while True:
        try:
            command, values = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if command == "make":
                envs = EnvSlice(*values)
                answer = True, (envs.data.dtype, envs.metadata)
            elif command == "share":
                envs.data = _rows(memory, envs.data.dtype)[values[0].start : values[0].stop]
                answer = True, None
            else:
                answer = True, getattr(envs, command)(*values)
        except Exception as error:
            answer = False, str(error) if isinstance(error, SimulatorError) else f"{type(error).__name__}: {error}"
        try:
            connection.send(answer)
        except OSError:
            return
