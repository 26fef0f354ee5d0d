"""Batched projected Levenberg-Marquardt in torch: per-environment damping, accept/reject, box bounds, no host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor

from difftori_isaac.trajopt.box_qp import box_step
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.linearize import Linearization, linearize
from difftori_isaac.trajopt.optimality import conclude
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult

_DAMPING_MIN, _DAMPING_MAX = 1e-7, 1e7


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> SolverResult:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    Differentiates the last iterations in the modes ``truncated`` and ``unroll``, the solution in ``implicit``.
    """
    num_recorded = {"implicit": 0, "truncated": config.backward_iterations, "unroll": config.iterations}
    first_recorded = config.iterations - min(num_recorded[config.backward_mode], config.iterations)
    if not differentiable:
        first_recorded = config.iterations

    actions = problem.project(warm_start)
    with torch.set_grad_enabled(first_recorded == 0):
        point = linearize(problem, actions)
    damping = torch.full_like(point.cost, config.damping).detach()
    state = _State(actions, point, damping, torch.zeros_like(damping, dtype=torch.int64))
    for iteration in range(config.iterations):
        recorded = iteration >= first_recorded
        if iteration == first_recorded > 0:
            with torch.enable_grad():
                state = state._replace(point=linearize(problem, state.actions))
        moving = _moving(problem, state, config)
        if first_recorded == config.iterations and _readable(moving) and not moving.any():
            break
        with torch.set_grad_enabled(recorded):
            candidate = _step(problem, state)
            with torch.set_grad_enabled(recorded and iteration + 1 < config.iterations):
                keep = (iteration + 1) % config.hessian_every > 0
                point = linearize(problem, candidate, state.point.hessian if keep else None)
            state = _accept(problem, state, candidate, point, config, torch.ones_like(moving) if recorded else moving)
    implicit = differentiable and config.backward_mode == "implicit"
    return conclude(problem, state.actions, state.accepted, config, implicit=implicit, linearization=state.point)


def _readable(tensor: torch.Tensor) -> bool:
    """Whether its values are there for the asking: a GPU would have to be waited for, a trace has none."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)


class _State(NamedTuple):
    actions: torch.Tensor
    point: Linearization
    damping: torch.Tensor
    accepted: torch.Tensor


def _moving(problem: TrajOptProblem, state: _State, config: TrajOptConfig) -> torch.Tensor:
    """Environments that have not converged: where a Jacobi step would move an action visibly."""
    with torch.no_grad():
        gradient = state.point.gradient.view_as(state.actions)
        diagonal = state.point.hessian.diagonal(dim1=1, dim2=2).view_as(state.actions)
        step = gradient * problem.free(state.actions, gradient) / diagonal
        return step.abs().amax(dim=(1, 2)) > 0.1 * config.tolerance


def _step(problem: TrajOptProblem, state: _State) -> torch.Tensor:
    """The minimum of the damped quadratic model within the bounds."""
    actions, (_, gradient, hessian), damping, _ = state
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    damped = hessian + torch.diag_embed((damping * diagonal.mean(dim=1))[:, None].expand_as(diagonal))
    if problem.low is None and problem.high is None:
        step = -torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky_ex(damped).L)[..., 0]
    else:
        low, high = problem.slack(actions)
        step = box_step(damped, gradient, low.flatten(1), high.flatten(1))
    return problem.project(actions + step.view_as(actions))


def _accept(
    problem: TrajOptProblem,
    state: _State,
    candidate: torch.Tensor,
    point: Linearization,
    config: TrajOptConfig,
    allowed: torch.Tensor,
) -> _State:
    """Take the candidate where its cost is not higher, and adapt the damping."""
    with torch.no_grad():
        cost = state.point.cost
        decreased = point.cost <= cost + problem.rounding(cost)
        accept = decreased & allowed
        damping = state.damping * torch.where(decreased, config.damping_down, config.damping_up)
    return _State(
        actions=torch.where(accept[:, None, None], candidate, state.actions),
        point=point.where(accept, state.point),
        damping=damping.clamp(_DAMPING_MIN, _DAMPING_MAX),
        accepted=state.accepted + accept,
    )
