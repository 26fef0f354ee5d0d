"""A latent world model whose reward and value are residuals of the planner's cost."""

from __future__ import annotations

import torch
from torch import nn

from difftori_isaac.trajopt.problem import Derivatives
from difftori_isaac.world_models.activations import activation_layer
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.mlp import LinearizedMLP, mlp, step_derivatives


class LatentWorldModel(nn.Module):
    """Encoder, latent dynamics, reward, terminal value and policy prior; a ``StructuredModel``.

    Reward and terminal value are ``reward_max − ½‖φ(z, a)‖²`` and ``value_max − ½‖ψ(z)‖²``: maximising the return is
    minimising a sum of squares, and supervising them trains the planner's cost.
    """

    return_mean: torch.Tensor
    """Mean of all returns so far: the origin of predicted values."""
    num_return_updates: torch.Tensor
    """Times that the two were updated."""
    return_std: torch.Tensor
    """Standard deviation of all returns so far: the unit of predicted rewards and values."""

    def __init__(self, obs_dim: int, action_dim: int, config: WorldModelConfig) -> None:
        """Build the networks.

        Args:
            obs_dim: Width of a flat observation.
            action_dim: Number of actions.
            config: Settings; an encoder left ``None`` has layers of 64 and 32 and elu.
        """
        super().__init__()
        config = config.filled_from((64, 32), "elu")
        assert config.encoder_dims is not None and config.encoder_activation is not None
        assert config.hidden_dims is not None and config.head_hidden_dims is not None
        *encoder_hidden_dims, latent_dim = config.encoder_dims
        step_dim, activation = latent_dim + action_dim, config.activation
        self.encoder = mlp(obs_dim, encoder_hidden_dims, latent_dim, config.encoder_activation)
        self.encoder.append(activation_layer(config.encoder_activation))
        self.prior = mlp(latent_dim, config.prior_hidden_dims, action_dim, activation)
        with torch.random.fork_rng(devices=[]):  # with one seed, encoder, prior and critic start as those of a PPO-MLP
            self.dynamics = mlp(step_dim, config.hidden_dims, latent_dim, activation)
            self.reward_head = mlp(step_dim, config.head_hidden_dims, config.num_residuals, activation)
            self.value_head = mlp(latent_dim, config.head_hidden_dims, config.num_residuals, activation)
        self.reward_max = nn.Parameter(torch.zeros(()))
        self.value_max = nn.Parameter(torch.zeros(()))
        self.register_buffer("return_mean", torch.zeros(()))
        self.register_buffer("return_std", torch.ones(()))
        self.register_buffer("num_return_updates", torch.zeros((), dtype=torch.int64))
        with torch.no_grad():
            for head in (self.dynamics, self.reward_head, self.value_head):
                for parameter in head[-1].parameters():
                    parameter.mul_(config.head_scale)

    @torch.no_grad()
    def update_return_statistics(self, returns: torch.Tensor) -> None:
        """Count ``returns`` of any shape into ``return_mean`` and ``return_std``; every call weighs the same."""
        self.num_return_updates.add_(1)
        weight = torch.reciprocal(self.num_return_updates.float())
        delta = returns.mean() - self.return_mean
        spread = returns.var(unbiased=False) + (1.0 - weight) * delta.square()
        variance = self.return_std.square().where(self.num_return_updates > 1, spread)
        self.return_std.copy_(variance.lerp(spread, weight).sqrt().clamp(min=1e-3))
        self.return_mean.add_(weight * delta)

    def encode(self, obs: torch.Tensor) -> torch.Tensor:
        """Latent states, shape (num_envs, latent_dim), of flat observations, shape (num_envs, obs_dim)."""
        return self.encoder(obs)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next latent states, shape (num_envs, latent_dim)."""
        return z + self.dynamics(torch.cat((z, a), dim=-1))

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Reward residual φ, shape (num_envs, num_residuals)."""
        return self.reward_head(torch.cat((z, a), dim=-1))

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """Value residual ψ, shape (num_envs, num_residuals)."""
        return self.value_head(z)

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`next`."""
        return step_derivatives(self.dynamics, z, a, residual=True)

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`stage_residual`."""
        return step_derivatives(self.reward_head, z, a, residual=False)

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`terminal_residual`."""
        head = LinearizedMLP(self.value_head, z)
        return Derivatives(head.value, head.push, lambda rows: (head.pull(rows),), head.along)

    def second_order_weights(self) -> tuple[torch.Tensor, ...]:
        """Parameters of dynamics and heads."""
        planned = (self.dynamics, self.reward_head, self.value_head)
        return tuple(weight for network in planned for weight in network.parameters())

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Predicted rewards in units of ``return_std``, shape (num_envs,)."""
        return self.reward_max - 0.5 * self.stage_residual(z, a).square().sum(dim=-1)

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        """Predicted values less ``return_mean`` in units of ``return_std``, shape (num_envs,)."""
        return self.value_max - 0.5 * self.terminal_residual(z).square().sum(dim=-1)

    def pi(self, z: torch.Tensor) -> torch.Tensor:
        """Prior actions, shape (num_envs, action_dim)."""
        return self.prior(z)
