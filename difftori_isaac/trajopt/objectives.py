"""Which problem a configuration poses: least squares, a return, or a return as one residual."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol, cast

import torch
from torch import nn

from difftori_isaac.trajopt.bounds import bound_tensor
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.fused import FusedProblem
from difftori_isaac.trajopt.problem import StructuredModel, TrajOptModel, TrajOptProblem
from difftori_isaac.trajopt.trajectory import knows_derivatives


class ReturnModel(Protocol):
    """Dynamics, reward and terminal value of a plan whose return is maximised, batched over environments.

    The methods are held to what :class:`~difftori_isaac.trajopt.problem.TrajOptModel` asks, with second derivatives.
    A pessimistic ensemble of value functions is a model whose ``terminal_value`` takes their minimum.
    """

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, shape (num_envs, state_dim), of states ``z`` under actions ``a``, (num_envs, action_dim)."""
        ...

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Reward of one step, shape (num_envs,)."""
        ...

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        """Return from the last state on, shape (num_envs,)."""
        ...


@dataclass(frozen=True)
class ReturnProblem(TrajOptProblem):
    """Maximise a return: its cost is ``−(Σ_t γ^t reward(z_t, a_t) + γ^H terminal_value(z_H))`` and the action terms.

    ``model`` is a :class:`ReturnModel`; the cost has no residuals.
    """

    def cost(self, actions: torch.Tensor) -> torch.Tensor:
        """See above, shape (num_envs,)."""
        model = cast("ReturnModel", self.model)
        z, scale, total = self.z0, 1.0, torch.zeros_like(actions[:, 0, 0])
        for t in range(self.horizon):
            total = total + scale * model.reward(z, actions[:, t])
            z = model.next(z, actions[:, t])
            scale *= self.discount
        total = total + scale * model.terminal_value(z)
        return self.action_cost(actions) - total

    def rounding(self, cost: torch.Tensor) -> torch.Tensor:
        """See :class:`TrajOptProblem`; rewards of order one may cancel to a cost of zero, their rounding stays."""
        return super().rounding(cost.abs() + 1.0)


class ReturnResidual(nn.Module):
    """The least-squares model of DiffTORI as published: one residual, ``offset`` less the return of the whole plan.

    The state carries the return so far and the discount of the next reward; no step has a residual. Kept for fidelity:
    a Jacobian of rank 1 leaves the curvature of most directions to the prior block and the damping.
    """

    def __init__(self, model: ReturnModel, discount: float, offset: float) -> None:
        """Take a model and the discount of its rewards."""
        super().__init__()
        self.model = model
        self.discount = discount
        self.offset = offset

    def start(self, z0: torch.Tensor) -> torch.Tensor:
        """The first state, shape (num_envs, state_dim + 2)."""
        return torch.cat((z0, torch.zeros_like(z0[:, :1]), torch.ones_like(z0[:, :1])), dim=1)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, the reward counted in."""
        z, total, scale = z[:, :-2], z[:, -2:-1], z[:, -1:]
        reward = self.model.reward(z, a)[:, None]
        return torch.cat((self.model.next(z, a), total + scale * reward, self.discount * scale), dim=1)

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """None, shape (num_envs, 0)."""
        return z[:, :0]

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """``offset − return``, shape (num_envs, 1)."""
        z, total, scale = z[:, :-2], z[:, -2:-1], z[:, -1:]
        return self.offset - total - scale * self.model.terminal_value(z)[:, None]


def pose(
    config: TrajOptConfig, model: TrajOptModel | ReturnModel, z0: torch.Tensor, prior: torch.Tensor
) -> TrajOptProblem:
    """The problem of ``config.objective`` from states (num_envs, state_dim), around a prior plan.

    Raises:
        ValueError: If the model lacks what the objective needs, or the number of bounds does not fit.
    """
    needed = TrajOptModel if config.objective == "least_squares" else ReturnModel
    methods = [name for name in vars(needed) if not name.startswith("_")]
    if lacking := [name for name in methods if not hasattr(model, name)]:
        raise ValueError(
            f"trajopt.objective is {config.objective!r}, but the model ({type(model).__name__}) has no "
            f"{' and no '.join(lacking)}; allowed: a model with {', '.join(methods)}"
        )
    discount = config.gamma
    problem = TrajOptProblem
    if config.latent_kernel == "warp":
        problem = FusedProblem
        if isinstance(model, StructuredModel) and not knows_derivatives(model):
            raise ValueError(
                "trajopt.latent_kernel is 'warp', which plans with the model's networks, but "
                f"{type(model).__name__} overrides what they are used for; allowed: trajopt.latent_kernel=torch"
            )
    if config.objective == "return":
        problem = ReturnProblem
    elif config.objective == "return_residual":
        residual = ReturnResidual(cast("ReturnModel", model), discount, config.return_offset)
        model, z0, discount = residual, residual.start(z0), 1.0
    size = (prior.shape[2], prior.dtype, prior.device)
    return problem(
        model=cast("TrajOptModel", model),
        z0=z0,
        prior=prior,
        prior_weight=config.prior_weight,
        discount=discount,
        action_rate_weight=config.action_rate_weight,
        low=bound_tensor("action_low", config.action_low, -inf, *size),
        high=bound_tensor("action_high", config.action_high, inf, *size),
    )
