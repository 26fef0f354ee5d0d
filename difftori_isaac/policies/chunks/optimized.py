"""DiffTORI: the chunk is the minimum of a learned cost, and the error of the minimum trains the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch.nn import functional as F

from difftori_isaac.policies.chunks.head import ChunkHead
from difftori_isaac.policies.chunks.policy import ChunkPolicy
from difftori_isaac.policies.planner import SolverStatistics
from difftori_isaac.trajopt.bounds import Bound, bound_tensor
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.solution import TrajOptSolution
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.chunk_cost import ChunkCost
from difftori_isaac.world_models.mlp import mlp


class OptimizedChunks(ChunkPolicy):
    """``policy=trajopt``: ``a* = argmin ½‖φ((features, ζ), a)‖² + ½ w² ‖a − ā‖²`` (arXiv 2402.05421, section 4.2).

    ζ is the latent variable of a conditional VAE, drawn by a network that sees the demonstrated chunk in training, and
    when acting from a standard normal distribution by torch's global generator. ā is zero or the chunk of a head, which
    its own loss alone trains.

    Residuals at noisy chunks are trained to be the noise, as in denoising: so the cost stays one that a few iterations
    minimise, which the error of its minimum alone does not see to. There are no bounds unless asked for: a number that
    a bound holds has no gradient, and demonstrations often lie on the bounds of the environment, so that plans that
    begin on the wrong side would stay there.
    """

    def __init__(
        self,
        *args: Any,
        trajopt: TrajOptConfig,
        make_base: Callable[[int, int, ChunkModelConfig], ChunkHead] | None = None,
    ) -> None:
        """Build networks and layer, and plan once; see :class:`ChunkPolicy`.

        Args:
            *args: Those of :class:`ChunkPolicy`.
            trajopt: Settings of the layer, whose horizon is 1 whatever it says; bounds are in the units of actions.
            make_base: Builds the head of the prior plan; None is a prior plan of zeros.

        Raises:
            ValueError: If the solver has no gradient that reaches the cost, or the settings do not fit each other.
        """
        super().__init__(*args)
        if trajopt.solver == "mppi":
            raise ValueError("trajopt.solver is 'mppi', which has no gradient; allowed with learner=imitation: another")
        if trajopt.objective != "least_squares":
            raise ValueError(
                f"trajopt.objective is {trajopt.objective!r}; allowed with learner=imitation: least_squares"
            )
        if trajopt.action_rate_weight > 0.0:
            raise ValueError(
                f"trajopt.action_rate_weight is {trajopt.action_rate_weight}; allowed with learner=imitation: 0, as a "
                "whole chunk is one action of the optimizer"
            )
        config = self.config
        self._trajopt = replace(trajopt, horizon=1)
        self._set_bounds()
        condition_dim = self.feature_dim + config.latent_dim
        self.cost = ChunkCost(
            condition_dim,
            self.chunk_dim,
            hidden_dims=config.hidden_dims,
            activation=config.activation,
        )
        self.base = make_base(self.feature_dim, self.chunk_dim, config) if make_base else None
        self.posterior = None
        if config.latent_dim:
            in_dim = self.feature_dim + self.chunk_dim
            self.posterior = mlp(in_dim, config.hidden_dims, 2 * config.latent_dim, config.activation)
        self._statistics = SolverStatistics()
        with torch.no_grad():  # what the layer refuses, it refuses before a run begins
            self.layer(self.cost, torch.zeros(1, condition_dim), torch.zeros(1, 1, self.chunk_dim))

    def set_units(self, obs: Mapping[str, torch.Tensor], actions: torch.Tensor) -> None:
        """See :class:`ChunkPolicy`."""
        super().set_units(obs, actions)
        self._set_bounds()

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkPolicy`."""
        return self._plan(features, self._latent(features), self._prior(features)).action

    def losses(self, features: torch.Tensor, chunk: torch.Tensor) -> dict[str, torch.Tensor]:
        """Errors of the plan, of residuals at noisy chunks and, if there is a head for it, the loss of the prior plan.

        Where there is a ζ, the divergence of its distribution too. Only plans that have converged pass a gradient on,
        unless the iterations themselves are differentiated: as a cost that is fitted too closely gets harder to
        minimise, the others' would lead ever further away.
        """
        losses, latent, prior = {}, self._latent(features), self._prior(features)
        if self.posterior is not None:
            mean, log_std = self.posterior(torch.cat((features, chunk), dim=1)).chunk(2, dim=1)
            log_std = log_std.clamp(-5.0, 2.0)
            latent = mean + log_std.exp() * torch.randn_like(mean)
            divergence = 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std
            losses["divergence"] = divergence.sum(dim=1).mean()
        if self.base is not None:
            losses["base"] = self.base.loss(features, chunk)
        noise = self.config.denoising_std * torch.randn_like(chunk)
        residuals = self.cost.stage_residual(torch.cat((features, latent), dim=1), chunk + noise)
        losses["denoising"] = F.mse_loss(residuals, noise)
        solution = self._plan(features, latent, prior)
        errors = (solution.action - chunk).square().mean(dim=1)
        if self.layer.config.differentiates_optima:
            errors = torch.where(solution.converged, errors, errors.detach())
        losses["imitation"] = errors.mean()
        return losses

    def solver_statistics(self) -> dict[str, float]:
        """See :class:`ChunkPolicy`."""
        return self._statistics.pop()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._set_bounds()

    def _set_bounds(self) -> None:
        """Let the layer plan within the bounds of actions, which are others in the units of chunks."""

        def of_chunk(name: str, unbounded: float) -> Bound:
            scale = self.action_scale
            size = (self.num_actions, scale.dtype, scale.device)
            bound = bound_tensor(name, getattr(self._trajopt, name), unbounded, *size)
            return None if bound is None else tuple(self.normalized(bound.expand(1, self.horizon, -1))[0].tolist())

        low, high = of_chunk("action_low", -inf), of_chunk("action_high", inf)
        self.layer = TrajOptLayer(replace(self._trajopt, action_low=low, action_high=high))

    def _plan(self, features: torch.Tensor, latent: torch.Tensor, prior: torch.Tensor) -> TrajOptSolution:
        solution = self.layer(self.cost, torch.cat((features, latent), dim=1), prior[:, None])
        self._statistics.add(solution, solution.shift[:, 0, : self.num_actions] * self.action_scale)
        return solution

    @torch.no_grad()
    def _prior(self, features: torch.Tensor) -> torch.Tensor:
        """Prior plans, shape (batch, chunk_dim)."""
        return features.new_zeros(len(features), self.chunk_dim) if self.base is None else self.base.chunk(features)

    def _latent(self, features: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(features), self.config.latent_dim, device=features.device)
