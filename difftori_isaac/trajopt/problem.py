"""What is optimised: the action sequence of a least-squares shooting problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch


class TrajOptModel(Protocol):
    """Dynamics and residuals of a trajectory-optimization problem, batched over environments.

    Every method is a differentiable function of its arguments and of whatever parameters the model holds, treats
    each row on its own, and can be traced by :mod:`torch.func`. Solvers ask about any number of rows, so that what
    differs between environments, such as a mass, has to be a component of the state.
    """

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, shape (num_envs, state_dim), of states ``z`` under actions ``a``, (num_envs, action_dim)."""
        ...

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Residual φ of one step, shape (num_envs, num_residuals)."""
        ...

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """Residual ψ of the last state, shape (num_envs, num_terminal_residuals)."""
        ...


WeightGradients = Mapping[torch.Tensor, torch.Tensor]
"""By weight, the gradient that its gradient is added to."""


class Along(NamedTuple):
    """The derivative of a function along one tangent of its arguments, and the way back to its states."""

    tangent: torch.Tensor
    """Shape (num_envs, out_dim)."""
    pull: Callable[[torch.Tensor], torch.Tensor]
    """Cotangents of value and tangent, (2, num_envs, out_dim), to those of the states, (2, num_envs, state_dim).

    What they are for the weights is added to the gradients that :attr:`Derivatives.along` was given.
    """


class Derivatives(NamedTuple):
    """A function of states, or of states and actions, and its Jacobian as products with stacks of k vectors."""

    value: torch.Tensor
    """Shape (num_envs, out_dim)."""
    push: Callable[[torch.Tensor], torch.Tensor]
    """Tangents of the states, shape (k, num_envs, state_dim), to those of the value, shape (k, num_envs, out_dim).

    Those of each component of the actions, if there are any, come after them: (k + action_dim, num_envs, out_dim).
    """
    pull: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    """Cotangents of the value, shape (k, num_envs, out_dim), to one stack per argument."""
    along: Callable[..., Along] | None = None
    """From :data:`WeightGradients` and a tangent of each argument; without autograd, ``None`` if only that knows."""


@runtime_checkable
class StructuredModel(Protocol):
    """A :class:`TrajOptModel` that knows its derivatives better than automatic differentiation does.

    It holds nothing that belongs to single environments, so that some of a batch can be solved on their own.
    """

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of ``next``."""
        ...

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of ``stage_residual``."""
        ...

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        """Derivatives of ``terminal_residual``."""
        ...


@runtime_checkable
class SecondOrderModel(StructuredModel, Protocol):
    """A :class:`StructuredModel` all of whose derivatives know :attr:`Derivatives.along`."""

    def second_order_weights(self) -> tuple[torch.Tensor, ...]:
        """All weights that its derivatives depend on."""
        ...


@dataclass(frozen=True)
class TrajOptProblem:
    """A least-squares shooting problem of every environment on its own, over ``low <= a <= high``.

    Minimise ``½ Σ_t γ^t ‖φ(z_t, a_t)‖² + ½ γ^H ‖ψ(z_H)‖² + ½ Σ_t ‖w (a_t − ā_t)‖² + ½ Σ_{t≥1} ‖v (a_t − a_{t−1})‖²``,
    where ``z_{t+1} = next(z_t, a_t)``.
    """

    model: TrajOptModel
    """Dynamics and residuals."""
    z0: torch.Tensor
    """Initial states, shape (num_envs, state_dim)."""
    prior: torch.Tensor
    """Prior plan ā, shape (num_envs, horizon, action_dim)."""
    prior_weight: float
    """Weight w of the prior; above 0, so that the Gauss-Newton Hessian is positive definite."""
    discount: float = 1.0
    """Discount γ."""
    low: float | torch.Tensor | None = None
    """Lower bounds, broadcast to (num_envs, horizon, action_dim); ``None`` and −∞ are unbounded."""
    high: float | torch.Tensor | None = None
    """Upper bounds, broadcast to (num_envs, horizon, action_dim); ``None`` and ∞ are unbounded."""
    action_rate_weight: float = 0.0
    """Weight v of the changes of the action along the plan."""

    @property
    def horizon(self) -> int:
        """Number of planned actions."""
        return self.prior.shape[1]

    def replaced(self, **changes: object) -> TrajOptProblem:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def detached(self) -> TrajOptProblem:
        """A copy whose states and prior are cut from the autograd graph."""
        return self.replaced(z0=self.z0.detach(), prior=self.prior.detach())

    def rows(self, rows: torch.Tensor) -> TrajOptProblem:
        """The problems of some environments, by their indices."""

        def bound(value: float | torch.Tensor | None) -> float | torch.Tensor | None:
            per_env = isinstance(value, torch.Tensor) and value.ndim == 3 and len(value) == len(self.z0)
            return value[rows] if per_env else value  # type: ignore[index]

        return self.replaced(z0=self.z0[rows], prior=self.prior[rows], low=bound(self.low), high=bound(self.high))

    def rollout(self, actions: torch.Tensor) -> torch.Tensor:
        """States visited by ``actions``, shape (num_envs, horizon + 1, state_dim)."""
        zs = [self.z0]
        for t in range(self.horizon):
            zs.append(self.model.next(zs[-1], actions[:, t]))
        return torch.stack(zs, dim=1)

    def residual(self, actions: torch.Tensor) -> torch.Tensor:
        """Stacked weighted residuals: steps, terminal state, actions; shape (num_envs, num_residuals)."""
        z, rows, scale = self.z0, [], 1.0
        for t in range(self.horizon):
            rows.append(scale * self.model.stage_residual(z, actions[:, t]))
            z = self.model.next(z, actions[:, t])
            scale *= self.discount**0.5
        rows.append(scale * self.model.terminal_residual(z))
        return torch.cat((*rows, self.action_residual(actions)), dim=1)

    def action_residual(self, actions: torch.Tensor) -> torch.Tensor:
        """Weighted residuals of the actions themselves: prior and action rate, shape (num_envs, num_rows)."""
        rows = self.prior_weight * (actions - self.prior)
        if self.action_rate_weight > 0.0:
            rows = torch.cat((rows, self.action_rate_weight * actions.diff(dim=1)), dim=1)
        return rows.flatten(1)

    def action_cost(self, actions: torch.Tensor) -> torch.Tensor:
        """``½‖action_residual‖²``, shape (num_envs,)."""
        return 0.5 * self.action_residual(actions).square().sum(dim=1)

    def action_gradient(self, actions: torch.Tensor) -> torch.Tensor:
        """Gradient of :meth:`action_cost`, of the shape of ``actions``."""
        gradient = self.prior_weight**2 * (actions - self.prior)
        return gradient if self.action_rate_weight == 0.0 else gradient + self._rate_hessian(actions) @ actions

    def action_hessian(self, actions: torch.Tensor) -> torch.Tensor:
        """Hessian of :meth:`action_cost`, shape (n, n) for n numbers of a plan: constant and positive definite."""
        curvature = self.prior_weight**2 * torch.eye(self.horizon, dtype=actions.dtype, device=actions.device)
        if self.action_rate_weight > 0.0:
            curvature = curvature + self._rate_hessian(actions)
        return torch.kron(curvature, torch.eye(actions.shape[2], dtype=actions.dtype, device=actions.device))

    def _rate_hessian(self, actions: torch.Tensor) -> torch.Tensor:
        """Second derivative of the action-rate block along one component, shape (horizon, horizon)."""
        identity = torch.eye(self.horizon, dtype=actions.dtype, device=actions.device)
        difference = self.action_rate_weight * identity.diff(dim=0)
        return difference.mT @ difference

    def cost(self, actions: torch.Tensor) -> torch.Tensor:
        """``½‖residual‖²`` of each environment, shape (num_envs,)."""
        return 0.5 * self.residual(actions).square().sum(dim=1)

    def rounding(self, cost: torch.Tensor) -> torch.Tensor:
        """Changes of a cost that rounding alone explains, of its shape."""
        return 8.0 * torch.finfo(cost.dtype).eps * cost.abs()

    def project(self, actions: torch.Tensor) -> torch.Tensor:
        """The closest actions within the bounds."""
        if self.low is not None:
            actions = torch.maximum(actions, torch.as_tensor(self.low, dtype=actions.dtype, device=actions.device))
        if self.high is not None:
            actions = torch.minimum(actions, torch.as_tensor(self.high, dtype=actions.dtype, device=actions.device))
        return actions

    def slack(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest and the largest step that stay within the bounds, of the shape of ``actions``."""
        low = torch.full_like(actions, -torch.inf) if self.low is None else self.low - actions
        high = torch.full_like(actions, torch.inf) if self.high is None else self.high - actions
        return low, high

    def free(self, actions: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Components that a bound does not hold, as bool of the shape of ``actions``.

        A bound holds a component that lies on it while the cost decreases beyond it (``gradient`` points inwards).
        """
        free = torch.ones_like(actions, dtype=torch.bool)
        if self.low is not None:
            free = free & ~((actions <= self.low) & (gradient > 0))
        if self.high is not None:
            free = free & ~((actions >= self.high) & (gradient < 0))
        return free
