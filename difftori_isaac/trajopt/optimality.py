"""What holds at a plan: how far a Newton step would still move it, and the gradient through it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from difftori_isaac.trajopt import cholesky
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.gradients import free_block, implicit_gradient
from difftori_isaac.trajopt.linearize import Linearization, linearize
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult, all_finite, zero_where
from difftori_isaac.trajopt.trajectory import Trajectory


class Optimality(NamedTuple):
    """What holds at the last iterate of a solver; without gradient."""

    cost: torch.Tensor
    """Cost, shape (num_envs,)."""
    step_norm: torch.Tensor
    """Largest component of the Newton step left, shape (num_envs,); NaN where something is not finite."""
    free: torch.Tensor
    """Components that no bound holds, bool of shape (num_envs, horizon, action_dim)."""
    factor: torch.Tensor
    """Cholesky factor of the Hessian of these, shape (num_envs, horizon * action_dim, horizon * action_dim)."""
    finite: torch.Tensor
    """Whether cost, gradient and Hessian are finite, bool of shape (num_envs,)."""


@torch.no_grad()
def optimality(
    problem: TrajOptProblem, actions: torch.Tensor, linearization: Linearization | None = None
) -> Optimality:
    """What holds at ``actions``, shape (num_envs, horizon, action_dim), whose linearization may be known."""
    cost, gradient, hessian = (linearization or linearize(problem, actions)).tensors
    free = problem.free(actions, gradient.view_as(actions))
    finite = all_finite(cost, gradient, hessian)
    rounding = 10.0 * torch.finfo(hessian.dtype).eps * hessian.diagonal(dim1=1, dim2=2).sum(dim=1)
    hessian = cholesky.shifted(hessian, rounding)  # keeps steep, nearly rank-deficient problems factorable
    factor = cholesky.factor(free_block(hessian, free & finite[:, None, None]))
    step = cholesky.solve(factor, gradient * free.flatten(1))
    return Optimality(cost, step.abs().amax(dim=1).masked_fill(~finite, torch.nan), free, factor, finite)


def conclude(
    problem: TrajOptProblem,
    actions: torch.Tensor,
    iterations: torch.Tensor,
    config: TrajOptConfig,
    *,
    implicit: bool,
    end: Optimality | None = None,
    trajectory: Trajectory | None = None,
) -> SolverResult:
    """A solver's result for its last iterate.

    Args:
        problem: The problem.
        actions: The last iterate, shape (num_envs, horizon, action_dim).
        iterations: Accepted iterations, shape (num_envs,).
        config: Settings.
        implicit: Whether to attach the implicit gradient; otherwise ``actions`` carry what they carry.
        end: What holds at ``actions``, if it is known.
        trajectory: The rollout of ``actions``, if it is known.
    """
    cost, step_norm, free, factor, finite = optimality(problem, actions) if end is None else end
    if implicit:
        if trajectory is None or not finite.all():
            problem = problem.replaced(z0=zero_where(~finite, problem.z0), prior=zero_where(~finite, problem.prior))
            actions, trajectory = zero_where(~finite, actions), None
        actions = implicit_gradient(problem, actions, free, factor, config.implicit_hessian, trajectory)
    return SolverResult(actions, cost, step_norm, iterations)
