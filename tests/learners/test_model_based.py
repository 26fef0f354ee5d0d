"""The model-based learner on a small environment of its own: a cart driven to a place by its acceleration."""

from copy import deepcopy
from io import BytesIO

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.model_based import build_model_based
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.td_losses import model_losses, plan_loss, prior_loss
from difftori_isaac.policies.planner import SolverStatistics
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.td_config import TdWorldModelConfig

CHEAP = {"update_to_data": 0.02, "seed_steps": 128, "batch_size": 16, "plan_batch_size": 4}
SMALL = {"latent_dim": 12, "encoder_dims": (24,), "hidden_dims": (24,)}
SCALAR = {"reward_head": "scalar", "value_head": "scalar"}
PARTS = ("encoder", "dynamics", "reward", "q", "prior")


class Cart:
    """Drive a cart to the origin within 40 steps; position [m] and velocity [m/s] are observed."""

    num_actions, max_episode_length, device = 1, 40, "cpu"

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.state, self.age = self._start(), torch.randint(40, (num_envs,))

    def _start(self):
        return 2.0 * torch.rand(self.num_envs, 2) - 1.0

    def get_observations(self):
        return TensorDict({"policy": self.state.clone()}, [self.num_envs])

    def step(self, actions):
        velocity = self.state[:, 1] + 0.2 * actions[:, 0]
        self.state = torch.stack((self.state[:, 0] + 0.2 * velocity, velocity), dim=1)
        self.age = self.age + 1
        rewards = -self.state[:, 0].square() - 0.1 * velocity.square()
        lost = self.state[:, 0].abs() > 3.0
        rewards, dones = rewards - 10.0 * lost, lost | (self.age >= 40)
        extras = {"time_outs": (self.age >= 40) & ~lost, "final_obs": self.get_observations()}
        self.state = torch.where(dones[:, None], self._start(), self.state)
        self.age = torch.where(dones, 0, self.age)
        return self.get_observations(), rewards, dones.long(), extras


def build(num_envs=16, *, seed=0, trajopt=None, world_model=None, device="cpu", **learner):
    torch.manual_seed(seed)
    env = Cart(num_envs)
    defaults = {
        "seed_steps": 256,
        "exploration_steps": 2000,
        "horizon_start": 3,
        "batch_size": 64,
        "plan_batch_size": 32,
    }
    algorithm = build_model_based(
        env,
        policy="trajopt",
        trajopt=TrajOptConfig(**{"hessian_every": 4} | (trajopt or {})),
        world_model=TdWorldModelConfig(**SMALL | (world_model or {})),
        learner=ModelBasedConfig(**defaults | learner),
        device=device,
    )
    return env, algorithm


def collect(env, algorithm, obs, num_steps=None):
    rewards = []
    with torch.inference_mode():
        for _ in range(num_steps or algorithm.config.num_steps_per_env):
            obs, reward, dones, extras = env.step(algorithm.act(obs).to(env.device))
            algorithm.process_env_step(obs, reward, dones, extras)
            rewards.append(reward)
        algorithm.compute_returns(obs)
    return obs, torch.stack(rewards)


def train(env, algorithm, env_steps):
    obs, rows = env.get_observations(), []
    while algorithm.env_steps < env_steps:
        obs, rewards = collect(env, algorithm, obs)
        rows.append((rewards.mean().item(), algorithm.update()))
    return rows


@pytest.mark.slow
def test_returns_rise():
    learner = {"update_to_data": 0.2, "learning_rate": 2e-3, "plan_batch_size": 16, "exploration_correlation": 0.0}
    rows = train(*build(seed=1, trajopt={"prior_weight": 0.2}, horizon=2, **learner), 1024)
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


@pytest.mark.parametrize(
    ("trajopt", "world_model"),
    [({}, {}), ({"objective": "return"}, SCALAR)],
    ids=["least_squares", "return"],
)
def test_the_plan_loss_has_the_gradient_of_finite_differences_in_every_part(trajopt, world_model):
    tight = {
        "prior_weight": 3.0,
        "iterations": 60,
        "tolerance": 1e-8,
        "hessian": "exact",
        "hessian_every": 1,
        "horizon": 2,
    }
    env, algorithm = build(trajopt=tight | trajopt, world_model=world_model, horizon_start=2)
    model = algorithm.world_model.double()
    collect(env, algorithm, env.get_observations(), 6)
    batch = algorithm.replay.sample(8, 2)
    batch = batch._replace(obs=batch.obs.double())
    for part, parameters in model.parts().items():
        for parameter in parameters:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        direction = [torch.randn_like(parameter) for parameter in parameters]
        gradients = torch.autograd.grad(plan_loss(algorithm.policy, batch, 8), parameters, materialize_grads=True)
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
        values, step = [], 1e-6
        for sign in (1.0, -1.0):
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.data.add_(sign * step * along)
            values.append(plan_loss(algorithm.policy, batch, 8).item())
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.data.sub_(sign * step * along)
        assert algorithm.policy.statistics.pop()["update_solver_converged"] == 1.0
        assert abs(slope) > 1e-9 and slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3), part


