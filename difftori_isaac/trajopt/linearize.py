"""Cost, gradient and Hessian of a problem: Gauss-Newton's, by the cheaper directions through time, or a return's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from difftori_isaac.trajopt.curvature import derivatives
from difftori_isaac.trajopt.fused import FusedProblem
from difftori_isaac.trajopt.host import readable
from difftori_isaac.trajopt.objectives import ReturnProblem
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import all_finite, zero_where
from difftori_isaac.trajopt.trajectory import Trajectory, by_step, differentiated, simulate, unit_rows


class Linearization(NamedTuple):
    """A problem's cost and its first and second derivatives at some actions."""

    cost: torch.Tensor
    """Cost, shape (num_envs,)."""
    gradient: torch.Tensor
    """Cost gradient, shape (num_envs, horizon * action_dim)."""
    hessian: torch.Tensor
    """Positive definite Hessian, shape (num_envs, horizon * action_dim, horizon * action_dim)."""
    trajectory: Trajectory | None = None
    """The rollout that they are from, if it was needed, where the host may see whether a solve ends with it."""

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cost, gradient and Hessian."""
        return self[:3]

    def where(self, mask: torch.Tensor, other: Linearization) -> Linearization:
        """This one in the environments of ``mask``, shape (num_envs,), ``other`` elsewhere; without a rollout."""
        return Linearization(
            cost=torch.where(mask, self.cost, other.cost),
            gradient=torch.where(mask[:, None], self.gradient, other.gradient),
            hessian=self.hessian
            if self.hessian is other.hessian
            else torch.where(mask[:, None, None], self.hessian, other.hessian),
        )


def linearize(problem: TrajOptProblem, actions: torch.Tensor, hessian: torch.Tensor | None = None) -> Linearization:
    """Linearize residuals, or expand a return to second order, at ``actions``, shape (num_envs, horizon, action_dim).

    Differentiable with respect to everything when autograd records.

    Args:
        problem: The problem.
        actions: Where.
        hessian: A Hessian to keep instead of a new one: cost and gradient alone cost a few cost evaluations, whatever
            the horizon, the Hessian one for every two rows of residuals.

    Raises:
        ValueError: If the model's residuals are of another shape than :class:`TrajOptModel` says.
    """
    if isinstance(problem, ReturnProblem):
        return Linearization(*derivatives(problem, actions, hessian))
    trajectory = None
    if hessian is not None and isinstance(problem, FusedProblem) and not torch.is_grad_enabled():
        residual_cost, gradient = problem.residual_gradient(actions)
    elif hessian is not None:
        trajectory = simulate(problem, actions)
        residual_cost, gradient = _adjoint(trajectory)
    else:
        with torch.no_grad():
            shape = problem.model.stage_residual(problem.z0[:1], actions[:1, 0]).shape
        if len(shape) != 2:
            raise ValueError(
                f"the residual of a step of 1 environment has shape {tuple(shape)}; allowed: (1, num_residuals)"
            )
        if actions.shape[2] < shape[1]:
            residual, jacobian = _forward(problem, actions)
        else:
            trajectory = simulate(problem, actions)
            residual, jacobian = _reverse(trajectory, actions)
        residual_cost, gradient = 0.5 * residual.square().sum(dim=1), (residual[:, None] @ jacobian)[:, 0]
        hessian = torch.baddbmm(problem.action_hessian(actions), jacobian.mT, jacobian)
    return Linearization(
        cost=residual_cost + problem.action_cost(actions),
        gradient=gradient + problem.action_gradient(actions).flatten(1),
        hessian=hessian,
        trajectory=trajectory if readable(actions) and not torch.is_grad_enabled() else None,
    )


def zeroed(
    problem: TrajOptProblem, actions: torch.Tensor, point: Linearization | None = None
) -> tuple[TrajOptProblem, torch.Tensor, torch.Tensor]:
    """A problem and actions to record; zero where what is known at ``actions`` is not finite, and where that is.

    In a backward pass, 0 times an infinite factor of one environment would be NaN in the weights of all.

    Args:
        problem: The problem.
        actions: Where, shape (num_envs, horizon, action_dim).
        point: The linearization there, if it is known; otherwise cost and gradient are computed.

    Returns:
        Problem, actions and a mask of environments, bool of shape (num_envs,).
    """
    known = point and point.tensors
    if known is None:
        with torch.no_grad():  # any Hessian: a new one would cost more
            known = linearize(problem, actions, problem.action_hessian(actions)).tensors[:2]
    broken = ~all_finite(*known)
    z0, prior = zero_where(broken, problem.z0), zero_where(broken, problem.prior)
    return problem.replaced(z0=z0, prior=prior), zero_where(broken, actions), broken


def _adjoint(trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared residuals (num_envs,) and their gradient (num_envs, horizon * action_dim), last step first."""
    steps, phi, psi, scales, terminal_scale = trajectory
    horizon, num_envs = len(steps), psi.value.shape[0]
    terminal_row, rows = terminal_scale**2 * psi.value, scales.square() * phi.value
    cost = (rows * phi.value).sum(dim=1).view(-1, num_envs).sum(dim=0) + (terminal_row * psi.value).sum(dim=1)
    phi_z_rows, phi_a_rows = (by_step(pulled, horizon, dim=1) for pulled in phi.pull(rows[None]))
    (z_row,) = psi.pull(terminal_row[None])
    columns = []
    for step, phi_z_row, phi_a_row in zip(steps[::-1], phi_z_rows[::-1], phi_a_rows[::-1], strict=True):
        next_z_row, next_a_row = step.pull(z_row)
        columns.append(next_a_row + phi_a_row)
        z_row = next_z_row + phi_z_row
    return 0.5 * cost, torch.cat(columns[::-1], dim=2)[0]


