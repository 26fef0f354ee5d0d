"""A latent world model trained by temporal differences: encoder, dynamics, reward, critics and policy prior."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple, cast

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.trajopt.problem import Derivatives
from difftori_isaac.world_models.encoders import ImageEncoder, random_shift
from difftori_isaac.world_models.mlp import step_derivatives
from difftori_isaac.world_models.normalization import SimNorm
from difftori_isaac.world_models.td_config import TdWorldModelConfig
from difftori_isaac.world_models.td_derivatives import reward_derivatives, value_derivatives
from difftori_isaac.world_models.td_networks import Features, Head, RawCritics, network

SATURATION = 2.0
"""Size of an activation from which on its tanh, 0.96, has hardly a slope left to learn by."""


class PriorSample(NamedTuple):
    """What :meth:`TdWorldModel.sample_pi` draws."""

    action: torch.Tensor
    """Within the bounds of actions, shape (*batch, action_dim)."""
    log_prob: torch.Tensor
    """Log-probability of the action, 0 for a deterministic prior, shape (*batch,)."""
    saturation: torch.Tensor
    """Mean square of what the mean's activations exceed ``SATURATION`` by, before tanh, shape (*batch,)."""


class TdWorldModel(nn.Module):
    """The world model of the TD-MPC family (arXiv 2203.04955, 2310.16828), as the planner needs it.

    Always a ``ReturnModel``, whose terminal value is the mean of two critics at the prior's action. With
    ``residual`` heads also a ``StructuredModel`` whose squared residuals are exactly that return, up to a constant.
    The planner sees rewards and values in units of ``value_unit``.
    """

    reward_scale: torch.Tensor
    """Reward of the environment that counts as 1."""
    value_unit: torch.Tensor
    """Range of the critics' values, at least 1: the unit of the planner's cost."""
    percentiles: torch.Tensor
    """Between which of them the range of the values lies."""
    action_middle: torch.Tensor
    """Middle of the bounds that the prior has learned within, (action_dim,)."""
    action_reach: torch.Tensor
    """How far from it they are, (action_dim,)."""

    def __init__(
        self, obs: TensorDict, groups: list[str], action_dim: int, config: TdWorldModelConfig, *, return_unit: float
    ) -> None:
        """Build the networks.

        Args:
            obs: Observations of the environment, batch size (num_envs,).
            groups: Observation groups that are encoded: flat ones, point clouds and images.
            action_dim: Number of actions.
            config: Settings.
            return_unit: Order of magnitude of returns when rewards are of order one.
        """
        super().__init__()
        self.config, self.groups, self.action_dim = config, groups, action_dim
        latent_dim, step_dim = config.latent_dim, config.latent_dim + action_dim
        self.features = Features(obs, groups, config)
        self.encoder = network(self.features.out_dim, config.encoder_dims, latent_dim, config)
        self.dynamics = network(step_dim, config.hidden_dims, latent_dim, config)
        self.normalized = config.latent_norm == "simnorm"
        if self.normalized:
            self.encoder.append(SimNorm(config.simnorm_dim))
            self.dynamics.append(SimNorm(config.simnorm_dim))
        self.reward_head = Head(step_dim, config.reward_head, config, unit=1.0)
        self.critics = nn.ModuleList(
            Head(step_dim, config.value_head, config, unit=return_unit) for _ in range(config.num_q)
        )
        self.prior = network(
            latent_dim, config.hidden_dims, action_dim * (2 if config.prior == "gaussian" else 1), config
        )
        self.raw_critics = RawCritics(self.features.out_dim + action_dim, config, return_unit=return_unit)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.target_raw_critics = deepcopy(self.raw_critics).requires_grad_(False)
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("value_unit", torch.ones(()))
        self.register_buffer("percentiles", torch.tensor((0.05, 0.95)), persistent=False)
        self.register_buffer("action_middle", torch.zeros(action_dim))
        self.register_buffer("action_reach", torch.ones(action_dim))

    @property
    def residual_heads(self) -> bool:
        """Whether the return is a sum of squares."""
        return self.config.reward_head == self.config.value_head == "residual"

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that a plan depends on, by what they are for."""
        modules = {
            "encoder": [self.features, self.encoder],
            "dynamics": [self.dynamics],
            "reward": [self.reward_head],
            "q": [self.critics],
            "prior": [self.prior],
        }
        return {name: [p for module in part for p in module.parameters()] for name, part in modules.items()}

    def maxima(self) -> list[nn.Parameter]:
        """Largest values that residual heads can predict."""
        heads = [self.reward_head, *self.heads(), *self.raw_critics.twins]
        return [head.maximum for head in heads if head.maximum is not None]

    def bound_actions(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Let the prior act within bounds, (action_dim,), instead of from −1 to 1."""
        self.action_middle.copy_(0.5 * (low + high))
        self.action_reach.copy_(0.5 * (high - low))

    @torch.no_grad()
    def set_rewards(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """Let ``scale`` count as 1, and predictions start where every reward is the ``mean``."""
        self.reward_scale.copy_(scale)
        for head in (self.reward_head, *self._all_critics):
            head.start_at(mean / scale)

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """Move the target critics a step ``tau`` towards the critics."""
        pairs = ((self.target_critics, self.critics), (self.target_raw_critics, self.raw_critics))
        for target, source in pairs:
            torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), tau)

    @torch.no_grad()
    def update_value_unit(self, values: torch.Tensor, tau: float) -> None:
        """Move ``value_unit`` a step ``tau`` towards the range from the 5th to the 95th percentile of ``values``.

        NaN is no value.
        """
        if self.config.value_scale == "percentile":
            low, high = torch.nanquantile(values.flatten(), self.percentiles)
            spread = (high - low).clamp(min=1.0)
            self.value_unit.lerp_(torch.where(spread.isfinite(), spread, self.value_unit), tau)

    def augment(self, obs: TensorDict) -> TensorDict:
        """Observations of sub-sequences, batch size (batch, time), with randomly shifted images."""
        images = [name for name, encoder in self.features.encoders.items() if isinstance(encoder, ImageEncoder)]
        shifted = {name: random_shift(obs[name], self.config.pixel_shift) for name in images}
        return obs.clone(recurse=False).update(shifted)

    def encode(self, obs: TensorDict | torch.Tensor) -> torch.Tensor:
        """Latent states, shape (*batch_size, latent_dim), of observation groups or of their features."""
        return self.encoder(obs if isinstance(obs, torch.Tensor) else self.features(obs))

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next latent states, shape (num_envs, latent_dim)."""
        change = self.dynamics(torch.cat((z, a), dim=-1))
        return change if self.normalized else z + change

    def pi(self, z: torch.Tensor) -> torch.Tensor:
        """The prior's actions, its mean if it is a Gaussian, shape (num_envs, action_dim)."""
        return self._squashed(self.prior(z)[..., : self.action_dim])

    def sample_pi(self, z: torch.Tensor) -> PriorSample:
        """Draws from the prior; a deterministic one always gives the same action."""
        mean, *log_std = self.prior(z).split(self.action_dim, dim=-1)
        saturation = nn.functional.relu(mean.abs() - SATURATION).square().mean(dim=-1)
        if self.config.prior == "deterministic":
            return PriorSample(self._squashed(mean), torch.zeros_like(saturation), saturation)
        low, high = self.config.log_std_min, self.config.log_std_max
        log_std = low + 0.5 * (high - low) * (log_std[0].tanh() + 1.0)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.9189385332
        squash = 2.0 * (0.6931471806 - raw - nn.functional.softplus(-2.0 * raw))  # log(1 − tanh²)
        squash = squash + self.action_reach.log()
        return PriorSample(self._squashed(raw), (log_prob - squash).sum(dim=-1), saturation)

    def _squashed(self, activation: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.action_middle, self.action_reach, activation.tanh())

    def q(self, z: torch.Tensor, a: torch.Tensor, *, target: bool = False) -> torch.Tensor:
        """Values of all critics, shape (num_q, *batch)."""
        x = torch.cat((z, a), dim=-1)
        return torch.stack([head.value(head(x)) for head in self.heads(target=target)])

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Predicted rewards in units of ``value_unit``, shape (num_envs,)."""
        return self.reward_head.value(self.reward_head(torch.cat((z, a), dim=-1))) / self.value_unit

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        """Mean of the first two critics at the prior's action, in units of ``value_unit``, shape (num_envs,)."""
        x = torch.cat((z, self.pi(z)), dim=-1)
        first, second = (head.value(head(x)) for head in self.twins)
        return 0.5 * (first + second) / self.value_unit

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Reward residual φ, shape (num_envs, num_residuals); of ``residual`` heads."""
        return self.value_unit.rsqrt() * self.reward_head(torch.cat((z, a), dim=-1))

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """Residual ψ of the mean of the first two critics, shape (num_envs, 2 num_residuals).

        Half its square is that mean but for a constant. Of the smaller one, the cost would have a kink where both are
        equal, at which minima lie and no plan converges.
        """
        x = torch.cat((z, self.pi(z)), dim=-1)
        return self._terminal_scale * torch.cat([head(x) for head in self.twins], dim=-1)

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`next`."""
        return step_derivatives(self.dynamics, z, a, residual=not self.normalized)

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`stage_residual`."""
        return reward_derivatives(self.reward_head.net, z, a, self.value_unit.rsqrt())

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`terminal_residual`."""
        first, second = (head.net for head in self.twins)
        bounds = (self.action_middle, self.action_reach)
        return value_derivatives(self.prior, (first, second), z, bounds, self._terminal_scale)

    def second_order_weights(self) -> tuple[torch.Tensor, ...]:
        """Parameters of what is planned with."""
        planned = [self.dynamics, self.reward_head.net, self.prior, *(head.net for head in self.twins)]
        return tuple(weight for network in planned for weight in network.parameters())

    def heads(self, *, target: bool = False) -> list[Head]:
        """The critics, or their slow copies."""
        return cast("list[Head]", list(self.target_critics if target else self.critics))

    @property
    def twins(self) -> list[Head]:
        """The two critics that plans and prior follow."""
        return self.heads()[:2]

    @property
    def critic_unit(self) -> float:
        """Unit of what critics give: their values are networks' outputs times it."""
        return self.twins[0].unit

    @critic_unit.setter
    def critic_unit(self, unit: float) -> None:
        for head in self._all_critics:
            head.unit = unit

    @property
    def _all_critics(self) -> list[Head]:
        return [*self.heads(), *self.heads(target=True), *self.raw_critics.twins, *self.target_raw_critics.twins]

    @property
    def _terminal_scale(self) -> torch.Tensor:
        """What the twins' outputs are multiplied with in ψ, a scalar."""
        return (0.5 * self.critic_unit / self.value_unit).sqrt()