@pytest.mark.parametrize(
    ("trajopt", "learner", "trained"),
    [
        ({}, {}, set(PARTS)),
        ({"train_through_plan": False}, {}, set()),
        ({"solver": "mppi", "mppi": {"num_samples": 16, "num_elites": 4}}, {}, set()),
        ({}, {"plan_coef": 0.0}, set()),
    ],
    ids=["default", "mismatch", "mppi", "no plan loss"],
)
def test_which_parts_have_a_gradient_through_the_plan(trajopt, learner, trained):
    env, algorithm = build(trajopt=trajopt, **CHEAP | learner)
    metrics = train(env, algorithm, 256)[-1][1]
    assert {part for part in PARTS if metrics.get(f"grad_plan_{part}", 0.0) > 0.0} == trained
    assert {part for part in PARTS if metrics.get(f"grad_model_{part}", 0.0) > 0.0} == set(PARTS) - {"prior"}
    assert metrics["grad_prior_prior"] > 0.0 and 0.0 <= metrics["solver_converged"] <= 1.0


@pytest.mark.parametrize("coef", [0.1, 0.0])
def test_a_saturated_prior_comes_back_to_where_it_can_learn(coef):
    _, algorithm = build(saturation_coef=coef)
    model, z = algorithm.world_model, torch.randn(1, 64, SMALL["latent_dim"])
    model.prior[-1].bias.data.fill_(12.0)
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        prior_loss(model, z, torch.full((1, 64), 1 / 64), algorithm.config)[0].backward()
        optimizer.step()
    assert (model.prior(z).abs().max() < 2.6) == (coef > 0.0)


@pytest.mark.parametrize("bootstrap", ["observation", "latent"])
def test_values_bootstrap_from_the_critics_asked_for(bootstrap):
    env, algorithm = build(bootstrap=bootstrap)
    collect(env, algorithm, env.get_observations(), 6)
    batch, model = algorithm.replay.sample(32, 3), algorithm.world_model

    def value_loss():
        return model_losses(model, batch, algorithm.config, algorithm.discount).losses["value"].item()

    for name in ("observation", "latent"):
        before = value_loss()
        for parameter in (model.target_raw_critics if name == "observation" else model.target_critics).parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        assert (value_loss() != before) == (name == bootstrap)


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


def test_a_step_through_plans_follows_so_many_without(monkeypatch):
    env, algorithm = build(**CHEAP | {"plan_interval": 3})
    train(env, algorithm, 128)
    losses = {}

    def counted(*args):
        losses[algorithm.num_updates] = loss = plan_loss(*args)
        return loss

    monkeypatch.setattr("difftori_isaac.learners.optimizer_step.plan_loss", counted)
    algorithm.updates_due = 5.0
    metrics = algorithm.update()
    assert algorithm.num_updates == 7 and list(losses) == [3, 6]
    assert metrics["plan"] == pytest.approx(sum(loss.item() for loss in losses.values()) / 2)


def test_slow_copies_follow_once_in_so_many_steps():
    env, algorithm = build(**CHEAP | {"target_update_interval": 3})
    train(env, algorithm, 128)
    model, moved = algorithm.world_model, []
    for _ in range(6):
        before = [parameter.clone() for parameter in model.target_critics.parameters()]
        algorithm.updates_due = 1.0
        algorithm.update()
        if not all(map(torch.equal, before, model.target_critics.parameters())):
            moved.append(algorithm.num_updates)
    assert algorithm.num_updates == 8 and moved == [3, 6]


def test_statistics_of_solves_begin_anew_once_they_are_read():
    env, algorithm = build(4)
    policy, fresh, obs = algorithm.policy, SolverStatistics(), env.get_observations()
    with torch.inference_mode():
        policy.plan(obs)
    assert policy.statistics.pop() and policy.statistics.pop() == {}
    fresh.add(policy.plan(obs.apply(torch.neg)))
    assert policy.statistics.pop() == fresh.pop()


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


@pytest.mark.parametrize(("num_envs", "given", "steps"), [(50, None, 2500), (60, None, 3000), (60, 0, 0)])
def test_every_environment_acts_randomly_for_a_while(num_envs, given, steps):
    assert build(num_envs, seed_steps=given)[1].seed_steps == steps


