"""Observation groups to first planned actions, at a planning horizon that may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.policies.planner import SolverStatistics
from difftori_isaac.trajopt.bounds import bound_tensor
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.solution import TrajOptSolution
from difftori_isaac.world_models.prior import prior_plan
from difftori_isaac.world_models.td import TdWorldModel


class PlanPolicy(nn.Module):
    """Plans with a temporal-difference world model; actions lie within bounds, −1 to 1, before they are scaled.

    A plan is a function of the observations alone: it starts from the prior rolled out through the model.
    """

    low: torch.Tensor
    """Lower bound of every component of an action, (action_dim,)."""
    high: torch.Tensor
    """Upper bound, (action_dim,)."""

    def __init__(
        self,
        world_model: TdWorldModel,
        trajopt: TrajOptConfig,
        *,
        discount: float,
        act_with: Literal["plan", "prior"],
        scale: float,
    ) -> None:
        """Build one layer for each horizon up to ``trajopt.horizon``, and plan once.

        Raises:
            ValueError: If the settings do not fit each other, the model or the number of actions.
        """
        super().__init__()
        if trajopt.objective == "least_squares" and not world_model.residual_heads:
            config = world_model.config
            raise ValueError(
                f"trajopt.objective is 'least_squares', but world_model.reward_head is {config.reward_head!r} and "
                f"world_model.value_head is {config.value_head!r}; allowed: trajopt.objective=return, or both residual"
            )
        if trajopt.solver == "theseus":
            raise ValueError("trajopt.solver is 'theseus', which has no bounds; allowed here: gauss_newton, mppi")
        self._trajopt = trajopt = replace(
            trajopt, action_low=_bound(trajopt, "action_low", -1.0), action_high=_bound(trajopt, "action_high", 1.0)
        )
        self.world_model, self.act_with, self.scale = world_model, act_with, scale
        size = (world_model.action_dim, torch.get_default_dtype(), torch.device("cpu"))
        low, high = (bound_tensor(name, getattr(trajopt, name), inf, *size) for name in ("action_low", "action_high"))
        assert low is not None and high is not None  # as no entry is unbounded
        self.register_buffer("low", low.clone(), persistent=False)
        self.register_buffer("high", high.clone(), persistent=False)
        world_model.bound_actions(low, high)
        self.discount_by(discount)
        self.horizon = trajopt.horizon
        """Planning horizon [steps]."""
        self.statistics = SolverStatistics()
        self.output_std = torch.zeros(world_model.action_dim)
        """Standard deviation of the exploration noise, in the units of the environment's actions, (action_dim,)."""
        with torch.no_grad():
            self.layers[-1](world_model, z0 := torch.zeros(1, world_model.config.latent_dim), self._prior_plan(z0))

    def discount_by(self, discount: float) -> None:
        """Give plans the discount of a learner, unless ``trajopt`` has one."""
        trajopt = self._trajopt.discounted_by(discount)
        self.layers = [TrajOptLayer(replace(trajopt, horizon=h + 1)) for h in range(trajopt.horizon)]

    def plan(self, obs: TensorDict | torch.Tensor) -> TrajOptSolution:
        """Plans for observation groups, batch size (num_envs,), or their features; counted in ``statistics``."""
        z0 = self.world_model.encode(obs)
        solution = self.layers[self.horizon - 1](self.world_model, z0, self._prior_plan(z0))
        self.statistics.add(solution)
        return solution

    def planned_actions(self, obs: TensorDict) -> torch.Tensor:
        """The whole plans behind :meth:`forward`, shape (num_envs, horizon, action_dim)."""
        obs = obs.to(self.output_std.device)
        if self.act_with == "prior":
            return self.scale * self.bounded(self._prior_plan(self.world_model.encode(obs)))
        return self.scale * self.plan(obs).actions

    def action(self, obs: TensorDict) -> torch.Tensor:
        """Actions without noise, shape (num_envs, action_dim)."""
        if self.act_with == "prior":
            return self.bounded(self.world_model.pi(self.world_model.encode(obs)))
        return self.plan(obs).action

    def bounded(self, actions: torch.Tensor) -> torch.Tensor:
        """The closest actions within the bounds."""
        return torch.clamp(actions, self.low, self.high)

    def forward(self, obs: TensorDict) -> torch.Tensor:
        """Actions without noise as the environment takes them, shape (num_envs, action_dim)."""
        return self.scale * self.action(obs.to(self.output_std.device))

    def _prior_plan(self, z0: torch.Tensor) -> torch.Tensor:
        return prior_plan(self.world_model, z0, self.horizon)


def _bound(trajopt: TrajOptConfig, name: str, default: float) -> Any:
    """A bound of the plans, ``default`` if none is given."""
    value = getattr(trajopt, name)
    if value is None:
        return default
    entries = value if isinstance(value, Sequence) else [value]
    if any(entry is None or abs(entry) > 1.0 for entry in entries):
        raise ValueError(f"trajopt.{name} is {value}; allowed with learner=model_based: from -1 to 1")
    return value
