"""Policies that observe images and point clouds."""

from __future__ import annotations

import pytest
import torch
from rsl_rl.models import CNNModel, MLPModel
from tensordict import TensorDict

from difftori_isaac.policies.feature_model import FeatureModel
from difftori_isaac.policies.trajopt_actor import TrajOptActor
from difftori_isaac.world_models.encoder_config import EncoderConfig
from difftori_isaac.world_models.encoders import GroupEncoders

GROUPS = {"flat": ["policy"], "pixels": ["pixels"], "all": ["policy", "pixels", "point_cloud"]}
CNN = {"output_channels": [4, 5], "kernel_size": [5, 3], "stride": [2, 2], "activation": "relu"}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}


def make_obs(num_envs: int = 6) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    groups = {
        "policy": torch.randn(num_envs, 7, generator=generator),
        "pixels": torch.rand(num_envs, 3, 12, 20, generator=generator),
        "point_cloud": torch.randn(num_envs, 9, 3, generator=generator),
    }
    return TensorDict(groups, batch_size=[num_envs])


def make_model(obs_set: str, **changes) -> FeatureModel:
    torch.manual_seed(0)
    encoders = GroupEncoders(make_obs(), GROUPS[obs_set], EncoderConfig().filled_from(CNN))
    return FeatureModel(make_obs(), GROUPS, obs_set, 2, encoders, (16,), **changes)


def make_actor(obs_set: str) -> TrajOptActor:
    torch.manual_seed(0)
    world_model = {"encoder_dims": (16, 8), "head_scale": 1.0}
    settings = {"trajopt": {"horizon": 3}, "world_model": world_model, "distribution_cfg": GAUSSIAN}
    return TrajOptActor(make_obs(), GROUPS, obs_set, 2, encoders=EncoderConfig().filled_from(CNN), **settings)


def test_is_rsl_rl_s_own_model_where_that_exists():
    """The same outputs from one seed but for rounding: for flat groups its MLP, for images its CNN."""
    for obs_set, reference, settings in (("flat", MLPModel, {}), ("pixels", CNNModel, {"cnn_cfg": CNN})):
        torch.manual_seed(0)
        expected = reference(make_obs(), GROUPS, obs_set, 2, (16,), **settings)
        actual = make_model(obs_set)(make_obs())
        torch.testing.assert_close(actual, expected(make_obs()), rtol=0.0, atol=1e-6, msg=obs_set)


def test_normalises_flat_groups_alone():
    model = make_model("all", obs_normalization=True)
    before = model.get_latent(make_obs())
    model.update_normalization(make_obs())
    after = model.get_latent(make_obs())
    assert not torch.allclose(after[:, :7], before[:, :7]) and torch.equal(after[:, 7:], before[:, 7:])
    model = make_model("pixels", obs_normalization=True)
    model.update_normalization(make_obs())
    assert model(make_obs()).isfinite().all()


@pytest.mark.parametrize("obs_set", ["pixels", "all"])
def test_the_gradient_through_the_plan_reaches_the_encoders(obs_set):
    actor = make_actor(obs_set)
    actor(make_obs(), stochastic_output=True)
    actor.get_output_log_prob(torch.ones(6, 2)).sum().backward()
    assert actor.planned_actions(make_obs()).shape == (6, 3, 2)
    for name, parameter in actor.encoders.named_parameters():
        assert parameter.grad.any(), name


def test_a_plan_depends_on_every_group_it_observes():
    actor = make_actor("all")
    with torch.no_grad():
        before = actor(make_obs())
        for name in GROUPS["all"]:
            obs = make_obs()
            obs[name] = obs[name] + 1.0
            assert not torch.allclose(actor(obs), before), name


@pytest.mark.parametrize("make", [make_model, make_actor])
def test_only_flat_policies_are_exported(make):
    for export in (lambda policy: policy.as_jit(), lambda policy: policy.as_onnx(verbose=False)):
        with pytest.raises(ValueError, match="observes pixels, point_cloud, which cannot be exported"):
            export(make("all"))
