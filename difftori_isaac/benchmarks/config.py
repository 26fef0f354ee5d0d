"""What a benchmark is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, with_config

from difftori_isaac.run.config import PYDANTIC
from difftori_isaac.run.errors import ConfigError

SuiteName = Literal["learned_model", "known_dynamics", "published", "training", "model_based", "gradients"]

WITH_PEERS: tuple[SuiteName, ...] = ("learned_model", "known_dynamics")
"""Suites that know planners of others."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


Sizes = Annotated[tuple[int, ...], BeforeValidator(_as_list)]


class Size(NamedTuple):
    """How large one solve is."""

    num_envs: int
    """Problems solved at once."""
    horizon: int
    """Planned actions [steps]."""
    iterations: int
    """Solver iterations."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What `scripts/benchmark.py` takes.

    Raises:
        ConfigError: If a value is outside its range; the message names the value and what is allowed.
    """

    suite: SuiteName
    """What is measured."""
    num_envs: Sizes | None = None
    """Environments, one number or a list; null is the suite's own."""
    horizon: Sizes | None = None
    """Horizons [steps], one number or a list; null is the suite's own."""
    iterations: Sizes | None = None
    """Solver iterations (``suite=training``: PPO's), one number or a list; null is the suite's own."""
    filter: str | None = None
    """Only solvers whose name contains this."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, or cuda:N."""
    dtype: Literal["float32", "float64"] | None = None
    """Precision; null is the suite's own. ``training`` and ``model_based`` have float32 alone."""
    repeats: int = 5
    """Timed calls after the warm-up; their median counts."""
    peers: bool = False
    """Whether uv is to install planners of others beside this environment and they are to be run; false quotes them or
    leaves them out."""
    task: str = "Cartpole"
    """Task of ``suite=training``."""
    json: str | None = None
    """File for the rows as JSON."""
    markdown: str | None = None
    """File for the table, with the command and the machine."""
    plot: str | None = None
    """Picture of time against whatever was given several values."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "horizon", "iterations"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                raise ConfigError(f"{name} is {list(values)}; allowed: one or more integers of at least 1")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; allowed: an integer of at least 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; allowed: auto, cpu, cuda:N")
        if self.suite in ("training", "model_based"):
            if self.plot is not None:
                raise ConfigError(f"plot is set, but suite={self.suite} has no curves; allowed: json, markdown")
            if self.dtype not in (None, "float32"):
                raise ConfigError(f"dtype is {self.dtype}, but suite={self.suite} trains in float32; allowed: float32")

    def sizes(self, num_envs: Sizes, horizon: Sizes, iterations: Sizes) -> list[Size]:
        """Sizes to measure, given the suite's own: each list in turn, with the first value of the other two."""
        lists = (self.num_envs or num_envs, self.horizon or horizon, self.iterations or iterations)
        cross = product(*(enumerate(values) for values in lists))
        return [Size(*(value for _, value in item)) for item in cross if sum(rank > 0 for rank, _ in item) <= 1]

    def wants(self, solver: str) -> bool:
        """Whether ``filter`` lets a solver through."""
        return self.filter is None or self.filter in solver
