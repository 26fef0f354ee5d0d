"""Batched projected Levenberg-Marquardt in torch: per-environment damping, accept/reject, box bounds, no host sync."""

from __future__ import annotations

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.linearize import Linearization, linearize
from difftori_isaac.trajopt.problem import TrajOptProblem

_DAMPING_MIN, _DAMPING_MAX = 1e-7, 1e7


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    Differentiates the last iterations in the modes ``truncated`` and ``unroll``; ``implicit`` is left to the layer.
    """
    recorded = {"implicit": 0, "truncated": config.backward_iterations, "unroll": config.iterations}
    num_recorded = min(recorded[config.backward_mode], config.iterations) if differentiable else 0

    actions = problem.project(warm_start)
    cost = problem.detached().cost(actions.detach()).detach()
    damping = torch.full_like(cost, config.damping)
    accepted = torch.zeros_like(cost, dtype=torch.int64)
    for iteration in range(config.iterations):
        if iteration < config.iterations - num_recorded:
            with torch.no_grad():
                actions, cost, damping, accepted = _iterate(problem, actions, cost, damping, accepted, config)
        else:
            actions, cost, damping, accepted = _iterate(problem, actions, cost, damping, accepted, config)
    return actions, accepted


def _iterate(
    problem: TrajOptProblem,
    actions: torch.Tensor,
    cost: torch.Tensor,
    damping: torch.Tensor,
    accepted: torch.Tensor,
    config: TrajOptConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One Levenberg-Marquardt iteration of every environment."""
    linearization = linearize(problem, actions)
    gradient = linearization.gradient.view_as(actions)
    free = problem.free(actions, gradient)
    candidate = problem.project(actions - newton_step(linearization, free, damping).view_as(actions))
    with torch.no_grad():
        candidate_cost = problem.cost(candidate)
        moving = (gradient * free).abs().amax(dim=(1, 2)) > config.tolerance * problem.prior_weight**2
        decreased = candidate_cost <= cost * (1.0 + 8.0 * torch.finfo(cost.dtype).eps)  # up to rounding
        accept = moving & decreased
        factor = torch.where(decreased, config.damping_down, config.damping_up)
        damping = torch.where(moving, (damping * factor).clamp(_DAMPING_MIN, _DAMPING_MAX), damping)
        cost = torch.where(accept, candidate_cost, cost)
    return torch.where(accept[:, None, None], candidate, actions), cost, damping, accepted + accept


def newton_step(linearization: Linearization, free: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Solve ``(H + damping) step = gradient`` on the free components, shape (num_envs, horizon * action_dim)."""
    factor = free_factor(linearization.hessian, free, damping)
    gradient = linearization.gradient * free.flatten(1)
    return torch.cholesky_solve(gradient[..., None], factor)[..., 0]


def free_factor(hessian: torch.Tensor, free: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Cholesky factor of the damped Hessian with the rows and columns of held components replaced by the identity."""
    mask = free.flatten(1).to(hessian.dtype)
    damping = torch.as_tensor(damping, dtype=hessian.dtype, device=hessian.device).reshape(-1, 1)
    masked = hessian * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(mask * damping + (1.0 - mask))
    return torch.linalg.cholesky_ex(masked).L
