"""The tasks of the DeepMind Control suite, known without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difftori_isaac.envs.dm_control_env import DmControlEnv

_SUITE = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""Domains and their tasks in dm_control 1.0.45."""

_SHORT = {"ball_in_cup": "cup"}

BENCHMARK = {
    "cartpole-swingup-sparse": 8,
    "cheetah-run": 2,
    "cup-catch": 2,
    "finger-spin": 2,
    "finger-turn-easy": 2,
    "finger-turn-hard": 2,
    "hopper-stand": 4,
    "pendulum-swingup": 2,
    "quadruped-run": 4,
    "quadruped-walk": 4,
    "reacher-easy": 4,
    "reacher-hard": 4,
    "walker-run": 2,
    "walker-stand": 2,
    "walker-walk": 2,
}
"""The 15 tasks on which DiffTORI is evaluated, and their action repeats."""


DEFAULT_NUM_ENVS = 8


@dataclass(frozen=True)
class SuiteTask:
    """A task of the suite."""

    domain: str
    task: str
    action_repeat: int
    """Simulator steps per control step, unless asked otherwise."""

    def make(self, **settings: Any) -> DmControlEnv:
        """Makes an environment; see :class:`~difftori_isaac.envs.dm_control_env.DmControlEnv`."""
        from difftori_isaac.envs.dm_control_env import DmControlEnv

        return DmControlEnv(self.domain, self.task, **settings)


def _name(domain: str, task: str) -> str:
    return f"{_SHORT.get(domain, domain)}-{task}".replace("_", "-").lower()


TASKS = {
    _name(domain, task): SuiteTask(domain, task, BENCHMARK.get(_name(domain, task), 2))
    for domain, tasks in _SUITE.items()
    for task in tasks
}
"""Every task by its name, ``domain-task``."""