def _reverse(trajectory: Trajectory, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals (num_envs, R) and Jacobian (num_envs, R, horizon * action_dim), last step first.

    The rows of all later residuals are pulled back through one step together: the work of a step grows with the
    number of residuals behind it. Through the first steps, the tangents of the few actions before are pushed instead,
    and rows and tangents are multiplied where they meet.
    """
    horizon, dim = actions.shape[1:]
    steps, phi, psi, scales, terminal_scale = trajectory
    k = phi.value.shape[1]
    residual = torch.cat((*by_step(scales * phi.value, horizon), terminal_scale * psi.value), dim=1)
    phi_z_rows, phi_a_rows = (by_step(pulled, horizon, dim=1) for pulled in phi.pull(scales * unit_rows(phi.value)))
    jacobian = actions.new_zeros(*residual.shape, horizon * dim)
    meeting = _meeting_step(horizon, dim, k, psi.value.shape[1])
    (z_rows,) = psi.pull(terminal_scale * unit_rows(psi.value))
    for t in reversed(range(meeting, horizon)):
        z_rows, a_rows = steps[t].pull(z_rows)
        jacobian[:, t * k :, t * dim : (t + 1) * dim] = torch.cat((phi_a_rows[t], a_rows)).transpose(0, 1)
        z_rows = torch.cat((phi_z_rows[t], z_rows))
    z_tangents = actions.new_zeros(0, *steps[0].value.shape)
    for t in range(meeting):
        products = torch.cat((_products(phi_z_rows[t], z_tangents), phi_a_rows[t].transpose(0, 1)), dim=2)
        jacobian[:, t * k : (t + 1) * k, : (t + 1) * dim] = products
        z_tangents = steps[t].push(z_tangents)
    jacobian[:, meeting * k :, : meeting * dim] = _products(z_rows, z_tangents)
    return residual, jacobian


def _meeting_step(horizon: int, action_dim: int, num_rows: int, num_last_rows: int) -> int:
    """Steps to push tangents through, so that the fewest vectors are pushed and pulled through the dynamics."""

    def num_vectors(meeting: int) -> int:
        pushed = sum(action_dim * (t + 1) for t in range(meeting))
        return pushed + sum(num_last_rows + num_rows * (horizon - 1 - t) for t in range(meeting, horizon))

    return min(range(horizon + 1), key=num_vectors)


def _products(rows: torch.Tensor, tangents: torch.Tensor) -> torch.Tensor:
    """Products of r rows and k tangents, shapes (r, num_envs, dim) and (k, num_envs, dim), as (num_envs, r, k)."""
    return rows.transpose(0, 1) @ tangents.permute(1, 2, 0)


def _forward(problem: TrajOptProblem, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals (num_envs, R) and Jacobian (num_envs, R, horizon * action_dim), first step first.

    The tangents of all earlier actions are pushed through one step together: the work of a step grows with the number
    of actions before it.
    """
    model, size = differentiated(problem.model), actions[0].numel()
    z, scale = problem.z0, 1.0
    z_tangents = actions.new_zeros(0, *z.shape)
    residuals, rows = [], []
    for t in range(problem.horizon):
        a = actions[:, t]
        phi, step = model.stage_derivatives(z, a), model.next_derivatives(z, a)
        residuals.append(scale * phi.value)
        rows.append(scale * phi.push(z_tangents))
        z, z_tangents = step.value, step.push(z_tangents)
        scale *= problem.discount**0.5
    psi = model.terminal_derivatives(z)
    residuals.append(scale * psi.value)
    rows.append(scale * psi.push(z_tangents))
    rows = [pad(tangents, (0, 0, 0, 0, 0, size - tangents.shape[0])) for tangents in rows]
    return torch.cat(residuals, dim=1), torch.cat(rows, dim=2).permute(1, 2, 0)
