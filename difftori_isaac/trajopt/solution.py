"""What a solve returns."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch


class SolveStatus(IntEnum):
    """How the solve of one environment ended."""

    NONE = 0
    """Not solved yet."""
    CONVERGED = 1
    """A Newton step would move no action by more than the tolerance."""
    MAX_ITERATIONS = 2
    """All iterations were used and the cost decreased or stayed."""
    NON_FINITE = 3
    """The problem or its solution has NaN or Inf; the warm start is returned and no gradient flows."""


class TrajOptSolution(NamedTuple):
    """Solutions of a batch of trajectory-optimization problems, one per environment."""

    actions: torch.Tensor
    """Optimal action sequences, shape (num_envs, horizon, action_dim). Carries the gradient."""
    shift: torch.Tensor
    """How far ``actions`` are from the prior plan, of the same shape; 0 where a solve failed. Without gradient."""
    cost: torch.Tensor
    """Cost of ``actions``, shape (num_envs,)."""
    step_norm: torch.Tensor
    """Largest component of the Newton step left at ``actions``, shape (num_envs,), in the units of the action."""
    iterations: torch.Tensor
    """Accepted iterations, shape (num_envs,), dtype int64."""
    status: torch.Tensor
    """:class:`SolveStatus` per environment, shape (num_envs,), dtype int64."""

    @property
    def action(self) -> torch.Tensor:
        """First action of each plan, shape (num_envs, action_dim)."""
        return self.actions[:, 0]

    @property
    def converged(self) -> torch.Tensor:
        """Whether each environment converged, shape (num_envs,), dtype bool."""
        return self.status == SolveStatus.CONVERGED

    @property
    def failed(self) -> torch.Tensor:
        """Whether each environment fell back to its warm start, shape (num_envs,), dtype bool."""
        return self.status == SolveStatus.NON_FINITE
