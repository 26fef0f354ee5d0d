"""PPO through the plan, without an environment."""

from __future__ import annotations

import pytest
import torch
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

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
