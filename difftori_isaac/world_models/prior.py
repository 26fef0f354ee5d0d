"""The prior of a world model as a plan."""

from __future__ import annotations

from typing import Protocol

import torch


class PriorModel(Protocol):
    """A model with a policy prior."""

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, shape (num_envs, state_dim), of states ``z`` under actions ``a``, (num_envs, action_dim)."""
        ...

    def pi(self, z: torch.Tensor) -> torch.Tensor:
        """Prior actions, shape (num_envs, action_dim)."""
        ...


def prior_plan(model: PriorModel, z0: torch.Tensor, horizon: int) -> torch.Tensor:
    """The prior rolled out through the dynamics from ``z0``, shape (num_envs, horizon, action_dim)."""
    z, actions = z0, []
    for t in range(horizon):
        actions.append(model.pi(z))
        if t < horizon - 1:
            z = model.next(z, actions[-1])
    return torch.stack(actions, dim=1)
