"""Losses of the model-based learner on replayed sub-sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.replay import Replayed
from difftori_isaac.policies.plan_policy import PlanPolicy
from difftori_isaac.world_models.td import TdWorldModel


@dataclass(frozen=True)
class ModelLosses:
    """What the model is trained on, and what the other losses need of it."""

    losses: dict[str, torch.Tensor]
    """Scalars ``consistency``, ``reward``, ``value`` and ``raw_value``, without their coefficients."""
    zs: torch.Tensor
    """Predicted latent states without gradient, shape (length, batch, latent_dim)."""
    weights: torch.Tensor
    """Weight of each predicted step, of sum 1, shape (length, batch)."""
    td_error: torch.Tensor
    """Error of the critics at the first step, shape (batch,)."""


def model_losses(model: TdWorldModel, batch: Replayed, config: ModelBasedConfig, discount: float) -> ModelLosses:
    """Consistency, reward and temporal-difference losses of predictions from the first observation.

    Every step weighs ρ^k (TD-MPC, arXiv 2203.04955, equation 4). The value target of a step bootstraps from the
    smaller of two target critics at true observations; only the end of an episode by itself has no value. For the
    critics on observations, which predict nothing ahead, all steps weigh the same. Rewards may have rare large values,
    such as the penalty of a fall, which must not outweigh everything else that the encoder learns.
    """
    length = batch.actions.shape[1]
    features = model.features(batch.obs[:, :-1])
    with torch.no_grad():
        next_features = torch.cat((features[:, 1:], model.features(batch.obs[:, -1:])), dim=1)
        next_z = model.encode(next_features)
        next_a = model.sample_pi(next_z).action
        rewards = batch.rewards / model.reward_scale
        not_terminated = discount * (~batch.terminated).to(rewards.dtype)
        next_values = model.target_raw_critics(next_features, next_a)
        target = lambda_returns(rewards, not_terminated, next_values, batch.valid, config.td_lambda)
        raw_target = target
        if config.bootstrap == "latent":
            drawn = torch.rand(model.config.num_q, device=rewards.device).topk(2).indices
            next_values = model.q(next_z, next_a, target=True)[drawn].amin(dim=0)
            target = lambda_returns(rewards, not_terminated, next_values, batch.valid, config.td_lambda)
        rho = config.rho ** torch.arange(length, dtype=rewards.dtype, device=rewards.device)
        weights = (rho * batch.valid * batch.weights[:, None]).T
        weights = weights / weights.sum().clamp(min=1.0)
    zs = [model.encode(features[:, 0])]
    for k in range(length):
        zs.append(model.next(zs[-1], batch.actions[:, k]))
    predicted = torch.stack(zs[1:])
    before, actions = torch.stack(zs[:-1]), batch.actions.transpose(0, 1)
    x = torch.cat((before, actions), dim=-1)
    heads = model.heads()
    outputs = [head(x) for head in heads]
    value_losses = torch.stack([head.loss(out, target.T) for head, out in zip(heads, outputs, strict=True)])
    raw_outputs = model.raw_critics.outputs(features, batch.actions)
    raw_losses = torch.stack([head.loss(out, raw_target) for head, out in raw_outputs])
    errors = {
        "consistency": (predicted - next_z.transpose(0, 1)).square().mean(dim=-1),
        "reward": model.reward_head.loss(model.reward_head(x), rewards.T, robust=True),
        "value": value_losses.mean(dim=0),
    }
    losses = {name: (weights * error).sum() for name, error in errors.items()}
    losses["raw_value"] = (batch.weights[:, None] * batch.valid * raw_losses.mean(dim=0)).mean()
    return ModelLosses(
        losses=losses,
        zs=before.detach(),
        weights=weights,
        td_error=(heads[0].value(outputs[0][0]).detach() - target[:, 0]).abs(),
    )


def lambda_returns(
    rewards: torch.Tensor, discounts: torch.Tensor, next_values: torch.Tensor, valid: torch.Tensor, td_lambda: float
) -> torch.Tensor:
    """λ-returns of every step, cut off at the end of its episode or of the sub-sequence, shape (batch, length).

    ``G_k = r_k + γ_k ((1 − λ) V_{k+1} + λ G_{k+1})`` (Sutton and Barto, 2018, equation 12.2).

    Args:
        rewards: Shape (batch, length).
        discounts: Discount of what follows a step, 0 where its episode terminated, shape (batch, length).
        next_values: Values V of the observations behind the steps, shape (batch, length).
        valid: 1 where a step belongs to the episode of the first step, shape (batch, length).
        td_lambda: λ; 0 bootstraps from the next observation, 1 from the last one there is.
    """
    returns = [rewards[:, -1] + discounts[:, -1] * next_values[:, -1]]
    for k in reversed(range(rewards.shape[1] - 1)):
        ahead = torch.where(valid[:, k + 1] > 0, next_values[:, k].lerp(returns[-1], td_lambda), next_values[:, k])
        returns.append(rewards[:, k] + discounts[:, k] * ahead)
    return torch.stack(returns[::-1], dim=1)


def prior_loss(
    model: TdWorldModel, zs: torch.Tensor, weights: torch.Tensor, config: ModelBasedConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``−Q(z, pi(z))`` in units of ``value_unit``, less the prior's entropy, and the penalty on its saturation.

    Once tanh is flat a prior cannot learn any more, and exploration noise is cut off at the bound: early critics, which
    are wrong everywhere, would drive it there. For the prior's parameters alone.

    Args:
        model: The model.
        zs: Latent states, shape (length, batch, latent_dim).
        weights: Their weights, of sum 1, shape (length, batch).
        config: Settings.

    Returns:
        The scalar loss, and without gradient the values, NaN where the weight is 0, shape (length, batch), and the mean
        saturation, a scalar.
    """
    drawn = model.sample_pi(zs)
    values = model.q(zs, drawn.action)[:2].amin(dim=0)
    losses = config.entropy_coef * drawn.log_prob + config.saturation_coef * drawn.saturation
    loss = (weights * (losses - values / model.value_unit)).sum()
    values = torch.where(weights > 0, values.detach(), torch.nan)
    return loss, values, (weights * drawn.saturation).sum().detach()


def demo_loss(model: TdWorldModel, zs: torch.Tensor, actions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``‖pi(z) − a‖²`` at demonstrated actions ``a``, for the prior's parameters alone.

    Args:
        model: The model.
        zs: Latent states, shape (length, batch, latent_dim).
        actions: Demonstrated actions, shape (length, batch, action_dim).
        weights: Weights of the steps, shape (length, batch).
    """
    return (weights * (model.pi(zs) - actions).square().mean(dim=-1)).sum()


def plan_loss(policy: PlanPolicy, batch: Replayed, num_plans: int) -> torch.Tensor:
    """``−min(Q_s1, Q_s2)(o, a*_0)`` in units of ``value_unit``: the policy gradient through the plan.

    DiffTORI, arXiv 2402.05421, section 3. Only plans that have converged pass a gradient on, unless the iterations
    themselves are differentiated.
    """
    model = policy.world_model
    features = model.features(batch.obs[:num_plans, 0])
    solution = policy.plan(features)
    weights = (batch.weights * batch.valid[:, 0])[:num_plans]
    if policy.layers[0].config.differentiates_optima:
        weights = weights * solution.converged
    values = model.raw_critics(features.detach(), solution.action) / model.value_unit
    return -(weights * values).sum() / num_plans
