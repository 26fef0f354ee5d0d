"""Batched projected Levenberg-Marquardt in torch: per-environment damping, accept/reject, box bounds, no host sync."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from difftori_isaac.trajopt import cholesky
from difftori_isaac.trajopt.box_qp import box_step
from difftori_isaac.trajopt.config import DAMPING_MAX, DAMPING_MIN, TrajOptConfig
from difftori_isaac.trajopt.cuda_graph import replayed
from difftori_isaac.trajopt.host import capturable, readable
from difftori_isaac.trajopt.linearize import Linearization, linearize, zeroed
from difftori_isaac.trajopt.optimality import Optimality, conclude, optimality
from difftori_isaac.trajopt.problem import StructuredModel, TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult, all_finite
from difftori_isaac.trajopt.trajectory import Trajectory

_MIN_GATHERED_FROM = 256
"""Batches from which environments that still move are gathered; an iteration of smaller ones costs overhead alone."""


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
    descend = partial(_descend, config=config, first_recorded=first_recorded)
    trajectory = None
    if first_recorded == config.iterations and config.cuda_graph and capturable(warm_start):
        tensors = replayed(lambda *given: descend(*given)[0], problem, warm_start, config)
    else:
        tensors, trajectory = descend(problem, warm_start)
    actions, accepted, *end = tensors
    implicit = differentiable and config.backward_mode == "implicit"
    end = Optimality(*end)
    return conclude(problem, actions, accepted, config, implicit=implicit, end=end, trajectory=trajectory)


def _descend(
    problem: TrajOptProblem, warm_start: torch.Tensor, *, config: TrajOptConfig, first_recorded: int
) -> tuple[tuple[torch.Tensor, ...], Trajectory | None]:
    """The last iterate, accepted iterations and what :class:`Optimality` holds; and its rollout, if it is known."""
    actions = problem.project(warm_start)
    if first_recorded == 0:
        point = _recorded(problem, actions)
    else:
        with torch.no_grad():
            point = linearize(problem, actions)
    damping = torch.full_like(point.cost, config.damping).detach()
    state = _State(actions, point, damping, torch.zeros_like(damping, dtype=torch.int64))
    if first_recorded == config.iterations and readable(actions):
        with torch.no_grad():
            state = _settled(problem, state, config)
    else:
        for iteration in range(config.iterations):
            recorded = iteration >= first_recorded
            if iteration == first_recorded > 0:
                state = state._replace(point=_recorded(problem, state.actions, point=state.point))
            last = iteration + 1 == config.iterations
            allowed = torch.ones_like(state.accepted, dtype=torch.bool) if recorded else None
            with torch.set_grad_enabled(recorded):
                state = _iterate(problem, state, config, iteration, allowed, record_point=recorded and not last)
    end = optimality(problem, state.actions, state.point)
    return (state.actions, state.accepted, *end), state.point.trajectory


class _State(NamedTuple):
    actions: torch.Tensor
    point: Linearization
    damping: torch.Tensor
    accepted: torch.Tensor

    def rows(self, rows: torch.Tensor) -> _State:
        """That of some environments."""
        cost, gradient, hessian = (tensor[rows] for tensor in self.point.tensors)
        point = Linearization(cost, gradient, hessian)
        return _State(self.actions[rows], point, self.damping[rows], self.accepted[rows])

    def with_rows(self, rows: torch.Tensor, part: _State) -> _State:
        """This one with that of some environments replaced."""

        def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return old.index_copy(0, rows, new)

        cost, gradient, hessian = map(put, self.point.tensors, part.point.tensors)
        return _State(
            put(self.actions, part.actions),
            Linearization(cost, gradient, hessian),
            put(self.damping, part.damping),
            put(self.accepted, part.accepted),
        )


def _settled(problem: TrajOptProblem, state: _State, config: TrajOptConfig, first: int = 0) -> _State:
    """What the iterations from the ``first`` on lead to, of which environments that have converged need no more."""
    for iteration in range(first, config.iterations):
        moving = _moving(problem, state, config)
        rows = moving.nonzero()[:, 0]
        if len(rows) == 0:
            break
        if _MIN_GATHERED_FROM <= len(moving) >= 2 * len(rows) and isinstance(problem.model, StructuredModel):
            return state.with_rows(rows, _settled(problem.rows(rows), state.rows(rows), config, iteration))
        state = _iterate(problem, state, config, iteration, moving)
    return state


def _iterate(
    problem: TrajOptProblem,
    state: _State,
    config: TrajOptConfig,
    iteration: int,
    allowed: torch.Tensor | None,
    *,
    record_point: bool = False,
) -> _State:
    """One iteration; only environments of ``allowed`` may move, or those that the step moves visibly.

    The damping of others falls, so that a later step may move them.
    """
    candidate = _step(problem, state)
    if allowed is None:
        step_norm = (candidate - state.actions).abs().amax(dim=(1, 2))
        allowed = _visible(step_norm, config) | step_norm.isnan()  # which is rejected, so that the damping rises
    candidate = torch.where(allowed[:, None, None], candidate, state.actions)
    hessian = state.point.hessian if (iteration + 1) % config.hessian_every > 0 else None
    if record_point:
        point = _recorded(problem, candidate, hessian)
    else:
        with torch.no_grad():
            point = linearize(problem, candidate, hessian)
    return _accept(problem, state, candidate, point, config, allowed)


def _recorded(
    problem: TrajOptProblem,
    actions: torch.Tensor,
    hessian: torch.Tensor | None = None,
    point: Linearization | None = None,
) -> Linearization:
    """:func:`linearize`, recorded by autograd; of zeros, at a cost of NaN, where something is not finite."""
    with torch.enable_grad():
        if readable(actions):
            found = linearize(problem, actions, hessian)
            if all_finite(*found.tensors).all():
                return found
        problem, actions, broken = zeroed(problem, actions, point)
        found = linearize(problem, actions, hessian)
    return found._replace(cost=found.cost.masked_fill(broken, torch.nan))


def _moving(problem: TrajOptProblem, state: _State, config: TrajOptConfig) -> torch.Tensor:
    """Environments that have not converged: where a Newton step would move an action visibly; on a CPU.

    Few have to be solved for: a Jacobi step that does tells of the others, and the longest Newton step that a
    diagonally dominant Hessian leaves room for (Varah, 1975).
    """
    actions, point, *_ = state
    with torch.no_grad():
        gradient = (point.gradient * problem.free(actions, point.gradient.view_as(actions)).flatten(1)).abs()
        diagonal = point.hessian.diagonal(dim1=1, dim2=2)
        moving = _visible((gradient / diagonal).amax(dim=1), config)
        if moving.all():
            return moving
        dominance = (2.0 * diagonal - point.hessian.abs().sum(dim=2)).clamp(min=torch.finfo(gradient.dtype).tiny)
        rows = (_visible((gradient / dominance).amax(dim=1), config) & ~moving).nonzero()[:, 0]
        if len(rows) > 0:
            part = state.rows(rows)
            step_norm = optimality(problem.rows(rows), part.actions, part.point).step_norm
            moving[rows] = _visible(step_norm, config)
        return moving


def _visible(step_norm: torch.Tensor, config: TrajOptConfig) -> torch.Tensor:
    """Whether steps are long enough to count for the tolerance, of the shape of their largest components."""
    return step_norm > 0.1 * config.tolerance


def _step(problem: TrajOptProblem, state: _State) -> torch.Tensor:
    """The minimum of the damped quadratic model within the bounds."""
    actions, (_, gradient, hessian, _), damping, _ = state
    damped = cholesky.shifted(hessian, damping * hessian.diagonal(dim1=1, dim2=2).mean(dim=1))
    if problem.low is None and problem.high is None:
        return actions - cholesky.solution(damped, gradient).view_as(actions)
    low, high = problem.slack(actions)
    step = box_step(damped, gradient, low.flatten(1), high.flatten(1)).view_as(actions)
    # onto a bound exactly, whatever the rounding of the sum
    step = step.masked_fill(step <= low, -torch.inf).masked_fill(step >= high, torch.inf)
    return problem.project(actions + step)


def _accept(
    problem: TrajOptProblem,
    state: _State,
    candidate: torch.Tensor,
    point: Linearization,
    config: TrajOptConfig,
    allowed: torch.Tensor,
) -> _State:
    """Take the candidate where its cost is not higher, and adapt the damping.

    It falls where the cost fell as the quadratic model said, and rises where by less than half of that (Madsen, Nielsen
    and Tingleff, 2004, section 3.2): Gauss-Newton's Hessian leaves curvature out, and may be an old one.
    """
    with torch.no_grad():
        cost, rounding = state.point.cost, problem.rounding(state.point.cost)
        decreased = point.cost <= cost + rounding
        accept = decreased & allowed
        step = (candidate - state.actions).flatten(1)
        curved = (state.point.hessian @ step[..., None])[..., 0]
        predicted = -(step * (state.point.gradient + 0.5 * curved)).sum(dim=1)
        gain = torch.where(predicted > rounding, (cost - point.cost) / predicted, 1.0).clamp(0.0, 1.0)
        fall = (1.0 - (2.0 * gain - 1.0) ** 3).clamp(min=config.damping_down)
        damping = state.damping * torch.where(decreased, fall, config.damping_up)
    none_rejected = readable(decreased) and bool((decreased | ~allowed).all())
    return _State(
        actions=torch.where(accept[:, None, None], candidate, state.actions),
        point=point.where(accept, state.point)._replace(trajectory=point.trajectory if none_rejected else None),
        damping=damping.clamp(DAMPING_MIN, DAMPING_MAX),
        accepted=state.accepted + accept,
    )
