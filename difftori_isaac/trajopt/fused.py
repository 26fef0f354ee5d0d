"""Least squares on a latent model, whose cost and gradient are one kernel launch where autograd does not record."""

from __future__ import annotations

from typing import cast

import torch

from difftori_isaac.trajopt.problem import TrajOptProblem


class FusedProblem(TrajOptProblem):
    """A :class:`TrajOptProblem` for ``trajopt.latent_kernel=warp``; ``model`` is a ``kernels.latent.LatentModel``."""

    def cost(self, actions: torch.Tensor) -> torch.Tensor:
        """See :class:`TrajOptProblem`."""
        if torch.is_grad_enabled():
            return super().cost(actions)
        from difftori_isaac.trajopt.kernels.latent import LatentModel, latent_cost  # starts Warp

        residual_cost = latent_cost(cast("LatentModel", self.model), self.z0, actions, self.discount)
        return residual_cost + self.action_cost(actions)

    def residual_gradient(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Half the squared residuals of the model (num_envs,), and their gradient (num_envs, horizon * action_dim)."""
        from difftori_isaac.trajopt.kernels.latent import LatentModel, latent_cost_and_gradient  # starts Warp

        cost, gradient = latent_cost_and_gradient(cast("LatentModel", self.model), self.z0, actions, self.discount)
        return cost, gradient.flatten(1)
