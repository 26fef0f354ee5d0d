"""Rollouts of a latent model in Warp, their gradients and the solves that use them equal those of torch."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.kernels.latent import _Simulation, latent_cost, latent_cost_and_gradient, latent_rollout
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.linearize import linearize
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.world_models.config import SMOOTH_ACTIVATIONS, WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel

LATENT_DIM, ACTION_DIM = 6, 3


def make(num_envs=5, horizon=3, dims=(9,), activation="swish", dtype=torch.float64, seed=0):
    """A model, states and plans of order one."""
    torch.manual_seed(seed)
    config = WorldModelConfig(
        encoder_dims=(LATENT_DIM,),
        hidden_dims=dims,
        head_hidden_dims=None,
        activation=activation,
        head_scale=1.0,
    )
    model = LatentWorldModel(LATENT_DIM, ACTION_DIM, config).double()
    z0 = torch.randn(num_envs, LATENT_DIM, dtype=torch.float64)
    actions = torch.randn(num_envs, horizon, ACTION_DIM, dtype=torch.float64)
    return model.to(dtype), z0.to(dtype), actions.to(dtype)


def torch_rollout(model, z0, actions):
    states, residuals = [z0], []
    for a in actions.unbind(dim=1):
        residuals.append(model.stage_residual(states[-1], a))
        states.append(model.next(states[-1], a))
    return torch.stack(states, dim=1), torch.stack(residuals, dim=1), model.terminal_residual(states[-1])


def weights(model):
    return [p for network in (model.dynamics, model.reward_head, model.value_head) for p in network.parameters()]


def gradients(rollout, model, z0, actions):
    """Outputs, and gradients of a linear function of them for z0, actions and weights."""
    inputs = [z0.clone().requires_grad_(), actions.clone().requires_grad_()]
    outputs = rollout(model, *inputs)
    loss = sum((x * torch.linspace(-1.0, 2.0, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in outputs)
    return [*outputs, *torch.autograd.grad(loss, [*inputs, *weights(model)])]


def check_rollout(tolerance, *problem):
    ours, theirs = gradients(latent_rollout, *problem), gradients(torch_rollout, *problem)
    for actual, expected in zip(ours, theirs, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.integers(1, 40),
    horizon=st.integers(1, 5),
    dims=st.lists(st.integers(1, 80), max_size=3),
    activation=st.sampled_from(SMOOTH_ACTIVATIONS),
    seed=st.integers(0, 2**16),
)
def test_rollout_and_gradients_equal_those_of_torch(num_envs, horizon, dims, activation, seed):
    check_rollout(1e-10, *make(num_envs, horizon, dims, activation, seed=seed))


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_every_activation_also_in_single_precision_and_far_from_zero(activation):
    model, z0, actions = make(33, 2, (70, 5), activation)
    check_rollout(1e-10, model, 30.0 * z0, actions)
    check_rollout(1e-5, model.float(), z0.float(), actions.float())


@pytest.mark.parametrize(("dims", "horizon"), [((9,), 1), ((70, 33), 4)])
def test_cost_and_gradient_equal_those_of_torch(dims, horizon):
    model, z0, actions = make(num_envs=19, horizon=horizon, dims=dims)
    actions.requires_grad_()
    _, stage, terminal = torch_rollout(model, z0, actions)
    scale = 0.9 ** torch.arange(horizon, dtype=torch.float64)
    expected = 0.5 * ((scale[:, None] * stage.square()).sum(dim=(1, 2)) + 0.9**horizon * terminal.square().sum(dim=1))
    (expected_gradient,) = torch.autograd.grad(expected.sum(), actions)
    cost, gradient = latent_cost_and_gradient(model, z0, actions, 0.9)
    torch.testing.assert_close(cost, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)
    assert torch.equal(cost, latent_cost(model, z0, actions, 0.9))


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_a_non_finite_environment_is_seen_and_touches_no_other(activation):
    model, z0, actions = make(num_envs=20, activation=activation)
    healthy = latent_cost_and_gradient(model, z0, actions, 0.9)
    z0[17] = torch.nan
    others = torch.arange(20) != 17
    for broken, whole in zip(latent_cost_and_gradient(model, z0, actions, 0.9), healthy, strict=True):
        assert torch.equal(broken[others], whole[others]) and broken[17].isnan().all()


def problems(**changes):
    model, z0, prior = make(num_envs=7, horizon=4)
    changes = {"horizon": 4, "hessian_every": 3, "prior_weight": 0.4, "action_rate_weight": 0.3} | changes
    configs = [TrajOptConfig(latent_kernel=kernel, **changes) for kernel in ("torch", "warp")]
    return configs, model, z0, prior


def test_linearize_and_cost_use_it_where_autograd_does_not_record(monkeypatch):
    configs, model, z0, prior = problems()
    theirs, ours = (pose(config, model, z0, prior) for config in configs)
    actions, hessian = prior + 0.1, linearize(theirs, prior).hessian
    with torch.no_grad():
        results = [linearize(problem, actions, hessian).tensors for problem in (ours, theirs)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(ours.cost(actions), theirs.cost(actions))
        monkeypatch.setattr(LatentWorldModel, "next", None)
        monkeypatch.setattr(LatentWorldModel, "next_derivatives", None)
        linearize(ours, actions, hessian)
        ours.cost(actions)
    for recorded in (ours.cost, lambda actions: linearize(ours, actions, hessian)):
        with pytest.raises(TypeError, match="not callable"):
            recorded(actions)


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 30, "hessian": "exact"},
        {"iterations": 6, "action_low": -0.5, "action_high": 0.6},
        {"iterations": 3, "backward_mode": "truncated", "backward_iterations": 1},
        {"iterations": 3, "solver": "mppi"},
    ],
    ids=str,
)
def test_plans_and_their_gradients_equal_those_of_torch(changes):
    configs, model, z0, prior = problems(**changes)
    results = []
    for config in configs:
        inputs = [z0.clone().requires_grad_(), prior.clone().requires_grad_()]
        solution = TrajOptLayer(config)(model, *inputs)
        loss = (solution.actions.sin() * solution.actions).sum()
        grads = torch.autograd.grad(loss, [*inputs, *weights(model)], materialize_grads=True)
        assert (solution.actions - prior).abs().max() > 0.1
        results.append([solution.actions, solution.cost, *grads])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backward", [False, True])
def test_rollouts_are_freed(backward):
    def num_held():
        gc.collect()
        return sum(type(thing) is _Simulation for thing in gc.get_objects())

    before = num_held()
    outputs = latent_rollout(*make())
    assert num_held() == before + 1
    if backward:
        sum(output.sum() for output in outputs).backward()
    del outputs
    assert num_held() == before


def test_notices_a_parameter_changed_before_the_backward_pass():
    model, z0, actions = make()
    states = latent_rollout(model, z0, actions.requires_grad_()).states
    with torch.no_grad():
        model.dynamics[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 6)],
        [nn.Linear(9, 9), nn.ELU(alpha=2.0), nn.Linear(9, 6)],
        [nn.Linear(9, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 6)],
        [nn.Linear(9, 9, bias=False), nn.Tanh(), nn.Linear(9, 6)],
        [nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9), nn.SiLU(), nn.Linear(9, 6)],
        [*[nn.Linear(9, 9), nn.Tanh()] * 8, nn.Linear(9, 6)],
    ],
    ids=str,
)
def test_refuses_networks_that_it_does_not_know(layers):
    model, z0, actions = make()
    model.dynamics = nn.Sequential(*layers).double()
    with pytest.raises(ValueError, match=r"^dynamics of the model \(LatentWorldModel\) is .*; allowed with .*Tanh"):
        latent_rollout(model, z0, actions)


def test_refuses_models_and_types_that_it_cannot_read(make_problem):
    model, z0, actions = make_problem()
    with pytest.raises(ValueError, match=r"^dynamics of the model \(TanhModel\) is .*; allowed with "):
        latent_rollout(model, z0, actions)
    model, z0, actions = make()
    with pytest.raises(ValueError, match=r"parameters of type torch.float64 on cpu; allowed: torch.float32 on cpu"):
        latent_rollout(model, z0.float(), actions.float())


@pytest.mark.parametrize(
    "changes",
    [
        {"hessian_every": 1},
        {"solver": "theseus"},
        {"solver": "warp"},
        {"objective": "return"},
        {"objective": "return_residual"},
        {"latent_kernel": "cuda"},
    ],
    ids=str,
)
def test_refuses_settings_that_would_ignore_it(changes):
    with pytest.raises(ValueError, match=r"^trajopt\..*; allowed: "):
        TrajOptConfig(**({"latent_kernel": "warp", "hessian_every": 2} | changes))
