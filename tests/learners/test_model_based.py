"""The model-based learner on a small cart: it learns, follows its schedules, and goes on from what it saved."""

from copy import deepcopy
from io import BytesIO

import pytest
import torch
from small_cart import CHEAP, SCALAR, Cart, build, collect, train

from difftori_isaac.learners.model_based import check_learnable
from difftori_isaac.learners.model_based_config import ModelBasedConfig


@pytest.mark.slow
def test_returns_rise():
    learner = {"update_to_data": 0.2, "learning_rate": 2e-3, "plan_batch_size": 16, "exploration_correlation": 0.0}
    rows = train(*build(seed=2, trajopt={"prior_weight": 0.2}, horizon=2, **learner), 1024)
    rewards = torch.tensor([reward for reward, _ in rows])
    assert rewards[:3].mean() < -0.8 and rewards[4:].min() > -0.4, rewards
    metrics = rows[-1][1]
    for name in (
        "solver_converged",
        "update_solver_converged",
        "solver_failures",
        "consistency",
        "plan",
        "grad_plan_q",
    ):
        assert torch.isfinite(torch.tensor(metrics[name])), name
    assert metrics["solver_failures"] == 0
    assert metrics["nonfinite_model_losses"] == metrics["nonfinite_plan_losses"] == 0


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_is_as_wide_and_as_correlated_as_asked_for(correlation):
    noise = dict.fromkeys(("exploration_std_start", "exploration_std_end", "exploration_std_end_max"), 0.05)
    noise["exploration_correlation"] = correlation
    for seed_steps, std in ((0, 0.05), (10**6, 3**-0.5)):
        env, algorithm = build(2000, seed_steps=seed_steps, **noise)
        obs = env.get_observations()
        with torch.inference_mode():
            base = algorithm.get_policy()(obs) if seed_steps == 0 else 0.0
            first, second = (algorithm.act(obs) - base for _ in range(2))
        assert second.std().item() == pytest.approx(std, rel=0.05)
        assert torch.corrcoef(torch.stack((first, second)).squeeze(-1))[0, 1].item() == pytest.approx(
            correlation, abs=0.06
        )


def test_environments_differ_in_the_width_of_their_noise():
    settings = {"exploration_std_start": 0.2, "exploration_std_end": 0.02, "exploration_std_end_max": 0.1}
    env, algorithm = build(3, seed_steps=0, exploration_steps=90, exploration_correlation=0.0, **settings)
    algorithm.policy.action = lambda obs: torch.zeros(3, 1)
    for env_steps, stds in ((0, [0.2, 0.2, 0.2]), (45, [0.11, 0.13, 0.15]), (90, [0.02, 0.06, 0.1])):
        algorithm.env_steps = env_steps - 3
        obs = collect(env, algorithm, env.get_observations(), 1)[0]
        with torch.inference_mode():
            noise = torch.stack([algorithm.act(obs) for _ in range(2000)]).std(dim=0).squeeze(-1)
        assert noise.tolist() == pytest.approx(stds, rel=0.1)
        assert algorithm.policy.output_std.tolist() == pytest.approx([sum(stds) / 3])


@pytest.mark.parametrize("num_envs", [4, 32])
def test_schedules_count_environment_steps(num_envs):
    env, algorithm = build(
        num_envs,
        **CHEAP | {"update_to_data": 0.03},
        horizon_start=1,
        horizon_steps=256,
        exploration_steps=512,
        exploration_std_end_max=0.05,
    )
    train(env, algorithm, 256)
    assert algorithm.env_steps == 256 and algorithm.num_updates == 7 and algorithm.updates_due == pytest.approx(0.68)
    assert algorithm.policy.horizon == 3 and algorithm.policy.output_std.item() == pytest.approx(0.275)


