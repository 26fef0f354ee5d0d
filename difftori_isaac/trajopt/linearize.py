"""Cost, gradient and Gauss-Newton Hessian of a problem, by whichever direction through time is cheaper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.func import jvp, vjp, vmap
from torch.nn.functional import pad

from difftori_isaac.trajopt.problem import TrajOptProblem


class Linearization(NamedTuple):
    """A problem's cost and its first and (Gauss-Newton) second derivatives at some actions."""

    cost: torch.Tensor
    """Cost, shape (num_envs,)."""
    gradient: torch.Tensor
    """Cost gradient, shape (num_envs, horizon * action_dim)."""
    hessian: torch.Tensor
    """Gauss-Newton Hessian ``JᵀJ + w²``, shape (num_envs, horizon * action_dim, horizon * action_dim)."""


def linearize(problem: TrajOptProblem, actions: torch.Tensor) -> Linearization:
    """Linearize the residuals at ``actions``, shape (num_envs, horizon, action_dim).

    Differentiable with respect to everything when autograd records.
    """
    with torch.no_grad():
        num_residuals = problem.model.stage_residual(problem.z0[:1], actions[:1, 0]).shape[1]
    accumulate = _forward if actions.shape[2] < num_residuals else _reverse
    residual, jacobian = accumulate(problem, actions)

    offset = (actions - problem.prior).flatten(1)
    weight = problem.prior_weight**2
    identity = torch.eye(offset.shape[1], dtype=offset.dtype, device=offset.device)
    return Linearization(
        cost=0.5 * (residual.square().sum(dim=1) + weight * offset.square().sum(dim=1)),
        gradient=(jacobian.mT @ residual[..., None])[..., 0] + weight * offset,
        hessian=jacobian.mT @ jacobian + weight * identity,
    )


def _reverse(problem: TrajOptProblem, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals (num_envs, R) and Jacobian (num_envs, R, horizon * action_dim), last step first.

    The rows of all later residuals are pulled back through one step together: the work of a step grows with the
    number of residuals behind it.
    """
    z, scale, stages = problem.z0, 1.0, []
    for t in range(problem.horizon):
        phi, pull_phi = _pullback(problem.model.stage_residual, z, actions[:, t])
        z, pull_next = _pullback(problem.model.next, z, actions[:, t])
        stages.append((scale, phi, pull_phi, pull_next))
        scale *= problem.discount**0.5
    psi, pull_psi = _pullback(problem.model.terminal_residual, z)

    residuals, columns = [scale * psi], []
    (z_rows,) = pull_psi(_identity(psi, scale))
    for scale, phi, pull_phi, pull_next in reversed(stages):
        next_z_rows, next_a_rows = pull_next(z_rows)
        phi_z_rows, phi_a_rows = pull_phi(_identity(phi, scale))
        residuals.append(scale * phi)
        columns.append(torch.cat((next_a_rows, phi_a_rows)))
        z_rows = torch.cat((next_z_rows, phi_z_rows))
    num_rows = z_rows.shape[0]
    columns = [pad(rows, (0, 0, 0, 0, 0, num_rows - rows.shape[0])) for rows in reversed(columns)]
    return torch.cat(residuals, dim=1), torch.cat(columns, dim=2).transpose(0, 1)


def _forward(problem: TrajOptProblem, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals (num_envs, R) and Jacobian (num_envs, R, horizon * action_dim), first step first.

    The tangents of all earlier actions are pushed through one step together: the work of a step grows with the number
    of actions before it.
    """
    (num_envs, horizon, action_dim), model = actions.shape, problem.model

    def stage(z: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.next(z, a), model.stage_residual(z, a)

    z, scale = problem.z0, 1.0
    z_tangents = actions.new_zeros(0, *z.shape)
    residuals, rows = [], []
    for t in range(horizon):
        a = actions[:, t]
        a_tangents = torch.cat((a.new_zeros(t * action_dim, num_envs, action_dim), _identity(a, 1.0)))
        z_tangents = torch.cat((z_tangents, z.new_zeros(action_dim, *z.shape)))
        (z_next, phi), (z_tangents, phi_tangents) = _push(stage, (z, a), (z_tangents, a_tangents))
        residuals.append(scale * phi)
        rows.append(scale * phi_tangents)
        z = z_next
        scale *= problem.discount**0.5
    psi, psi_tangents = _push(model.terminal_residual, (z,), (z_tangents,))
    residuals.append(scale * psi)
    rows.append(scale * psi_tangents)
    size = horizon * action_dim
    rows = [pad(tangents, (0, 0, 0, 0, 0, size - tangents.shape[0])) for tangents in rows]
    return torch.cat(residuals, dim=1), torch.cat(rows, dim=2).permute(1, 2, 0)


def _pullback(function: Callable[..., torch.Tensor], *primals: torch.Tensor) -> tuple[torch.Tensor, Callable[..., Any]]:
    """Value of ``function`` and what pulls a stack of cotangents back through it."""
    value, pull, *_ = vjp(function, *primals)
    return value, vmap(pull)


def _push(function: Callable[..., Any], primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Value of ``function`` and its derivative along a stack of tangents."""
    return function(*primals), vmap(lambda *tangent: jvp(function, primals, tangent)[1])(*tangents)


def _identity(output: torch.Tensor, scale: float) -> torch.Tensor:
    """One scaled unit row for each of the k components of ``output`` (num_envs, k), shape (k, num_envs, k)."""
    k = output.shape[1]
    return scale * torch.eye(k, dtype=output.dtype, device=output.device)[:, None].expand(k, output.shape[0], k)
