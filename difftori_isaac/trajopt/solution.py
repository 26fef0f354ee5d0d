"""What a solve returns."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch

from difftori_isaac.trajopt.host import readable


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
    DIVERGED = 4
    """The solver ended at a higher cost than it began with; the warm start is returned and no gradient flows."""


class SolverResult(NamedTuple):
    """What a solver hands to the layer. An environment whose cost or step is not finite has failed."""

    actions: torch.Tensor
    """Plans, shape (num_envs, horizon, action_dim), carrying their gradient if one was asked for."""
    cost: torch.Tensor
    """Cost of the plans, shape (num_envs,)."""
    step_norm: torch.Tensor
    """Largest component of the Newton step left at the plans, shape (num_envs,), in the units of the action."""
    iterations: torch.Tensor
    """Accepted iterations, shape (num_envs,), dtype int64."""
    initial_cost: torch.Tensor | None = None
    """Cost of the warm start, shape (num_envs,), from a solver that may end above it."""


class TrajOptSolution(NamedTuple):
    """Solutions of a batch of trajectory-optimization problems, one per environment."""

    actions: torch.Tensor
    """Optimal action sequences, shape (num_envs, horizon, action_dim). Carries the gradient."""
    shift: torch.Tensor
    """How far ``actions`` are from the prior plan, of the same shape; 0 where a solve failed. Without gradient."""
    cost: torch.Tensor
    """Cost of ``actions``, shape (num_envs,); NaN where the problem is not finite. Without gradient."""
    step_norm: torch.Tensor
    """Largest component of the Newton step left at ``actions``, shape (num_envs,), in the units of the action.

    NaN where a solve failed. Without gradient.
    """
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
        return self.status >= SolveStatus.NON_FINITE


def zero_where(mask: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` with the environments of ``mask``, shape (num_envs,), set to zero; they pass no gradient."""
    if readable(mask) and not mask.any():
        return tensor
    return tensor.masked_fill(mask.view(-1, *[1] * (tensor.ndim - 1)), 0.0)


def all_finite(*tensors: torch.Tensor) -> torch.Tensor:
    """Whether every number of an environment is finite, shape (num_envs,).

    A number less itself is 0 only then: a fraction of the time of ``isfinite`` on a CPU.
    """
    with torch.no_grad():
        rests = [(tensor - tensor)[:, None].flatten(1).sum(dim=1) for tensor in tensors]
        return torch.stack(rests).sum(dim=0) == 0
