"""PPO through the plan, without an environment."""

from __future__ import annotations

import pytest
import torch
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict, TensorDictBase

from difftori_isaac.learners.ppo import TrajOptPPO
from difftori_isaac.policies.trajopt_actor import TrajOptActor

NUM_ENVS, NUM_STEPS = 4, 6


def build(obs=None, trajopt=None, **settings):
    torch.manual_seed(0)
    if obs is None:
        obs = TensorDict({"policy": torch.randn(NUM_ENVS, 5)}, [NUM_ENVS])
    groups = {"actor": list(obs.keys()), "critic": ["policy"]}
    model = {"encoder_dims": (8,)}
    distribution = {"class_name": "GaussianDistribution", "init_std": 0.5}
    actor = TrajOptActor(obs, groups, "actor", 2, trajopt=trajopt, world_model=model, distribution_cfg=distribution)
    storage = RolloutStorage("rl", NUM_ENVS, NUM_STEPS, obs, [2], "cpu")
    return TrajOptPPO(actor, MLPModel(obs, groups, "critic", 1, (8,)), storage, device="cpu", **settings)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.9), (0.5, 0.5)])
def test_plans_have_the_discount_of_ppo_unless_they_have_their_own(given, expected):
    assert build(trajopt={"discount": given}, gamma=0.9).planner.layer.config.gamma == expected


@pytest.mark.parametrize("train_encoder", [False, True])
def test_rollouts_are_copied_only_to_train_the_encoder_on(monkeypatch, train_encoder):
    algorithm = build(model_losses={"num_updates": 1, "batch_size": 8, "horizon": 2, "train_encoder": train_encoder})
    obs = TensorDict({"policy": torch.randn(NUM_ENVS, 5)}, [NUM_ENVS])
    with torch.inference_mode():
        for _ in range(NUM_STEPS):
            algorithm.act(obs)
            algorithm.process_env_step(obs, torch.rand(NUM_ENVS), torch.zeros(NUM_ENVS), {})
        algorithm.compute_returns(obs)
    cat, copied = torch.cat, []

    def watched(tensors, *args, **kwargs):
        copied.extend(tensor for tensor in tensors if isinstance(tensor, TensorDictBase))
        return cat(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "cat", watched)
    assert algorithm.update()["model_consistency"] > 0.0
    assert bool(copied) == train_encoder
