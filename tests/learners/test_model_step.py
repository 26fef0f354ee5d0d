"""Optimizer steps on the model losses of PPO."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.config import ModelLossConfig
from difftori_isaac.learners.losses import sample_sequences
from difftori_isaac.learners.model_step import ModelStep
from difftori_isaac.policies.trajopt_actor import TrajOptActor

STEPS, ENVS, OBS, ACTIONS = 6, 10, 5, 2


def build(**losses):
    torch.manual_seed(0)
    obs = TensorDict({"policy": torch.randn(STEPS + 1, ENVS, OBS)}, (STEPS + 1, ENVS))
    rollout = {
        "actions": torch.randn(STEPS, ENVS, ACTIONS),
        "rewards": torch.randn(STEPS, ENVS),
        "returns": torch.randn(STEPS, ENVS),
        "dones": torch.rand(STEPS, ENVS) < 0.1,
        "rewarded": torch.rand(STEPS, ENVS) < 0.9,
    }
    settings = {"world_model": {"encoder_dims": (12, 6), "head_scale": 1.0}}
    actor = TrajOptActor(obs[0], {"actor": ["policy"]}, "actor", ACTIONS, obs_normalization=True, **settings)
    step = ModelStep(actor, ModelLossConfig(**{"learning_rate": 1e-2} | losses), max_grad_norm=1.0)
    return actor, step, obs, rollout


def train(actor, step, obs, rollout, num_updates=8):
    """Losses of each step, between which the statistics of observations change."""
    history = []
    for update in range(num_updates):
        actor.update_normalization(obs[0] * (1 + update))
        history.append(torch.stack(list(step(drawn(step, obs, rollout, actor)).values())))
    return torch.stack(history)


def drawn(step, obs, rollout, actor):
    with torch.no_grad():
        states = step.states([obs[:2], obs[2:]], actor.encode(obs))
    return sample_sequences(states, *rollout.values(), length=3, batch_size=16)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_a_step_trains_the_encoder_on_request(train_encoder):
    actor, step, obs, rollout = build(train_encoder=train_encoder, prior_coef=1.0)
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    losses = train(actor, step, obs, rollout)
    changed = {name.split(".")[2] for name, value in actor.named_parameters() if not torch.equal(value, before[name])}
    assert ("encoder" in changed) == train_encoder
    assert {"dynamics", "reward_head", "value_head", "prior"} <= changed
    assert losses.isfinite().all() and losses[-1].sum() < losses[0].sum()


def test_latent_states_have_the_losses_of_their_observations():
    losses = []
    for train_encoder in (False, True):
        actor, step, obs, rollout = build(train_encoder=train_encoder, prior_coef=1.0)
        batch = drawn(step, obs, rollout, actor)
        assert set(batch.obs.keys()) == ({"policy"} if train_encoder else {"latent"})
        losses.append(step(batch))
    torch.testing.assert_close(*losses)
