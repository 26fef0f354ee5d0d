"""The sampling baseline: deterministic, within its bounds and its memory, better with more effort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.trajopt.config import MppiConfig, TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.problem import TrajOptProblem


def make_layer(mppi: dict | None = None, **changes) -> TrajOptLayer:
    return TrajOptLayer(TrajOptConfig(**{"solver": "mppi", "iterations": 4} | changes, mppi=MppiConfig(**mppi or {})))


def test_closes_in_on_the_optimum(make_problem):
    problem = make_problem(num_envs=16, horizon=3, scale=3.0)
    optimum = TrajOptLayer(TrajOptConfig(iterations=40, tolerance=1e-9))(*problem)
    gaps = []
    for iterations in (1, 4, 16):
        layer = make_layer({"std_min": 1e-3, "temperature": 0.5}, iterations=iterations)
        gaps.append((layer(*problem).cost - optimum.cost).max().item())
    assert gaps[0] > 10.0 * gaps[1] > 100.0 * gaps[2]
    assert gaps[2] < 1e-6


@settings(max_examples=10, deadline=None)
@given(
    num_envs=st.integers(1, 6),
    horizon=st.integers(1, 4),
    action_dim=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    low=st.sampled_from([None, -0.1]),
    high=st.sampled_from([None, 0.2]),
)
def test_plans_are_a_function_of_the_problem_within_bounds(
    make_problem, num_envs, horizon, action_dim, seed, low, high
):
    """One noise for all: plans depend on no other environment, no random state, no size of a batch."""
    model, z0, prior = make_problem(num_envs, horizon, action_dim, seed, scale=2.0)
    sizes = {"num_samples": 24, "num_elites": 5}
    bounds = {"action_low": (low,) * action_dim, "action_high": (high,) + (None,) * (action_dim - 1)}
    solution = make_layer(sizes, horizon=horizon, **bounds)(model, z0, prior)
    if low is not None:
        assert (solution.actions >= low).all()
    if high is not None:
        assert (solution.actions[..., 0] <= high).all()
    start = prior.clamp(min=low) if low is not None else prior.clone()
    start[..., 0] = start[..., 0].clamp(max=high) if high is not None else start[..., 0]
    first_cost = TrajOptProblem(model, z0, prior, 1.0, 0.99).cost(start)
    assert (solution.cost <= first_cost * (1.0 + 1e-12)).all()
    order = torch.randperm(num_envs)
    again = make_layer(sizes | {"max_batch": 7}, horizon=horizon, **bounds)(model, z0[order], prior[order])
    torch.testing.assert_close(again.actions, solution.actions[order], rtol=0, atol=1e-9)


def test_default_settings_find_small_gains(make_problem):
    """Costs of a model in units of the spread of values differ by hundredths."""
    problem = make_problem(num_envs=32, horizon=3, action_dim=6, scale=0.5)
    first = TrajOptProblem(*problem, 1.0, 0.99).cost(problem[2]).mean()
    best = TrajOptLayer(TrajOptConfig(iterations=40, tolerance=1e-9))(*problem).cost.mean()
    assert 0.001 < first - best < 0.01
    assert first - make_layer(iterations=3)(*problem).cost.mean() > 0.7 * (first - best)


def test_another_seed_is_another_plan(make_problem):
    problem = make_problem()
    first, same, other = (make_layer({"seed": seed})(*problem).actions for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_momentum_keeps_a_share_of_the_plan_before(make_problem):
    problem = make_problem(scale=3.0)
    plans = [make_layer({"momentum": share}, iterations=1)(*problem).actions for share in (0.0, 0.25)]
    torch.testing.assert_close(plans[1], plans[0].lerp(problem[2], 0.25))


def test_gradient_reaches_the_prior_alone(make_problem):
    model, z0, prior = make_problem()
    z0.requires_grad_()
    prior.requires_grad_()
    layer = make_layer()
    plan = layer(model, z0, prior).actions
    upstream = torch.randn_like(plan)
    grads = torch.autograd.grad(plan, [prior, z0, *model.parameters()], upstream, allow_unused=True)
    assert torch.equal(grads[0], upstream) and all(grad is None for grad in grads[1:])
    with torch.inference_mode():
        assert torch.equal(layer(model, z0 + 0.0, prior + 0.0).actions, plan)


def test_samples_of_infinite_cost_are_left_out(make_problem):
    model, z0, prior = make_problem(num_envs=3)
    next_state = model.next
    model.next = lambda z, a: next_state(z, a) / (a[:, :1] < 0.3)
    solution = make_layer()(model, z0, torch.zeros_like(prior))
    assert not solution.failed.any() and (solution.actions[..., 0] < 0.3).all()
    z0[1] = torch.nan
    broken = make_layer()(model, z0, torch.zeros_like(prior))
    assert broken.failed.tolist() == [False, True, False]
    assert torch.equal(broken.actions[[0, 2]], solution.actions[[0, 2]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 1}, "num_samples is 1; allowed: an integer of at least 2"),
        ({"num_elites": 513}, "num_elites is 513; allowed: at most trajopt.mppi.num_samples = 512"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"std_min": 2.0}, "std_min at most std_max"),
        ({"momentum": 1.0}, "momentum is 1.0; allowed: at least 0, below 1"),
    ],
)
def test_bad_settings_name_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        MppiConfig(**changes)


def test_modes_that_differentiate_iterations_are_refused():
    with pytest.raises(ValueError, match=r"'unroll', but the samples of .* have no gradient"):
        make_layer(backward_mode="unroll")
