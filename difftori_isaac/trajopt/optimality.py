"""What holds at a plan: how far a Newton step would still move it, and the gradient through it."""

from __future__ import annotations

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.gradients import free_factor, implicit_gradient
from difftori_isaac.trajopt.linearize import Linearization, linearize
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult, all_finite, zero_where


def conclude(
    problem: TrajOptProblem,
    actions: torch.Tensor,
    iterations: torch.Tensor,
    config: TrajOptConfig,
    *,
    implicit: bool,
    linearization: Linearization | None = None,
) -> SolverResult:
    """A solver's result for its last iterate.

    Args:
        problem: The problem.
        actions: The last iterate, shape (num_envs, horizon, action_dim).
        iterations: Accepted iterations, shape (num_envs,).
        config: Settings.
        implicit: Whether to attach the implicit gradient; otherwise ``actions`` carry what they carry.
        linearization: That of the problem at ``actions``, if it is known.
    """
    with torch.no_grad():
        cost, gradient, hessian = linearize(problem, actions) if linearization is None else linearization
        free = problem.free(actions, gradient.view_as(actions))
        finite = all_finite(cost, gradient, hessian)
        identity = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
        rounding = 10.0 * torch.finfo(hessian.dtype).eps * hessian.diagonal(dim1=1, dim2=2).sum(dim=1)
        hessian = hessian + rounding[:, None, None] * identity  # keeps steep, nearly rank-deficient problems factorable
        factor = free_factor(torch.where(finite[:, None, None], hessian, identity), free)
        step = torch.cholesky_solve((gradient * free.flatten(1))[..., None], factor)[..., 0]
        step_norm = step.abs().amax(dim=1).masked_fill(~finite, torch.nan)
    if implicit:
        problem = problem.replaced(z0=zero_where(~finite, problem.z0), prior=zero_where(~finite, problem.prior))
        actions = implicit_gradient(problem, zero_where(~finite, actions), free, factor, config.implicit_hessian)
    return SolverResult(actions, cost.detach(), step_norm, iterations)
