"""Observation vector to first planned action."""

from __future__ import annotations

import torch
from torch import nn

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.solution import TrajOptSolution
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel
from difftori_isaac.world_models.prior import prior_plan


class TrajOptPlanner(nn.Module):
    """Encodes, plans and returns the first action. The plan is a function of the observation alone.

    It starts from the prior rolled out through the model and keeps nothing between calls, so that a plan recomputed
    in an update is the plan that was executed.
    """

    def __init__(self, obs_dim: int, action_dim: int, trajopt: TrajOptConfig, world_model: WorldModelConfig) -> None:
        """Build model and layer, and plan once.

        Raises:
            ValueError: If the settings do not fit each other, the model or the number of actions.
        """
        super().__init__()
        self.world_model = LatentWorldModel(obs_dim, action_dim, world_model)
        self.layer = TrajOptLayer(trajopt)
        self.statistics = SolverStatistics()
        with torch.no_grad():
            self.plan(torch.zeros(1, obs_dim))  # what the layer refuses, it refuses before a run begins

    def plan(self, obs: torch.Tensor) -> TrajOptSolution:
        """Plans for flat observations, shape (num_envs, obs_dim)."""
        return self.plan_from(self.world_model.encode(obs))

    def plan_from(self, z0: torch.Tensor) -> TrajOptSolution:
        """Plans for latent states, shape (num_envs, latent_dim)."""
        return self.layer(self.world_model, z0, prior_plan(self.world_model, z0, self.layer.config.horizon))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """First planned actions, shape (num_envs, action_dim); counted in ``statistics``."""
        solution = self.plan(obs)
        self.statistics.add(solution)
        return solution.action


class SolverStatistics:
    """Sums over solves, kept in place on the device until they are read; executed plans and updates apart."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, solution: TrajOptSolution, shift: torch.Tensor | None = None) -> None:
        """Count the solves of one batch, as an update's where autograd records.

        ``shift`` is how far the executed actions are from their prior, shape (batch, num_actions), if those are not the
        solution's first.
        """
        name = "update_solver" if torch.is_grad_enabled() else "solver"
        shift = (solution.shift[:, 0] if shift is None else shift).detach().abs().mean(dim=1)
        rows = torch.stack(
            (torch.ones_like(shift), solution.converged, solution.iterations, solution.failed, shift), dim=1
        )
        if name not in self._sums:
            with torch.inference_mode(False):
                self._sums[name] = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
        self._sums[name] += rows.sum(dim=0)

    def pop(self) -> dict[str, float]:
        """Converged share, mean accepted iterations and failures of executed plans and of updates since the last call.

        ``plan_shift`` is the mean distance of an executed action from its prior, in the units of the action.
        """
        result: dict[str, float] = {}
        for name, sums in self._sums.items():
            count, converged, iterations, failed, shift = sums.tolist()
            sums.zero_()
            if count == 0:
                continue
            result[f"{name}_converged"] = converged / count
            result[f"{name}_iterations"] = iterations / count
            result[f"{name}_failures"] = failed
            if name == "solver":
                result["plan_shift"] = shift / count
        return result
