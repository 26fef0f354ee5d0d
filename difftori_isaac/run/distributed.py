"""A training in several processes: which of them this one is, and what it exchanges with the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.build import resolve_device
from difftori_isaac.run.compose import setting
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.errors import ConfigError, RunError

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, or another launcher, tells a process in its environment."""

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others: in the first iteration each compiles its simulation kernels."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a training, each with environments of its own, and this one's place among them."""

    launched: bool = False
    """Whether torchrun started it."""
    rank: int = 0
    """Number of this process; 0 decides where the run lies, and writes it."""
    local_rank: int = 0
    """Number of this process on its machine, and of its GPU."""
    size: int = 1
    """Number of processes."""

    def gather[T](self, value: T) -> list[T]:
        """The values of all ranks, in order."""
        if not self.launched:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_first[T](self, make: Callable[[], T]) -> T:
        """What ``make`` returns on rank 0, without a call on the others; its refusal is the refusal of all."""
        if not self.launched:
            return make()
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [make()]
            except (ConfigError, RunError) as error:
                outcome = [error]
        distributed.broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def check(self, config: TrainConfig) -> None:
        """Compares ``distributed=`` with how this process was started.

        Raises:
            ConfigError: If they differ, or the learner cannot be distributed.
        """
        if config.distributed and not self.launched:
            raise ConfigError(
                "distributed is true, but this process was not started by torchrun; allowed: torchrun "
                "--nproc_per_node=<processes> scripts/train.py <key>=<value> ..., or distributed=false"
            )
        if self.launched and not config.distributed:
            raise ConfigError(
                f"distributed is false, but torchrun started {self.size} processes; allowed: distributed=true"
            )
        if self.launched and config.learner.name != "ppo":
            raise ConfigError(f"learner is {config.learner.name}; allowed with distributed=true: ppo")

    def seed_of(self, seed: int) -> int:
        """The seed of this process: after the largest one comes 0."""
        return (seed + self.rank) % 2**32

    def device_of(self, device: str) -> str:
        """The device of this process: the CPU, or the GPU of its number on its machine.

        Raises:
            ConfigError: If another GPU is asked for, or there is none of this number.
        """
        if not self.launched or device == "cpu":
            return device
        if device != "cuda:0":
            raise ConfigError(f"device is {device}; allowed with distributed=true: auto, cuda (one GPU each) or cpu")
        device = resolve_device(f"cuda:{self.local_rank}")
        torch.cuda.set_device(device)
        return device


ALONE = World()
"""A process that was started on its own."""


@contextmanager
def connect() -> Iterator[World]:
    """Connects this process to the others that were started with it; a world of its own if it was started alone."""
    if not all(name in os.environ for name in VARIABLES):
        yield ALONE
        return
    rank, local_rank, size = (int(os.environ[name]) for name in VARIABLES[:3])
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield World(launched=True, rank=rank, local_rank=local_rank, size=size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def lost_ranks_named(world: World, get_run_dir: Callable[[], Path]) -> Iterator[None]:
    """Context in which a failing connection to another rank is an error that says how to go on.

    Raises:
        RunError: If a rank is gone, or has not answered for :data:`TIMEOUT`.
    """
    try:
        yield
    except RuntimeError as error:
        connection = isinstance(error, (distributed.DistError, distributed.DistNetworkError)) or "gloo" in str(error)
        if not world.launched or not connection:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others, but they say why first
        reason = str(error).splitlines()[0].rpartition("] ")[2].rstrip(".")
        saved = checkpoints.numbered(run_dir := get_run_dir())
        hint = f"resume with: resume=latest {setting('run_dir', run_dir)}" if saved else "no checkpoint was written yet"
        raise RunError(f"rank {world.rank} of {world.size} lost another one ({reason}); {hint}") from error
