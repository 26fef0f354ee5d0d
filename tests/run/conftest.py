from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.checkpoint import Checkpoint


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, where runs/ is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_checkpoint():
    """Makes the state of a small learner after some iterations."""

    def make(iteration: int = 1, **changes) -> Checkpoint:
        values = {
            "config": {"task": "Cartpole", "policy": "mlp"},
            "iteration": iteration,
            "env_steps": 100 * iteration,
            "wall_time_s": 1.5,
            "learner": {"actor_state_dict": torch.nn.Linear(3, 2).state_dict(), "iteration": iteration},
            "learning_rate": 1e-3,
            "rng": checkpoints.rng_state(),
            "env": {"common_step_counter": 7},
            "episodes": {"window": [[1.0, 2.0]]},
            "best_return": None,
        }
        return Checkpoint(**(values | changes))

    return make


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Context in which no file of this process can grow beyond 1000 bytes."""

    @contextmanager
    def full() -> Iterator[None]:
        limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, handler)

    return full
