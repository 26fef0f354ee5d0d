"""What a run asks of a learner."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from tensordict import TensorDict


class Policy(Protocol):
    """A deterministic policy."""

    @property
    def output_std(self) -> torch.Tensor:
        """Standard deviation of the exploration noise, in the units of the action, any shape."""
        ...

    def __call__(self, obs: TensorDict) -> torch.Tensor:
        """Actions, shape (num_envs, num_actions), of observation groups of shape (num_envs, ...)."""
        ...


class Learner(Protocol):
    """A policy and how it changes, in the words of rsl_rl's PPO, which is one.

    An iteration is ``num_steps_per_env`` times :meth:`act` and :meth:`process_env_step`, then :meth:`compute_returns`,
    all in inference mode, then :meth:`update`.
    """

    learning_rate: float
    """Learning rate that a schedule has arrived at."""

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Actions with exploration noise, shape (num_envs, num_actions)."""
        ...

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> None:
        """Takes in what the environments answered to the last actions."""
        ...

    def compute_returns(self, obs: TensorDict) -> None:
        """Takes in the observations behind the last step of the iteration."""
        ...

    def update(self) -> dict[str, float]:
        """Learns; returns what metrics.csv shall show."""
        ...

    def get_policy(self) -> Policy:
        """The policy without exploration noise."""
        ...

    def train_mode(self) -> None:
        """Prepares for learning."""
        ...

    def eval_mode(self) -> None:
        """Prepares for acting alone."""
        ...

    def save(self) -> dict[str, Any]:
        """Everything that learning goes on from."""
        ...

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool) -> bool:
        """Restores what :meth:`save` gave."""
        ...
