"""Losses of the model and of its prior are those of their definitions."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.replay import Replayed
from difftori_isaac.learners.td_losses import model_losses, prior_loss
from difftori_isaac.world_models.td import TdWorldModel
from difftori_isaac.world_models.td_config import TdWorldModelConfig

BATCH, LENGTH, ACTION_DIM, LATENT_DIM, DISCOUNT = 6, 3, 2, 8, 0.9


def make(**changes):
    """A model whose slow critics are others, and sub-sequences of which two terminate and two are cut short."""
    torch.manual_seed(0)
    obs = TensorDict({"policy": torch.randn(BATCH, LENGTH + 1, 4)}, [BATCH, LENGTH + 1])
    scalar = {"reward_head": "scalar", "value_head": "scalar", "head_scale": 1.0}
    config = TdWorldModelConfig(latent_dim=LATENT_DIM, hidden_dims=(16,), **scalar | changes)
    model = TdWorldModel(obs[:, 0], ["policy"], ACTION_DIM, config, return_unit=1.0)
    for parameter in (*model.target_raw_critics.parameters(), *model.target_critics.parameters()):
        parameter.data.add_(torch.randn_like(parameter))
    terminated, valid = torch.zeros(BATCH, LENGTH, dtype=torch.bool), torch.ones(BATCH, LENGTH)
    terminated[0, 0] = terminated[2, 2] = True
    valid[0, 1:] = valid[1, 2:] = 0.0
    batch = Replayed(
        obs=obs,
        actions=torch.rand(BATCH, LENGTH, ACTION_DIM),
        rewards=torch.randn(BATCH, LENGTH),
        terminated=terminated,
        valid=valid,
        weights=0.5 + torch.rand(BATCH),
        index=(torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.long)),
    )
    return model, batch


def raw_values(critics, obs, action):
    return torch.stack([head.value(out) for head, out in critics.outputs(obs["policy"], action)])


@pytest.mark.parametrize("bootstrap", ["observation", "latent"])
@torch.no_grad()
def test_losses_of_the_model_are_sums_over_environments_and_steps(bootstrap):
    model, batch = make(num_q=2)
    config = ModelBasedConfig(horizon=LENGTH, td_lambda=0.0, bootstrap=bootstrap, rho=0.5)
    sums, total = dict.fromkeys(("consistency", "reward", "value", "raw_value"), 0.0), 0.0
    for env in range(BATCH):
        z = model.encode(batch.obs[env, 0])
        for k in range(LENGTH):
            obs, next_obs = batch.obs[env, k], batch.obs[env, k + 1]
            action, reward = batch.actions[env, k], batch.rewards[env, k]
            next_z, predicted, x = model.encode(next_obs), model.next(z, action), torch.cat((z, action), dim=-1)
            next_action, follows = model.pi(next_z), DISCOUNT * (not batch.terminated[env, k])
            raw_target = reward + follows * raw_values(model.target_raw_critics, next_obs, next_action).min()
            latent_target = reward + follows * model.q(next_z, next_action, target=True).min()
            target = raw_target if bootstrap == "observation" else latent_target
            counts = batch.weights[env] * batch.valid[env, k]
            weight = 0.5**k * counts
            sums["consistency"] += weight * (predicted - next_z).square().mean()
            sums["reward"] += weight * model.reward_head.loss(model.reward_head(x), reward, robust=True)
            sums["value"] += weight * (model.q(z, action) - target).square().mean()
            sums["raw_value"] += counts * (raw_values(model.raw_critics, obs, action) - raw_target).square().mean()
            total, z = total + weight, predicted
    of_all = {"consistency": total, "reward": total, "value": total, "raw_value": BATCH * LENGTH}
    expected = {name: value / of_all[name] for name, value in sums.items()}
    torch.testing.assert_close(model_losses(model, batch, config, DISCOUNT).losses, expected)


def test_the_prior_maximises_the_smaller_of_two_critics_and_its_entropy():
    model, _ = make(num_q=3, prior="gaussian")
    zs, weights = torch.randn(LENGTH, BATCH, LATENT_DIM), torch.full((LENGTH, BATCH), 1 / (LENGTH * BATCH))
    model.value_unit.fill_(4.0)
    torch.manual_seed(1)
    loss, values, _ = prior_loss(model, zs, weights, ModelBasedConfig(entropy_coef=0.3, saturation_coef=0.0))
    torch.manual_seed(1)
    drawn = model.sample_pi(zs)
    first, second, _ = model.q(zs, drawn.action)
    torch.testing.assert_close(values, torch.minimum(first, second))
    torch.testing.assert_close(loss, (0.3 * drawn.log_prob - torch.minimum(first, second) / 4.0).mean())
