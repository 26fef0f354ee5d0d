"""Batched projected Levenberg-Marquardt in torch: per-environment damping, accept/reject, box bounds, no host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch

from difftori_isaac.trajopt.box_qp import box_step
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.linearize import linearize
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
    with torch.no_grad():
        cost = problem.cost(actions)
    state = _State(actions, cost, torch.full_like(cost, config.damping), torch.zeros_like(cost, dtype=torch.int64))
    for iteration in range(config.iterations):
        recorded = iteration >= config.iterations - num_recorded
        with torch.set_grad_enabled(recorded):
            state, moving = _iterate(problem, state, config, freeze_converged=not recorded)
        if num_recorded == 0 and actions.device.type == "cpu" and not moving.any():
            break  # on a GPU the question would cost more than the iterations it saves
    return state.actions, state.accepted


class _State(NamedTuple):
    actions: torch.Tensor
    cost: torch.Tensor
    damping: torch.Tensor
    accepted: torch.Tensor


def _iterate(
    problem: TrajOptProblem, state: _State, config: TrajOptConfig, *, freeze_converged: bool
) -> tuple[_State, torch.Tensor]:
    """One Levenberg-Marquardt iteration of every environment; also tells which environments had not converged."""
    actions, cost, damping, accepted = state
    linearization = linearize(problem, actions)
    gradient = linearization.gradient.view_as(actions)
    diagonal = linearization.hessian.diagonal(dim1=1, dim2=2)
    damped = linearization.hessian + torch.diag_embed((damping * diagonal.mean(dim=1))[:, None].expand_as(diagonal))
    if problem.low is None and problem.high is None:
        factor = torch.linalg.cholesky_ex(damped).L
        step = -torch.cholesky_solve(linearization.gradient[..., None], factor)[..., 0]
    else:
        low, high = problem.slack(actions)
        step = box_step(damped, linearization.gradient, low.flatten(1), high.flatten(1))
    candidate = problem.project(actions + step.view_as(actions))
    with torch.no_grad():
        candidate_cost = problem.cost(candidate)
        jacobi_step = gradient * problem.free(actions, gradient) / diagonal.view_as(actions)
        moving = jacobi_step.abs().amax(dim=(1, 2)) > 0.1 * config.tolerance
        decreased = candidate_cost <= cost * (1.0 + 8.0 * torch.finfo(cost.dtype).eps)  # up to rounding
        accept = decreased & moving if freeze_converged else decreased
        damping = damping * torch.where(decreased, config.damping_down, config.damping_up)
    return _State(
        actions=torch.where(accept[:, None, None], candidate, actions),
        cost=torch.where(accept, candidate_cost, cost),
        damping=damping.clamp(_DAMPING_MIN, _DAMPING_MAX),
        accepted=accepted + accept,
    ), moving