def test_a_rare_large_reward_does_not_rule_what_the_model_learns():
    env, algorithm = build(4, **CHEAP)
    train(env, algorithm, 256)
    model, batch = algorithm.world_model, algorithm.replay.sample(16, 3)
    norms = []
    for penalty in (10.0, 1000.0):
        rewards = batch.rewards.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(-penalty))
        losses = model_losses(model, batch._replace(rewards=rewards), algorithm.config, algorithm.discount).losses
        gradients = torch.autograd.grad(losses["reward"], [*model.encoder.parameters()])
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm())
    assert norms[0] > 0 and norms[1].allclose(norms[0])


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


@pytest.mark.parametrize("asked", [False, True])
def test_observations_have_the_unit_that_they_come_in_or_that_of_the_seed_steps(asked):
    env, algorithm = build(4, **CHEAP | {"obs_normalization": asked})
    observe, unit, origin = env.get_observations, torch.tensor([1000.0, 0.1]), torch.tensor([0.0, 5.0])
    env.get_observations = lambda: observe().apply(lambda values: unit * values + origin)
    train(env, algorithm, 128)
    held = algorithm.replay.observations("policy")
    features = algorithm.world_model.features(TensorDict({"policy": held}, [len(held)]))
    if not asked:
        assert len(held) == 128 and torch.equal(features, held)
        return
    std = held.std(dim=0, unbiased=False)
    torch.testing.assert_close(features, (held - held.mean(dim=0)) / (std + 0.01))
    _, other = build(4, **CHEAP | {"obs_normalization": True})
    other.load(algorithm.save(), None, True)
    train(env, algorithm, 256)
    for learner in (algorithm, other):
        assert torch.equal(learner.world_model.features(TensorDict({"policy": held}, [len(held)])), features)


def test_without_a_finite_seed_step_rewards_and_observations_stay_as_they_are():
    env, algorithm = build(4, **CHEAP | {"obs_normalization": True})
    step = env.step

    def failed(actions):
        *answer, extras = step(actions)
        return *answer, extras | {"nonfinite": torch.ones(4, dtype=torch.bool)}

    env.step = failed
    train(env, algorithm, 128)
    model, obs = algorithm.world_model, env.get_observations()
    assert model.reward_scale == 1.0 and torch.equal(model.features(obs), obs["policy"])


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
    train(other_env, other, 256 + 256)
    assert other.num_updates > updates


def test_failures_are_contained():
    env, algorithm = build(**CHEAP | {"batch_size": 512})
    obs = env.get_observations()
    obs, _ = collect(env, algorithm, obs, 16)
    algorithm.replay.rows["obs/policy"][3, 0] = torch.nan
    metrics = algorithm.update()
    assert metrics["nonfinite_model_losses"] == 1.0
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert all(value.isfinite().all() for value in algorithm.world_model.state_dict().values())


TD_MPC2 = {
    "latent_norm": "simnorm",
    "simnorm_dim": 4,
    "layer_norm": True,
    "num_q": 5,
    "prior": "gaussian",
    "value_scale": "percentile",
    "reward_head": "two_hot",
    "value_head": "two_hot",
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    ("trajopt", "world_model", "learner"),
    [
        ({}, {}, {}),
        ({"hessian": "exact"}, {}, {"sampling": "prioritized", "target_update_interval": 3}),
        ({"objective": "return"}, TD_MPC2, {"bootstrap": "latent", "plan_interval": 1}),
    ],
    ids=["default", "exact Hessian, prioritized", "tdmpc2"],
)
def test_on_a_gpu_replayed_steps_are_what_they_are_one_by_one(trajopt, world_model, learner):
    learned = []
    for cuda_graph in (True, False):
        settings = CHEAP | {"horizon_start": 1, "horizon_steps": 512, "update_to_data": 0.1} | learner
        env, algorithm = build(
            trajopt=trajopt | {"cuda_graph": cuda_graph}, world_model=world_model, device="cuda", **settings
        )
        metrics = train(env, algorithm, 1024)[-1][1]
        model = algorithm.world_model
        learned.append({name: value.clone() for name, value in model.state_dict().items()} | metrics)
        algorithm.replay.rows["obs/policy"][:] = torch.nan
        algorithm.updates_due = 5.0
        assert algorithm.update()["nonfinite_model_losses"] == 1.0
        assert all(value.isfinite().all() for value in model.state_dict().values())
    assert algorithm.num_updates > 80
    torch.testing.assert_close(*learned, rtol=1e-3, atol=1e-4)


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


def test_actions_at_their_bound_are_counted_before_noise():
    env, algorithm = build(4, seed_steps=0)
    algorithm.policy.action = lambda obs: torch.tensor([[1.0], [-0.96], [0.9], [0.0]])
    with torch.inference_mode():
        algorithm.act(env.get_observations())
    assert algorithm.update()["actions_at_bound"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world_model": SCALAR}, "objective is 'least_squares', but world_model.reward_head is 'scalar'"),
        ({"obs_groups": {"actor": ["critic"]}}, "obs_groups has 'critic'; allowed: policy"),
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
