"""PPO through the plan on the real cart-pole."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.runners import OnPolicyRunner

from difftori_isaac.envs.isaaclab import load_ppo_settings, make_env
from difftori_isaac.learners.config import ModelLossConfig, PPOConfig
from difftori_isaac.learners.ppo import TrajOptPPO, build_ppo
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.config import WorldModelConfig

pytestmark = pytest.mark.sim
TASK = "DiffTori-Cartpole-Direct"


@pytest.fixture(scope="module")
def env():
    env = make_env(TASK, num_envs=8, device="cpu", seed=0)
    yield env
    env.close()


def build(env, policy="trajopt", trajopt=None, **model_losses):
    torch.manual_seed(0)
    learner = PPOConfig(model_losses=ModelLossConfig(**{"num_updates": 2, "batch_size": 32} | model_losses))
    return build_ppo(
        env,
        policy=policy,
        trajopt=trajopt or TrajOptConfig(),
        world_model=WorldModelConfig(encoder_dims=(16, 8)),
        learner=learner.filled_from(load_ppo_settings(TASK)),
        device="cpu",
    )


def collect(env, algorithm):
    obs = env.get_observations()
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.compute_returns(obs)


def test_an_update_trains_every_part_of_the_model(env):
    algorithm = build(env)
    before = {name: parameter.clone() for name, parameter in algorithm.world_model.named_parameters()}
    collect(env, algorithm)
    statistics = algorithm.update()
    for name, parameter in algorithm.world_model.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name]), name
    for name in ("surrogate", "value", "model_consistency", "grad_dynamics", "solver_converged"):
        assert torch.isfinite(torch.tensor(statistics[name])), name
    assert statistics["grad_reward_head"] > 0 and statistics["grad_value_head"] > 0
    assert statistics["solver_failures"] == 0 and statistics["update_solver_failures"] == 0


def test_trains_with_a_planner_that_samples(env):
    """The mean is one function in rollout and update, and the surrogate trains encoder and prior through it."""
    algorithm = build(env, trajopt=TrajOptConfig(solver="mppi", mppi={"num_samples": 32, "num_elites": 8}))
    torch.nn.init.normal_(algorithm.world_model.reward_head[-1].weight)  # plans far from the prior
    for _ in range(2):
        collect(env, algorithm)
        obs = algorithm.storage.observations.flatten(0, 1)
        executed = algorithm.storage.distribution_params[0].flatten(0, 1)
        torch.testing.assert_close(algorithm.planner(obs["policy"]).detach(), executed, rtol=0, atol=1e-5)
        statistics = algorithm.update()
    assert statistics["grad_prior"] > 0 and statistics["grad_encoder"] > 0
    assert "grad_reward_head" not in statistics
    assert statistics["plan_shift"] > 0 and statistics["update_solver_failures"] == 0


def test_distillation_moves_the_prior_to_the_plan(env):
    only_prior = {"consistency_coef": 0.0, "reward_coef": 0.0, "value_coef": 0.0, "prior_coef": 1.0}
    algorithm = build(env, num_updates=200, learning_rate=3e-3, **only_prior)
    torch.nn.init.normal_(algorithm.world_model.reward_head[-1].weight)  # plans far from the prior
    collect(env, algorithm)
    obs = algorithm.storage.observations["policy"].flatten(0, 1)

    def gap():
        with torch.no_grad():
            return algorithm.planner.plan(obs).shift[:, 0].square().mean()

    before = gap()
    assert algorithm._update_model()["model_prior"] > 0
    assert gap() < 0.5 * before


def test_a_saved_learner_continues_bit_for_bit(env):
    algorithm, other = build(env), build(env)
    collect(env, algorithm)
    algorithm.update()
    other.load(deepcopy(algorithm.save()), None, True)
    collect(env, algorithm)
    for name in ("observations", "actions", "rewards", "dones", "values", "returns", "advantages", "actions_log_prob"):
        getattr(other.storage, name).copy_(getattr(algorithm.storage, name))
    other.storage.distribution_params = tuple(p.clone() for p in algorithm.storage.distribution_params)
    other._last_obs, other._rewards, other._rewarded = algorithm._last_obs, algorithm._rewards, algorithm._rewarded
    results = []
    for learner in (algorithm, other):
        torch.manual_seed(3)
        results.append(learner.update())
    losses = [
        {name: value for name, value in result.items() if not name.startswith(("solver", "plan"))} for result in results
    ]
    assert losses[0] == losses[1]
    for a, b in zip(algorithm.actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_model_learns_rewards_and_not_the_values_that_bootstrap_time_outs(env):
    algorithm = build(env)
    obs = env.get_observations()
    cut_off, nonfinite = (torch.arange(env.num_envs) == row for row in (0, 1))
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            changed = extras | {"time_outs": cut_off, "nonfinite": nonfinite}
            algorithm.process_env_step(obs, rewards, dones | cut_off | nonfinite, changed)
        algorithm.compute_returns(obs)
    assert torch.equal(algorithm._rewards[-1], rewards)
    assert not torch.equal(algorithm.storage.rewards[-1, 0, 0], rewards[0])

    def reward_loss():
        torch.manual_seed(0)
        return build_again()._update_model()["model_reward"]

    def build_again():
        other = build(env)
        other.storage, other._last_obs = algorithm.storage, algorithm._last_obs
        other._rewards, other._rewarded = algorithm._rewards, algorithm._rewarded
        return other

    before = reward_loss()
    algorithm._rewards[:, 1] += 7.0  # of an environment whose answers were not finite
    algorithm.storage.rewards += 7.0
    assert reward_loss() == before
    algorithm._rewards[:, 0] += 7.0  # last steps, all of them
    assert reward_loss() != before


def test_what_would_be_ignored_is_refused(env):
    algorithm = build(env)
    parts = (algorithm.actor, algorithm.critic, algorithm.storage)
    with pytest.raises(ValueError, match="optimizer is 'sgd'; allowed with a trajectory optimizer: adam"):
        TrajOptPPO(*parts, optimizer="sgd")


def test_runs_under_rsl_rls_own_runner(env, tmp_path):
    """Actor and algorithm plug into an rsl_rl configuration by their paths; the runner saves and loads them."""
    settings = load_ppo_settings(TASK) | {"num_steps_per_env": 4, "save_interval": 1}
    settings["actor"] = {
        "class_name": "difftori_isaac.policies.trajopt_actor:TrajOptActor",
        "trajopt": {"horizon": 2},
        "world_model": {"encoder_dims": (8, 8)},
        "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0},
    }
    settings["algorithm"] = settings["algorithm"] | {
        "class_name": "difftori_isaac.learners.ppo:TrajOptPPO",
        "model_losses": {"num_updates": 1, "batch_size": 16},
    }
    runner = OnPolicyRunner(env, deepcopy(settings), log_dir=str(tmp_path), device="cpu")
    runner.learn(2)
    policy = runner.get_inference_policy("cpu")
    other = OnPolicyRunner(env, deepcopy(settings), device="cpu")
    other.load(str(tmp_path / "model_1.pt"))
    obs = env.get_observations()
    assert torch.equal(other.get_inference_policy("cpu")(obs), policy(obs))


def test_the_baseline_is_rsl_rls_own(env):
    algorithm = build(env, policy="mlp")
    assert type(algorithm) is PPO and type(algorithm.actor) is MLPModel


def test_one_seed_starts_both_policies_alike(env):
    """A comparison with the same seeds differs by the planner alone."""
    learner = PPOConfig().filled_from(load_ppo_settings(TASK))
    algorithms = []
    for policy in ("trajopt", "mlp"):
        torch.manual_seed(5)
        model = WorldModelConfig().filled_from(learner.actor_hidden_dims, learner.activation)
        algorithms.append(
            build_ppo(env, policy=policy, trajopt=TrajOptConfig(), world_model=model, learner=learner, device="cpu")
        )
    ours, baseline = algorithms
    obs = env.get_observations()
    assert (ours.actor(obs) - baseline.actor(obs)).abs().max() < 0.01
    assert torch.equal(ours.critic(obs), baseline.critic(obs))


def test_model_losses_longer_than_the_rollout_are_refused(env):
    with pytest.raises(ValueError, match=r"learner\.model_losses\.horizon is 17; allowed: at most"):
        build(env, horizon=17)
    assert isinstance(build(env, horizon=16), TrajOptPPO)


def test_more_mini_batches_than_samples_are_refused(env):
    learner = PPOConfig(num_mini_batches=1000).filled_from(load_ppo_settings(TASK))
    models = {"trajopt": TrajOptConfig(), "world_model": WorldModelConfig(encoder_dims=(16, 8))}
    with pytest.raises(ValueError, match=r"num_mini_batches is 1000; allowed: at most num_envs \* .* = 128"):
        build_ppo(env, policy="mlp", learner=learner, device="cpu", **models)


def test_an_advantage_alone_is_refused(env, monkeypatch):
    monkeypatch.setattr(env, "num_envs", 1)
    learner = PPOConfig(num_mini_batches=1, num_steps_per_env=1).filled_from(load_ppo_settings(TASK))
    models = {"trajopt": TrajOptConfig(), "world_model": WorldModelConfig(encoder_dims=(16, 8))}
    with pytest.raises(ValueError, match=r"learner\.num_steps_per_env is 1; allowed: at least 2"):
        build_ppo(env, policy="mlp", learner=learner, device="cpu", **models)


def test_groups_that_are_not_observed_are_refused(env):
    learner = PPOConfig(obs_groups={"actor": ["camera"]}).filled_from(load_ppo_settings(TASK))
    models = {"trajopt": TrajOptConfig(), "world_model": WorldModelConfig(encoder_dims=(16, 8))}
    with pytest.raises(ValueError, match=r"learner\.obs_groups has 'camera'; allowed: policy"):
        build_ppo(env, policy="mlp", learner=learner, device="cpu", **models)


def test_plans_have_the_discount_of_the_learner_unless_they_have_their_own(env):
    learner = PPOConfig(gamma=0.8).filled_from(load_ppo_settings(TASK))
    for given, expected in ((None, 0.8), (0.5, 0.5)):
        models = {"trajopt": TrajOptConfig(discount=given), "world_model": WorldModelConfig(encoder_dims=(16, 8))}
        algorithm = build_ppo(env, policy="trajopt", learner=learner, device="cpu", **models)
        assert algorithm.planner.layer.config.gamma == expected
    assert TrajOptConfig().gamma == 0.99
    with pytest.raises(ValueError, match=r"\(learner.gamma or learner.discount\) is 0; allowed: above 0"):
        TrajOptConfig().discounted_by(0.0)
