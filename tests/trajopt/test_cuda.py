"""On a GPU: the plans and gradients of a CPU, whether a solve is computed, captured or replayed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from difftori_isaac.trajopt import cuda_graph
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.kernels.latent import latent_cost_and_gradient
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel
from difftori_isaac.world_models.prior import prior_plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

OBS_DIM, ACTION_DIM, HORIZON = 7, 2, 3
SETTINGS = {
    "default": {},
    "bounded": {"action_low": -0.2, "action_high": [0.3, None]},
    "action rate": {"action_rate_weight": 0.5},
    "stale Hessian": {"hessian_every": 3},
    "stale Hessian in Warp": {"hessian_every": 3, "latent_kernel": "warp"},
    "exact Hessian": {"hessian": "exact"},
    "return": {"objective": "return"},
    "truncated": {"backward_mode": "truncated"},
    "unroll": {"backward_mode": "unroll"},
    "mppi": {"solver": "mppi"},
    "theseus": {"solver": "theseus"},
}


def make(num_envs=9):
    torch.manual_seed(0)
    config = WorldModelConfig(encoder_dims=(12, 6), hidden_dims=(16,), head_hidden_dims=None, head_scale=1.0)
    return LatentWorldModel(OBS_DIM, ACTION_DIM, config).double(), torch.randn(num_envs, OBS_DIM, dtype=torch.float64)


def plan(layer, model, obs):
    z0 = model.encode(obs)
    return layer(model, z0, prior_plan(model, z0, HORIZON))


def plan_and_gradients(layer, model, obs):
    actions = plan(layer, model, obs).actions
    grads = torch.autograd.grad(actions.square().sum(), list(model.parameters()), materialize_grads=True)
    return [actions.detach(), *grads]


def assert_equal(ours, theirs):
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(value, id=name, marks=pytest.mark.slow if "Warp" in name else ())  # it compiles the kernel
        for name, value in SETTINGS.items()
    ],
)
def test_plans_and_gradients_equal_those_of_a_cpu(settings):
    layer = TrajOptLayer(TrajOptConfig(horizon=HORIZON, iterations=6, **settings))
    model, obs = make()
    on_gpu, changed = deepcopy(model).cuda(), torch.randn_like(obs)
    for seen in (obs, changed, obs, changed):  # the first is computed, the second captured, the others replayed
        assert_equal(plan_and_gradients(layer, on_gpu, seen.cuda()), plan_and_gradients(layer, model, seen))
        with torch.inference_mode():
            assert_equal(plan(layer, on_gpu, seen.cuda())[:3], plan(layer, model, seen)[:3])


def test_a_replay_sees_new_weights_and_new_memory():
    layer, (model, obs) = TrajOptLayer(TrajOptConfig(horizon=HORIZON)), make()
    on_gpu = deepcopy(model).cuda()
    with torch.no_grad():
        for change in (lambda p: p.mul_(0.9), lambda p: p.set_(p.clone().mul_(0.9))):
            for _ in range(3):
                assert_equal(plan(layer, on_gpu, obs.cuda())[:3], plan(layer, model, obs)[:3])
            for parameter in (*model.parameters(), *on_gpu.parameters()):
                change(parameter)
        assert_equal(plan(layer, on_gpu, obs.cuda())[:3], plan(layer, model, obs)[:3])


def test_graphs_beyond_the_most_make_room_for_each_other(monkeypatch):
    monkeypatch.setattr(cuda_graph, "_MAX_GRAPHS", 2)
    layer, (model, obs) = TrajOptLayer(TrajOptConfig(horizon=HORIZON)), make()
    on_gpu = deepcopy(model).cuda()
    with torch.no_grad():
        for num_envs in (9, 8, 9, 7, 9, 8, 8, 8, 9):
            seen = obs[:num_envs]
            assert_equal(plan(layer, on_gpu, seen.cuda())[:3], plan(layer, model, seen)[:3])
    assert len(cuda_graph._GRAPHS[on_gpu]) == 2


def test_a_replay_contains_what_is_not_finite():
    layer, (model, obs) = TrajOptLayer(TrajOptConfig(horizon=HORIZON)), make()
    model, obs = model.cuda(), obs.cuda()
    with torch.no_grad():
        plans = [plan(layer, model, obs) for _ in range(3)]
        bad = plan(layer, model, obs.index_fill(0, torch.tensor([4], device="cuda"), torch.nan))
        again = plan(layer, model, obs)
    assert bad.failed.tolist() == [row == 4 for row in range(9)]
    assert_equal(bad.actions[[0, 8]], plans[0].actions[[0, 8]].cpu())
    assert_equal(again[:3], [tensor.cpu() for tensor in plans[0][:3]])


@pytest.mark.slow  # it compiles the kernel
@pytest.mark.parametrize("num_envs", [1, 33, 200])
def test_rollout_kernel_equals_that_of_a_cpu(num_envs):
    model, obs = make(num_envs)
    z0 = model.encode(obs).detach()
    actions = torch.randn(num_envs, HORIZON, ACTION_DIM, dtype=torch.float64)
    ours = latent_cost_and_gradient(deepcopy(model).cuda(), z0.cuda(), actions.cuda(), 0.9)
    assert_equal(ours, latent_cost_and_gradient(model, z0, actions, 0.9))


def test_bounds_of_each_environment_are_copied_into_a_replay():
    """``TrajOptProblem`` allows bounds for each environment, which differ between calls."""
    from difftori_isaac.trajopt.solvers import gauss_newton

    config = TrajOptConfig(horizon=HORIZON, iterations=6)
    model, obs = make()
    z0 = model.encode(obs).detach()
    prior = prior_plan(model, z0, HORIZON).detach()
    on_gpu = deepcopy(model).cuda()
    for width in (0.1, 0.2, 0.3, 0.4):
        high = prior + width * torch.rand_like(prior)
        here = pose(config, model, z0, prior).replaced(high=high)
        there = pose(config, on_gpu, z0.cuda(), prior.cuda()).replaced(high=high.cuda())
        expected = gauss_newton.solve(here, prior, config, differentiable=False)
        assert_equal(gauss_newton.solve(there, prior.cuda(), config, differentiable=False)[:3], expected[:3])
