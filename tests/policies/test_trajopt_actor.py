"""The trajectory optimizer as an rsl_rl actor."""

from __future__ import annotations

import pytest
import torch
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict

from difftori_isaac.policies.trajopt_actor import TrajOptActor

GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}


def make_obs(num_envs: int = 6) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    return TensorDict({"policy": torch.randn(num_envs, 7, generator=generator)}, batch_size=[num_envs])


def make_actor(**changes) -> TrajOptActor:
    torch.manual_seed(0)
    settings = {
        "trajopt": {"horizon": 3, "prior_weight": 0.1},
        "world_model": {"head_scale": 1.0},
        "distribution_cfg": GAUSSIAN,
    }
    return TrajOptActor(make_obs(), {"actor": ["policy"]}, "actor", 2, **settings | changes)


def test_is_found_by_its_class_path():
    assert resolve_callable("difftori_isaac.policies.trajopt_actor:TrajOptActor") is TrajOptActor


@pytest.mark.parametrize("name", ["HeteroscedasticGaussianDistribution", "BetaDistribution"])
def test_distributions_that_ask_for_more_than_means_are_refused(name):
    with pytest.raises(ValueError, match=f"distribution is {name}, .*; allowed: GaussianDistribution"):
        make_actor(distribution_cfg={"class_name": name})


def test_update_recomputes_the_distribution_of_the_rollout():
    """PPO's ratio is one before the first step: the mean is one function of the observation, in every autograd mode."""
    actor, obs = make_actor(), make_obs()
    with torch.inference_mode():
        actions = actor(obs, stochastic_output=True)
        rollout_log_prob = actor.get_output_log_prob(actions)
        rollout_mean = actor.output_mean
    actor(make_obs().apply(torch.zeros_like), stochastic_output=True)  # another call leaves no trace
    actor(obs, stochastic_output=True)
    torch.testing.assert_close(actor.get_output_log_prob(actions.clone()), rollout_log_prob.clone())
    torch.testing.assert_close(actor(obs), rollout_mean.clone())


def test_acts_with_the_plan_rather_than_the_prior():
    actor, obs = make_actor(), make_obs()
    model = actor.planner.world_model
    with torch.no_grad():
        prior = model.pi(model.encode(obs["policy"]))
        gap = (actor(obs) - prior).abs()
    assert gap.max() > 0.1
    assert actor.planner.statistics.pop()["plan_shift"] == pytest.approx(gap.mean().item(), rel=1e-4)


def test_surrogate_gradient_reaches_every_part_of_the_model():
    actor, obs = make_actor(), make_obs()
    actor(obs, stochastic_output=True)
    actor.get_output_log_prob(torch.ones(6, 2)).sum().backward()
    for name, module in actor.planner.world_model.named_children():
        assert all(parameter.grad.any() for parameter in module.parameters() if parameter.ndim == 2), name
    assert actor.distribution.std_param.grad.any()


def test_plans_start_at_the_prior():
    """Scaled heads keep the first plans close to the prior, so that learning starts where PPO would."""

    def gap(head_scale):
        actor, obs = make_actor(world_model={"head_scale": head_scale}), make_obs()
        model = actor.planner.world_model
        with torch.no_grad():
            return (actor(obs) - model.pi(model.encode(obs["policy"]))).abs().max().item()

    assert gap(0.1) < 0.1 * gap(1.0)


def test_nan_observation_acts_finitely_and_is_counted():
    actor, obs = make_actor(), make_obs()
    healthy = actor(obs).detach()
    actor.planner.statistics.pop()
    obs["policy"][3] = float("nan")
    with torch.inference_mode():
        actions = actor(obs)
    others = torch.arange(6) != 3
    assert actions.isfinite().all()
    torch.testing.assert_close(actions[others].clone(), healthy[others])
    statistics = actor.planner.statistics.pop()
    assert statistics["solver_failures"] == 1 and statistics["solver_converged"] <= 5 / 6
    assert actor.planner.statistics.pop() == {}


def test_state_dict_restores_the_policy():
    actor, obs = make_actor(obs_normalization=True), make_obs()
    actor.update_normalization(obs)
    torch.manual_seed(1)
    other = TrajOptActor(
        make_obs(), {"actor": ["policy"]}, "actor", 2, obs_normalization=True, distribution_cfg=GAUSSIAN
    )
    assert not torch.allclose(other(obs), actor(obs))
    other.load_state_dict(actor.state_dict())
    other.planner.layer = actor.planner.layer
    assert torch.equal(other(obs), actor(obs))


def test_unknown_setting_and_observation_of_unknown_shape_are_refused():
    with pytest.raises(TypeError, match="horizn"):
        make_actor(trajopt={"horizn": 3})
    voxels = TensorDict({"policy": torch.zeros(2, 3, 8, 8, 8)}, batch_size=[2])
    with pytest.raises(ValueError, match=r"group policy has shape \(3, 8, 8, 8\)"):
        TrajOptActor(voxels, {"actor": ["policy"]}, "actor", 2)


@pytest.mark.parametrize(
    ("trajopt", "message"),
    [
        ({"solver": "warp"}, "the model is a LatentWorldModel; allowed: a subclass of"),
        ({"action_low": [-1.0, 0.0, 0.0]}, "trajopt.action_low has 3 entries, but an action has 2 components"),
    ],
)
def test_what_the_layer_refuses_is_refused_when_the_policy_is_built(trajopt, message):
    with pytest.raises(ValueError, match=message):
        make_actor(trajopt=trajopt)
