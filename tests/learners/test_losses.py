"""World-model losses: what counts, and what lies behind an episode's end does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.config import ModelLossConfig
from difftori_isaac.learners.losses import Sequences, model_losses, sample_sequences
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel

CONFIG = ModelLossConfig(horizon=3, rho=0.5)


def make_model() -> LatentWorldModel:
    torch.manual_seed(0)
    return LatentWorldModel(5, 2, WorldModelConfig(encoder_dims=(8, 5)))


def make_obs(values: torch.Tensor) -> TensorDict:
    return TensorDict({"policy": values}, batch_size=values.shape[:-1])


def losses_of(model: LatentWorldModel, batch: Sequences, config: ModelLossConfig = CONFIG) -> dict[str, torch.Tensor]:
    return model_losses(model, lambda obs: model.encode(obs["policy"]), batch, config)


def make_sequences(**changes) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    fields = {
        "obs": make_obs(torch.randn(4, 4, 5, generator=generator)),
        "actions": torch.randn(4, 3, 2, generator=generator),
        "rewards": torch.randn(4, 3, generator=generator),
        "returns": torch.randn(4, 3, generator=generator),
        "reached": torch.ones(4, 3),
        "continued": torch.ones(4, 3),
        "rewarded": torch.ones(4, 3),
    }
    return Sequences(**fields | changes)


def test_sequences_are_cut_out_of_the_rollout_and_end_with_the_episode():
    num_steps, num_envs = 8, 3
    step = torch.arange(num_steps + 1.0)[:, None].expand(-1, num_envs)
    env = torch.arange(float(num_envs)).expand(num_steps + 1, -1)
    obs = make_obs(torch.stack((step, env), dim=-1))
    obs["pixels"] = torch.stack((step, env), dim=-1).to(torch.uint8)[:, :, :, None, None].expand(-1, -1, -1, 4, 5)
    dones = torch.zeros(num_steps, num_envs, dtype=torch.uint8)
    dones[4, 1] = 1
    rewarded = torch.ones(num_steps, num_envs, dtype=torch.bool)
    rewarded[6, 2] = False
    steps = (obs["policy"][:-1], step[:-1], 10 * step[:-1], dones, rewarded)
    batch = sample_sequences(obs, *steps, length=3, batch_size=2000)
    assert batch.obs["pixels"].dtype == torch.uint8
    assert torch.equal(batch.obs["pixels"][..., 3, 4].float(), batch.obs["policy"])
    start, which = batch.obs["policy"][:, 0].unbind(dim=-1)
    assert set(start.tolist()) == set(range(6)) and set(which.tolist()) == {0.0, 1.0, 2.0}
    for k in range(3):
        assert torch.equal(batch.obs["policy"][:, k, 0], start + k) and torch.equal(batch.obs["policy"][:, k, 1], which)
        assert torch.equal(batch.actions[:, k, 0], start + k) and torch.equal(batch.rewards[:, k], start + k)
        assert torch.equal(batch.returns[:, k], 10 * (start + k))
        ended_before = (which == 1) & (start <= 4) & (start + k > 4)
        ends_now = (which == 1) & (start + k == 4)
        assert torch.equal(batch.reached[:, k] == 0, ended_before)
        assert torch.equal(batch.continued[:, k] == 0, ended_before | ends_now)
        assert torch.equal(batch.rewarded[:, k] == 0, ended_before | ((which == 2) & (start + k == 6)))
    assert torch.equal(batch.obs["policy"][:, 3, 0], start + 3)


def test_what_is_behind_the_end_of_an_episode_does_not_count():
    model = make_model()
    reached, continued = torch.ones(4, 3), torch.ones(4, 3)
    continued[:, 1:], reached[:, 2:] = 0.0, 0.0
    batch = make_sequences(reached=reached, continued=continued, rewarded=reached)
    losses = losses_of(model, batch)
    for name, index in (("obs", 2), ("rewards", 2), ("returns", 2), ("actions", 2)):
        value = getattr(batch, name).clone()
        value[:, index:] = value[:, index:] + 7.0
        changed = losses_of(model, batch._replace(**{name: value}))
        assert all(torch.equal(changed[key], losses[key]) for key in losses), name
    for name, index, key in (("obs", 1, "consistency"), ("rewards", 1, "reward"), ("returns", 1, "value")):
        value = getattr(batch, name).clone()
        value[:, index:] = value[:, index:] + 7.0
        assert losses_of(model, batch._replace(**{name: value}))[key] != losses[key], name


def test_a_model_that_explains_the_data_has_no_loss():
    model = make_model()
    with torch.no_grad():
        model.encoder = torch.nn.Identity()
        model.return_std.fill_(2.0)
        model.return_mean.fill_(3.0)
        batch = make_sequences()
        zs = [batch.obs["policy"][:, 0]]
        for k in range(3):
            zs.append(model.next(zs[-1], batch.actions[:, k]))
        rewards = torch.stack([model.reward(zs[k], batch.actions[:, k]) for k in range(3)], dim=1)
        returns = torch.stack([model.terminal_value(zs[k]) for k in range(3)], dim=1)
    batch = batch._replace(obs=make_obs(torch.stack(zs, dim=1)), rewards=2.0 * rewards, returns=3.0 + 2.0 * returns)
    assert all(loss < 1e-10 for loss in losses_of(model, batch).values())


def test_later_steps_weigh_less():
    model = make_model()
    batch = make_sequences()

    def effect(k):
        returns = batch.returns.clone()
        returns[:, k] += 1000.0
        return (losses_of(model, batch._replace(returns=returns))["value"] - base).item()

    base = losses_of(model, batch)["value"]
    assert abs(effect(1) / effect(0) - 0.5) < 0.01 and abs(effect(2) / effect(0) - 0.25) < 0.01


@pytest.mark.parametrize("train_encoder", [False, True])
def test_gradient_trains_the_heads_and_on_request_the_encoder(train_encoder):
    model = make_model()
    config = replace(CONFIG, train_encoder=train_encoder)
    sum(losses_of(model, make_sequences(), config).values()).backward()
    trained = {"dynamics", "reward_head", "value_head"} | ({"encoder"} if train_encoder else set())
    for name, module in model.named_children():
        has_gradient = any(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
        assert has_gradient == (name in trained), name
    assert model.reward_max.grad != 0 and model.value_max.grad != 0
