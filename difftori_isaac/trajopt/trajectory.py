"""A plan rolled out through a model, with what its derivatives need."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.func import jvp, vjp, vmap

from difftori_isaac.trajopt.problem import (
    Along,
    Derivatives,
    StructuredModel,
    TrajOptModel,
    TrajOptProblem,
    WeightGradients,
)


class Trajectory(NamedTuple):
    """Derivatives along a rollout of N environments."""

    steps: list[Derivatives]
    """Of the next state, for each step."""
    phi: Derivatives
    """Of the residuals of all steps at once, as of one batch of horizon * N environments, step by step."""
    psi: Derivatives
    """Of the terminal residual."""
    scales: torch.Tensor
    """Square roots of the discounts of each row of ``phi``, shape (horizon * N, 1)."""
    terminal_scale: float
    """Square root of the discount of the terminal residual."""

    def pull_gradient(self, direction: torch.Tensor, grads: WeightGradients) -> torch.Tensor:
        """Gradient of ``d/dε C(actions + ε direction)`` for the initial states, shape (N, state_dim).

        ``C`` is half the squared residuals, summed over environments. Tangents are pushed through the rollout, and
        they and the states are pulled back together: forward over reverse (Pearlmutter, 1994), each layer one matrix
        product for both, in φ for all steps at once.

        Args:
            direction: Shape (N, horizon, action_dim).
            grads: Of each weight, to which the gradient for it is added.
        """
        z_tangent, z_tangents, steps = torch.zeros_like(self.steps[0].value), [], []
        for t, step in enumerate(self.steps):
            z_tangents.append(z_tangent)
            steps.append(_along(step, grads, z_tangent, direction[:, t]))
            z_tangent = steps[-1].tangent
        phi = _along(self.phi, grads, torch.cat(z_tangents), direction.transpose(0, 1).flatten(0, 1))
        psi = _along(self.psi, grads, z_tangent)
        # Of φ·δφ: δφ for φ, φ for δφ.
        phi_rows = phi.pull(self.scales.square() * torch.stack((phi.tangent, self.phi.value)))
        rows = psi.pull(self.terminal_scale**2 * torch.stack((psi.tangent, self.psi.value)))
        for step, phi_row in zip(steps[::-1], by_step(phi_rows, len(steps), dim=1)[::-1], strict=True):
            rows = phi_row + step.pull(rows)
        return rows[0]


def simulate(problem: TrajOptProblem, actions: torch.Tensor) -> Trajectory:
    """Roll ``actions`` out, shape (num_envs, horizon, action_dim)."""
    model, zs, steps = differentiated(problem.model), [problem.z0], []
    for t in range(problem.horizon):
        steps.append(model.next_derivatives(zs[-1], actions[:, t]))
        zs.append(steps[-1].value)
    times = torch.arange(problem.horizon, dtype=actions.dtype, device=actions.device)
    return Trajectory(
        steps=steps,
        phi=model.stage_derivatives(torch.cat(zs[:-1]), actions.transpose(0, 1).flatten(0, 1)),
        psi=model.terminal_derivatives(zs[-1]),
        scales=(problem.discount ** (0.5 * times)).repeat_interleave(actions.shape[0])[:, None],
        terminal_scale=problem.discount ** (0.5 * problem.horizon),
    )


def by_step(rows: torch.Tensor, horizon: int, dim: int = 0) -> tuple[torch.Tensor, ...]:
    """Views of what lies step by step along ``dim``; unlike ``split``, no size depends on a traced batch."""
    return rows.unflatten(dim, (horizon, rows.shape[dim] // horizon)).unbind(dim)


def differentiated(model: TrajOptModel) -> StructuredModel:
    """The model itself, if it knows its derivatives, or with those of automatic differentiation."""
    return model if isinstance(model, StructuredModel) and knows_derivatives(model) else _AutomaticDerivatives(model)


def knows_derivatives(model: StructuredModel) -> bool:
    """Whether its derivatives are those of its methods, and not of a method that a subclass has overridden since."""
    stages = ("next", "stage_residual", "terminal_residual")
    derivatives = ("next_derivatives", "stage_derivatives", "terminal_derivatives")
    return not any(overridden(model, *names) for names in zip(stages, derivatives, strict=True))


def overridden(model: object, method: str, *since: str) -> bool:
    """Whether the object, or a subclass of the class that defines attributes ``since``, defines a method anew."""
    for names in (getattr(model, "__dict__", {}), *map(vars, type(model).__mro__)):
        if not names.keys().isdisjoint(since):
            return False
        if method in names:
            return True
    return False


class _AutomaticDerivatives:
    """Any model's derivatives, by :mod:`torch.func`."""

    def __init__(self, model: TrajOptModel) -> None:
        self._model = model

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        return _automatic(self._model.next, z, a)

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        return _automatic(self._model.stage_residual, z, a)

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        return _automatic(self._model.terminal_residual, z)


def _automatic(function: Callable[..., torch.Tensor], *primals: torch.Tensor) -> Derivatives:
    value, pull, *_ = vjp(function, *primals)

    def push(z_tangents: torch.Tensor) -> torch.Tensor:
        units = [unit_rows(a) for a in primals[1:]]
        num_units = sum(len(unit) for unit in units)
        tangents = [torch.cat((z_tangents, z_tangents.new_zeros(num_units, *z_tangents.shape[1:])))]
        tangents += [torch.cat((unit.new_zeros(len(z_tangents), *unit.shape[1:]), unit)) for unit in units]
        return vmap(lambda *rows: jvp(function, primals, rows)[1])(*tangents)

    return Derivatives(value, push, vmap(pull))


def unit_rows(output: torch.Tensor) -> torch.Tensor:
    """One unit row for each of the k components of ``output`` (num_envs, k), shape (k, num_envs, k)."""
    k = output.shape[1]
    return torch.eye(k, dtype=output.dtype, device=output.device)[:, None].expand(k, output.shape[0], k)


def _along(derivatives: Derivatives, grads: WeightGradients, *tangents: torch.Tensor) -> Along:
    assert derivatives.along is not None, "a SecondOrderModel"
    return derivatives.along(grads, *tangents)
