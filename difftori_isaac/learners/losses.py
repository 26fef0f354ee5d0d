"""World-model losses on sub-sequences of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch.nn import functional as F

from difftori_isaac.learners.config import ModelLossConfig
from difftori_isaac.world_models.latent import LatentWorldModel


class Sequences(NamedTuple):
    """Sub-sequences of a rollout; what lies behind an episode's end is not valid."""

    obs: TensorDict
    """Observation groups, batch size (batch, length + 1)."""
    actions: torch.Tensor
    """Shape (batch, length, action_dim)."""
    rewards: torch.Tensor
    """Shape (batch, length)."""
    returns: torch.Tensor
    """λ-returns, shape (batch, length)."""
    reached: torch.Tensor
    """1 where step k begins in the episode of step 0, shape (batch, length)."""
    continued: torch.Tensor
    """1 where step k also ends in it, shape (batch, length)."""
    rewarded: torch.Tensor
    """1 where the reward of step k is one of its episode, shape (batch, length)."""


def sample_sequences(
    obs: TensorDict,
    actions: torch.Tensor,
    rewards: torch.Tensor,
    returns: torch.Tensor,
    dones: torch.Tensor,
    rewarded: torch.Tensor,
    *,
    length: int,
    batch_size: int,
) -> Sequences:
    """Draw sub-sequences uniformly, with replacement, from a rollout of T steps.

    Args:
        obs: Observation groups, batch size (T + 1, num_envs).
        actions: Shape (T, num_envs, action_dim).
        rewards: Shape (T, num_envs).
        returns: Shape (T, num_envs).
        dones: 1 where an episode ended with the step, shape (T, num_envs).
        rewarded: False where the environment's answer was not finite and there is no reward, shape (T, num_envs).
        length: Steps of a sub-sequence, at most T.
        batch_size: Number of sub-sequences.
    """
    num_steps, num_envs = rewards.shape
    start = torch.randint(num_steps - length + 1, (batch_size, 1), device=rewards.device)
    env = torch.randint(num_envs, (batch_size, 1), device=rewards.device)
    steps = start + torch.arange(length, device=rewards.device)
    continued = (1.0 - dones[steps, env].to(rewards.dtype)).cumprod(dim=1)
    reached = torch.cat((torch.ones_like(continued[:, :1]), continued[:, :-1]), dim=1)
    return Sequences(
        obs=obs[torch.cat((steps, steps[:, -1:] + 1), dim=1), env],
        actions=actions[steps, env],
        rewards=rewards[steps, env],
        returns=returns[steps, env],
        reached=reached,
        continued=continued,
        rewarded=reached * rewarded[steps, env],
    )


def model_losses(
    model: LatentWorldModel,
    encode: Callable[[TensorDict], torch.Tensor],
    batch: Sequences,
    config: ModelLossConfig,
) -> dict[str, torch.Tensor]:
    """Consistency, reward and value losses of open-loop predictions from the first observation, weighted by ρ^k.

    Rewards are learned in units of ``model.return_std``, returns as distances from ``model.return_mean`` in that unit.
    The last reward of an episode counts, what was observed behind it does not: it belongs to the next one.
    Each loss is a mean over the valid steps (TD-MPC, arXiv 2203.04955, equation 4, with λ-returns for the value).

    Args:
        model: What is trained.
        encode: Observation groups to latent states of ``model``, shape (*batch_size, latent_dim).
        batch: Sub-sequences.
        config: Settings.

    Returns:
        Scalars ``consistency``, ``reward`` and ``value``, without their coefficients.
    """
    length = batch.actions.shape[1]
    with torch.no_grad():
        targets = encode(batch.obs[:, 1:])
    with torch.set_grad_enabled(config.train_encoder):
        z = encode(batch.obs[:, 0])
    rho = config.rho ** torch.arange(length, dtype=z.dtype, device=z.device)
    rewards = batch.rewards / model.return_std
    values = (batch.returns - model.return_mean) / model.return_std
    predicted = [z]
    for k in range(length):
        predicted.append(model.next(predicted[-1], batch.actions[:, k]))
    zs = torch.stack(predicted, dim=1)
    errors = {
        "consistency": (zs[:, 1:] - targets).square().mean(dim=-1),
        "reward": F.huber_loss(model.reward(zs[:, :-1], batch.actions), rewards, reduction="none"),
        "value": F.huber_loss(model.terminal_value(zs[:, :-1]), values, reduction="none"),
    }
    weights = {"consistency": batch.continued, "reward": batch.rewarded, "value": batch.reached}
    losses = {}
    for name, error in errors.items():
        weight = rho * weights[name]
        losses[name] = (weight * error).sum() / weight.sum().clamp(min=1.0)
    return losses
