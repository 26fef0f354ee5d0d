"""What runs and learners ask of an environment, whichever simulator it comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import rsl_rl.env
import torch
from tensordict import TensorDict

Expert = Callable[[TensorDict], torch.Tensor]
"""A task's scripted policy: from the newest observations to actions of shape (num_envs, num_actions)."""


@dataclass(frozen=True)
class VideoRequest:
    """Asks for pictures of the first environment."""

    width: int = 640
    """[pixel]."""
    height: int = 480
    """[pixel]."""


class VecEnv(rsl_rl.env.VecEnv):
    """rsl_rl's environment, with the habits of a long training run.

    Actions are of shape (num_envs, num_actions). Observations are groups of shape (num_envs, ...) in a TensorDict:
    ``policy``, float32, is what a policy sees unless it asks for other groups.
    """

    clip_actions: float | None
    """Magnitude that actions are clipped to before they are executed; None if they are not."""

    @property
    @abstractmethod
    def step_dt(self) -> float:
        """Simulated time of a control step [s]."""

    @abstractmethod
    def reset(self, *, stagger: bool = False) -> tuple[TensorDict, dict[str, Any]]:
        """Starts new episodes in all environments, from states drawn with torch's global generator.

        Args:
            stagger: Whether to start at random ages, so that the time limit does not end all episodes together.

        Returns:
            The first observations, and extras.
        """

    @abstractmethod
    def step(
        self, actions: torch.Tensor, counted: torch.Tensor | None = None
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Advances every environment by one control step and restarts those whose episode ends.

        An environment whose observation or reward is not finite gets the reward 0, is done (and not timed out) and is
        restarted; the others do not notice. An episode that fails in its last step is not timed out.

        Args:
            actions: Shape (num_envs, num_actions).
            counted: Environments whose episodes :meth:`success_rate` is of, bool of shape (num_envs,); all if not
                given. Which states the others begin their next episodes from may depend on it.

        Returns:
            Observations after the step, or of the new episode where one began; rewards, shape (num_envs,); dones,
            shape (num_envs,); and extras: ``time_outs`` and ``nonfinite``, bool of shape (num_envs,); ``log``, what
            the simulator logged in this step alone; ``final_obs``, if an episode ended, the observations before
            restarts.

        Raises:
            SimulatorError: The simulator failed.
        """

    @abstractmethod
    def success_rate(self, extras: Mapping[str, Any]) -> float | None:
        """Returns the share of successes among the episodes that ended in a step, but for those that were not finite.

        Args:
            extras: What the step gave.

        Returns:
            The share, None if there is no such metric.
        """

    @property
    @abstractmethod
    def expert(self) -> Expert | None:
        """The task's scripted policy; None if it has none."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns what outlives episodes, such as the counters of curricula."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; the next thing to do is :meth:`reset`."""

    @abstractmethod
    def hold_curricula(self) -> None:
        """Keeps curricula as they are until the next :meth:`load_state_dict`, so that all episodes are of one task."""

    @abstractmethod
    def render_frame(self) -> np.ndarray:
        """Draws the first environment as it is now: uint8, shape (height, width, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environment and what it runs on."""


class Simulator(Protocol):
    """A door: the module ``difftori_isaac.envs.<simulator>``, found with ``registry.open_simulator``."""

    def make_env(
        self,
        task_id: str,
        *,
        num_envs: int | None,
        device: str,
        seed: int,
        overrides: Sequence[str] = (),
        video: VideoRequest | None = None,
        viewer_port: int | None = None,
    ) -> VecEnv:
        """Builds a task's environments and resets them.

        Args:
            task_id: Name of the task.
            num_envs: Number of environments; None keeps the task's own.
            device: ``cpu`` or ``cuda:N``, for the tensors and, where it can, the physics.
            seed: Seed of the simulator's random generators.
            overrides: Settings of the environment, ``env.KEY=VALUE``.
            video: Makes :meth:`VecEnv.render_frame` work.
            viewer_port: Port at which browsers on this machine can watch the environments; None serves none.

        Raises:
            ValueError: Something asked for cannot be.
        """
        ...

    def check_overrides(self, task_id: str, overrides: Sequence[str]) -> None:
        """Raises ValueError if a setting of the environment is wrong, without making one."""
        ...

    def load_ppo_settings(self, task_id: str) -> dict[str, Any]:
        """Returns the task's rsl_rl configuration as a plain dictionary, empty if it has none."""
        ...

    def load_task_defaults(self, task_id: str) -> dict[str, Any]:
        """Returns this project's configuration keys that a task sets for itself, empty if it sets none."""
        ...
