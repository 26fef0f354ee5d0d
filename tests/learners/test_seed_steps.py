"""What the model-based learner does and learns in its first, random steps."""

import pytest
import torch
from small_cart import CHEAP, build, train

from difftori_isaac.learners.model_based_config import ModelBasedConfig


@pytest.mark.parametrize(("num_envs", "given", "steps"), [(50, None, 2500), (60, None, 3000), (60, 0, 0)])
def test_every_environment_acts_randomly_for_a_while(num_envs, given, steps):
    assert build(num_envs, seed_steps=given)[1].seed_steps == steps


@pytest.mark.parametrize(("num_envs", "over"), [(299, False), (300, True)])
def test_the_seed_steps_of_many_environments_outlast_the_schedules(num_envs, over):
    config = ModelBasedConfig()
    steps = config.seed_steps_for(num_envs)
    assert (config.planning_horizon(steps, 3) == 3) is over
    assert (config.exploration_std(steps)[0] == pytest.approx(config.exploration_std_end)) is over


@pytest.mark.parametrize("asked", [None, 3.0])
def test_the_unit_of_rewards_is_their_deviation_or_what_is_asked_for(asked):
    env, algorithm = build(4, **CHEAP | {"reward_scale": asked})
    step, rewards = env.step, []

    def rewarded(actions):
        obs, _, dones, extras = step(actions)
        rewards.append(torch.rand(4))
        return obs, rewards[-1], dones, extras

    env.step = rewarded
    train(env, algorithm, 128)
    expected = torch.cat(rewards).std(correction=0).item() if asked is None else asked
    assert algorithm.world_model.reward_scale.item() == pytest.approx(expected, rel=1e-4)


def test_without_a_finite_seed_step_rewards_stay_as_they_are():
    env, algorithm = build(4, **CHEAP)
    step = env.step

    def failed(actions):
        *answer, extras = step(actions)
        return *answer, extras | {"nonfinite": torch.ones(4, dtype=torch.bool)}

    env.step = failed
    train(env, algorithm, 128)
    assert algorithm.world_model.reward_scale == 1.0


def test_predictions_start_at_the_mean_reward_and_follow_it_fast():
    env, algorithm = build(4, **CHEAP | {"update_to_data": 0.25})
    step, offset = env.step, 20.0

    def shifted(actions):
        obs, rewards, dones, extras = step(actions)
        return obs, rewards + offset, dones, extras

    env.step = shifted
    train(env, algorithm, 128)
    model, batch = algorithm.world_model, algorithm.replay.sample(64, 1)
    x = torch.cat((model.encode(batch.obs[:, 0]), batch.actions[:, 0]), dim=-1)
    mean = batch.rewards.mean() / model.reward_scale
    assert mean > 4.0 and (model.reward_head.value(model.reward_head(x)).mean() - mean).abs() < 1.0
    starts, before = [maximum.item() for maximum in model.maxima()], algorithm.num_updates
    offset = 200.0
    train(env, algorithm, 640)
    assert algorithm.num_updates - before == 128
    assert all(maximum.item() - start > 0.5 for maximum, start in zip(model.maxima(), starts, strict=True))


def test_the_updates_of_the_seed_steps_are_made_up_for_over_iterations():
    env, algorithm = build(4, **CHEAP | {"update_to_data": 1 / 16, "seed_steps": 512})  # 2 of an iteration, 30 before
    train(env, algorithm, 512)
    made = [algorithm.num_updates]
    for _ in range(8):
        train(env, algorithm, algorithm.env_steps + 1)
        made.append(algorithm.num_updates)
    assert made == [8, 16, 24, 32, 40, 42, 44, 46, 48]