def test_training_goes_on_from_a_saved_state_bit_for_bit():
    settings = CHEAP | {"save_replay": True, "sampling": "prioritized"}
    env, algorithm = build(**settings)
    train(env, algorithm, 256)
    file = BytesIO()
    torch.save(algorithm.save(), file)
    file.seek(0)
    _, other = build(**settings, seed=1)
    assert other.load(torch.load(file, weights_only=True), None, True)
    algorithm.load(algorithm.save(), None, True)  # both begin new episodes
    for learner, world in ((algorithm, deepcopy(env)), (other, env)):
        torch.manual_seed(7)
        train(world, learner, 512)
    assert other.num_updates == algorithm.num_updates == 10
    for (name, value), expected in zip(
        other.world_model.state_dict().items(), algorithm.world_model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


def test_priorities_without_an_exponent_are_none():
    env, algorithm = build(4, **CHEAP | {"sampling": "prioritized", "priority_alpha": 0.0})
    train(env, algorithm, 256)
    assert algorithm.num_updates > 0 and (algorithm.replay.sample(16, 2).weights == 1.0).all()


def test_plans_have_the_discount_of_the_learner_unless_they_have_their_own():
    for given, expected in ((None, 0.9), (0.5, 0.5)):
        _, algorithm = build(discount=0.9, trajopt={"discount": given})
        assert algorithm.discount == 0.9 and {layer.config.gamma for layer in algorithm.policy.layers} == {expected}


@pytest.mark.parametrize(("given", "discount"), [(None, 0.95), (0.99, 0.99)])
def test_values_of_a_checkpoint_mean_the_same_in_episodes_of_any_length(given, discount, monkeypatch):
    env, algorithm = build(4)
    saved, obs, action = algorithm.save(), env.get_observations(), torch.zeros(4, 1)
    monkeypatch.setattr(Cart, "max_episode_length", 1000)
    other = build(4, discount=given)[1]
    other.load(saved, None, strict=True)
    assert other.save()["discount"] == discount and other.save()["critic_unit"] == saved["critic_unit"]
    assert {layer.config.gamma for layer in other.policy.layers} == {other._step.discount} == {discount}
    models = [learner.world_model for learner in (algorithm, other)]
    for target in (False, True):
        first, second = (model.q(model.encode(obs), action, target=target) for model in models)
        assert torch.equal(first, second)
    for name in ("raw_critics", "target_raw_critics"):
        first, second = (getattr(model, name)(model.features(obs), action) for model in models)
        assert torch.equal(first, second)
    former = build(4)[1]
    former.load({name: saved[name] for name in saved if name not in ("discount", "critic_unit")}, None, strict=True)
    assert former.discount == 0.995 and former.world_model.critic_unit == pytest.approx(200.0)


def test_what_is_saved_within_an_iteration_counts_whole_ones(tmp_path):
    env, algorithm = build(**CHEAP)
    train(env, algorithm, 256)
    whole = algorithm.save()
    collect(env, algorithm, env.get_observations(), 3)
    counts = ("env_steps", "num_updates", "updates_due")
    assert algorithm.env_steps > whole["env_steps"] and all(algorithm.save()[name] == whole[name] for name in counts)


def test_a_saved_replay_buffer_is_for_learning_alone():
    env, algorithm = build(4, **CHEAP | {"save_replay": True})
    train(env, algorithm, 256)
    with pytest.raises(
        ValueError, match=r"saved replay buffer has .* of 4 environments; .* or learner.save_replay=false"
    ):
        build(8, **CHEAP | {"save_replay": True})[1].load(algorithm.save(), None, True)
    _, other = build(8, **CHEAP)
    assert other.load(algorithm.save(), None, True) and len(other.replay) == 0


def test_a_resumed_run_without_its_replay_acts_by_its_policy_until_it_has_seen_enough():
    env, algorithm = build(**CHEAP | {"seed_steps": 256})
    train(env, algorithm, 256)
    other_env, other = build(**CHEAP | {"seed_steps": 256}, seed=1)
    other.load(algorithm.save(), None, True)
    updates, obs = other.num_updates, other_env.get_observations()
    with torch.inference_mode():
        other.act(obs)
    assert other.policy.statistics.pop()["solver_converged"] > 0.0, "it plans, and does not act at random"
    train(other_env, other, 256 + 128)
    assert other.num_updates == updates
    assert other.updates_due == algorithm.updates_due, "what is seen again has had its updates"
    train(other_env, other, 256 + 512)
    assert other.num_updates > updates


def test_a_run_resumed_before_its_first_update_begins_its_seed_steps_anew():
    settings = CHEAP | {"seed_steps": 512}
    env, algorithm = build(**settings)
    train(env, algorithm, 256)
    other_env, other = build(**settings, seed=1)
    other.load(algorithm.save(), None, True)
    assert other.env_steps == 256 and other.updates_due == 0.0
    train(other_env, other, 256 + 384)
    assert other.num_updates == 0 and "solver_converged" not in other.update(), "it acts at random"
    train(other_env, other, 256 + 512)
    assert other.num_updates > 0 and other.num_updates + other.updates_due == pytest.approx(0.02 * 512)


def test_failures_are_contained():
    env, algorithm = build(**CHEAP | {"batch_size": 512})
    obs = env.get_observations()
    obs, _ = collect(env, algorithm, obs, 16)
    algorithm.replay.rows["obs/policy"][3, 0] = torch.nan
    metrics = algorithm.update()
    assert metrics["nonfinite_model_losses"] == 1.0
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert all(value.isfinite().all() for value in algorithm.world_model.state_dict().values())


def test_steps_of_a_failed_environment_are_not_stored():
    env, algorithm = build(4)
    with torch.inference_mode():
        obs, rewards, dones, extras = env.step(algorithm.act(env.get_observations()))
        algorithm.process_env_step(
            obs, rewards, dones, extras | {"nonfinite": torch.tensor([True, False, False, True])}
        )
    assert algorithm.replay.rows["step"].any(dim=0).tolist() == [False, True, True, False]


def test_the_environment_is_given_scaled_actions():
    noise = dict.fromkeys(("exploration_std_start", "exploration_std_end", "exploration_std_end_max"), 0.0)
    env, algorithm = build(action_scale=3.0, seed_steps=0, **noise)
    obs = env.get_observations()
    with torch.inference_mode():
        actions, deterministic = algorithm.act(obs), algorithm.get_policy()(obs)
    assert torch.equal(actions, deterministic)
    assert algorithm.policy.action(obs).abs().max() <= 1.0 and torch.equal(actions, 3.0 * algorithm.policy.action(obs))


def test_actions_that_the_environment_would_clip_are_refused(monkeypatch):
    monkeypatch.setattr(Cart, "clip_actions", 2.0, raising=False)
    check_learnable(ModelBasedConfig(action_scale=2.0), Cart(1))
    with pytest.raises(ValueError, match=r"action_scale is 3.0; allowed: at most 2.0, at which the environment clips"):
        check_learnable(ModelBasedConfig(action_scale=3.0), Cart(1))


def test_sub_sequences_longer_than_an_episode_are_refused():
    longest = int(Cart.max_episode_length)
    check_learnable(ModelBasedConfig(horizon=longest), Cart(1))
    with pytest.raises(
        ValueError, match=rf"learner.horizon is {longest + 1}; allowed: at most {longest}, the steps of"
    ):
        check_learnable(ModelBasedConfig(horizon=longest + 1), Cart(1))


@pytest.mark.parametrize("act_with", ["plan", "prior"])
@pytest.mark.parametrize("seed_steps", [0, 10**4])
def test_narrower_bounds_hold_for_what_is_executed(seed_steps, act_with):
    bounds = {"action_low": -0.1, "action_high": 0.4}
    env, algorithm = build(500, seed_steps=seed_steps, act_with=act_with, action_scale=2.0, trajopt=bounds)
    obs = env.get_observations()
    with torch.inference_mode():
        actions = algorithm.act(obs) / 2.0
        algorithm.world_model.prior[-1].bias.add_(30.0)
        policy = algorithm.get_policy()
        assert torch.equal(policy.planned_actions(obs)[:, 0], policy(obs)) and (policy(obs) == 0.8).all()
    assert actions.min() == pytest.approx(-0.1, abs=0.02) and actions.min() >= -0.1
    assert actions.max() == pytest.approx(0.4, abs=0.02) and actions.max() <= 0.4


def test_a_prior_learns_within_narrower_bounds_and_keeps_to_those_it_has_learned_within():
    bounds = {"action_low": -0.1, "action_high": 0.4}
    (_, narrow), (_, wide) = build(4, trajopt=bounds), build(4)
    z = torch.randn(200, wide.world_model.config.latent_dim)
    for algorithm in (narrow, wide):
        torch.nn.init.normal_(algorithm.world_model.prior[-1].weight, std=1e4)
    for algorithm, low, high in ((narrow, -0.1, 0.4), (wide, -1.0, 1.0)):
        actions = algorithm.world_model.sample_pi(z).action
        assert actions.min().item() == pytest.approx(low) and actions.max().item() == pytest.approx(high)
        assert torch.equal(actions, algorithm.world_model.pi(z))
    saved = wide.save()
    before = {name: saved["world_model_state_dict"].pop(name) for name in ("action_middle", "action_reach")}
    for changes in ({}, before):  # of a version that did not save them, of this one
        narrow.load(saved | {"world_model_state_dict": saved["world_model_state_dict"] | changes}, None, strict=True)
        assert torch.equal(narrow.world_model.pi(z), wide.world_model.pi(z))
        assert narrow.policy.bounded(narrow.world_model.pi(z)).max() == torch.tensor(0.4)
    wide.load(build(4, trajopt=bounds)[1].save(), None, strict=True)
    assert wide.world_model.pi(1e4 * z).max().item() <= 0.4 + 1e-6 and wide.world_model.action_reach == 0.25


def test_actions_at_their_bound_are_counted_before_noise():
    env, algorithm = build(4, seed_steps=0)
    algorithm.policy.action = lambda obs: torch.tensor([[1.0], [-0.96], [0.9], [0.0]])
    with torch.inference_mode():
        algorithm.act(env.get_observations())
    assert algorithm.update()["actions_at_bound"] == 0.5
    env, algorithm = build(4, seed_steps=0, trajopt={"action_low": 0.0, "action_high": 0.5})
    algorithm.policy.action = lambda obs: torch.tensor([[0.5], [0.0], [0.001], [0.4]])
    with torch.inference_mode():
        algorithm.act(env.get_observations())
    assert algorithm.update()["actions_at_bound"] == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world_model": SCALAR}, "objective is 'least_squares', but world_model.reward_head is 'scalar'"),
        ({"obs_groups": {"actor": ["critic"]}}, "obs_groups has 'critic'; allowed: policy"),
        ({"obs_groups": {"acter": ["policy"]}}, "obs_groups has the set 'acter'; allowed with this learner: actor"),
        ({"trajopt": {"action_low": [-0.5, -0.5]}}, "action_low has 2 entries, but an action has 1 components"),
        ({"trajopt": {"action_high": 5.0}}, r"action_high is 5\.0; allowed with learner=model_based: from -1 to 1"),
        (
            {"trajopt": {"action_low": [None]}},
            r"action_low is .*None.*; allowed with learner=model_based: from -1 to 1",
        ),
        (
            {"trajopt": {"solver": "theseus"}},
            "solver is 'theseus', which has no bounds; allowed here: gauss_newton, mppi",
        ),
        ({"dataset": "a.hdf5", "demo_share": 0.001}, "demo_share is 0.001, 0 of learner.batch_size = 64; allowed with"),
        ({"exploration_correlation": 1.0}, "exploration_correlation is 1.0; allowed: at least 0, below 1"),
        ({"plan_batch_size": 512}, "plan_batch_size is 512; allowed: at most learner.batch_size = 64"),
        ({"update_to_data": 0.0}, "update_to_data is 0.0; allowed: above 0"),
        ({"discount": 1.5}, "discount is 1.5; allowed: a number from 0 to 1"),
        ({"seed_steps": None, "buffer_capacity": 2000}, "buffer_capacity is 2000; allowed: .* here 2500, or nothing"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
