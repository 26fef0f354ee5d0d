"""Gradients through the plan, proven against finite differences and against each other in float64."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer

BOUNDS = {"free": (None, None), "bounded": (-0.25, 0.3)}


def converged_config(**changes) -> TrajOptConfig:
    """Settings under which the small problems converge to machine precision."""
    return TrajOptConfig(**({"horizon": 3, "iterations": 18, "tolerance": 1e-11, "prior_weight": 0.7} | changes))


def plan_loss(layer, model, z0, prior, upstream):
    return (layer(model, z0, prior).actions * upstream).sum()


def gradients(layer, model, z0, prior, upstream):
    """Gradients of a linear function of the plan for z0, the prior plan and every parameter of the model."""
    inputs = [z0.clone().requires_grad_(), prior.clone().requires_grad_(), *model.parameters()]
    return torch.autograd.grad(plan_loss(layer, model, *inputs[:2], upstream), inputs)


def directional_difference(layer, model, z0, prior, upstream, directions, eps=1e-5):
    """Central difference of the same function along one direction through all of its inputs at once."""
    inputs = (z0, prior, *model.parameters())
    values = []
    with torch.no_grad():
        originals = [tensor.clone() for tensor in inputs]
        for sign in (1.0, -1.0):
            for tensor, original, direction in zip(inputs, originals, directions, strict=True):
                tensor.copy_(original + sign * eps * direction)
            values.append(plan_loss(layer, model, z0, prior, upstream))
        for tensor, original in zip(inputs, originals, strict=True):
            tensor.copy_(original)
    return (values[0] - values[1]) / (2 * eps)


def assert_all_close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    "mode", [{"backward_mode": "implicit", "hessian": "exact"}, {"backward_mode": "unroll"}], ids=["implicit", "unroll"]
)
def test_matches_finite_differences(make_problem, mode, bounds):
    low, high = BOUNDS[bounds]
    layer = TrajOptLayer(converged_config(action_low=low, action_high=high, **mode))
    model, z0, prior = make_problem(num_envs=2)
    solution = layer(model, z0, prior)
    held = (solution.actions == low) | (solution.actions == high) if low is not None else torch.zeros(1)
    assert solution.converged.all()
    assert bool(held.any()) == (bounds == "bounded") and not held.all()
    upstream = torch.randn(prior.shape, dtype=prior.dtype, generator=torch.Generator().manual_seed(1))
    analytic = gradients(layer, model, z0, prior, upstream)
    directions = [torch.randn_like(gradient) for gradient in analytic]
    projected = sum((gradient * direction).sum() for gradient, direction in zip(analytic, directions, strict=True))
    numeric = directional_difference(layer, model, z0, prior, upstream, directions)
    torch.testing.assert_close(projected, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    "mode", [{"backward_mode": "implicit", "hessian": "exact"}, {"backward_mode": "unroll"}], ids=["implicit", "unroll"]
)
def test_reused_hessians_reach_the_same_optimum_and_gradient(make_problem, mode, bounds):
    low, high = BOUNDS[bounds]
    model, z0, prior = make_problem(num_envs=2)
    inputs, results = [z0.requires_grad_(), prior.requires_grad_(), *model.parameters()], []
    for every in (1, 4):
        layer = TrajOptLayer(
            converged_config(iterations=24, hessian_every=every, action_low=low, action_high=high, **mode)
        )
        solution = layer(model, z0, prior)
        assert solution.converged.all()
        results.append([solution.actions, *torch.autograd.grad(solution.actions.sum(), inputs)])
    assert_all_close(*results, 1e-8)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_implicit_equals_unroll_at_convergence(make_problem, bounds):
    low, high = BOUNDS[bounds]
    model, z0, prior = make_problem()
    upstream = torch.randn(prior.shape, dtype=prior.dtype, generator=torch.Generator().manual_seed(2))
    modes = ({"backward_mode": "implicit", "hessian": "exact"}, {"backward_mode": "unroll"})
    implicit, unroll = (
        gradients(TrajOptLayer(converged_config(action_low=low, action_high=high, **mode)), model, z0, prior, upstream)
        for mode in modes
    )
    assert_all_close(implicit, unroll, 1e-6)


def test_gauss_newton_hessian_is_exact_without_residuals_at_the_optimum(make_problem):
    """With zero residuals at the optimum the curvature terms vanish, and both Hessians give one gradient."""
    model, z0, prior = make_problem()
    with torch.no_grad():
        for layer in (model.stage, model.terminal):
            layer.weight.zero_()
            layer.bias.zero_()
    upstream = torch.ones_like(prior)
    results = [
        gradients(TrajOptLayer(converged_config(hessian=hessian)), model, z0, prior, upstream)
        for hessian in ("gauss_newton", "exact")
    ]
    assert_all_close(*results, 1e-10)


def test_truncated_approaches_unroll(make_problem):
    """Differentiating more of the last iterations closes in on differentiating all of them."""
    model, z0, prior = make_problem()
    upstream = torch.ones_like(prior)
    config = {"iterations": 12, "backward_mode": "truncated", "tolerance": 1e-14}
    reference = gradients(
        TrajOptLayer(converged_config(**config | {"backward_mode": "unroll"})), model, z0, prior, upstream
    )
    errors = []
    for backward_iterations in (1, 3, 12):
        layer = TrajOptLayer(converged_config(**config, backward_iterations=backward_iterations))
        result = gradients(layer, model, z0, prior, upstream)
        errors.append(sum((a - b).norm() for a, b in zip(result, reference, strict=True)).item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-12


def test_implicit_gradient_refuses_a_second_derivative(make_problem):
    model, z0, prior = make_problem()
    z0.requires_grad_()
    plan = TrajOptLayer(converged_config())(model, z0, prior).actions
    with pytest.raises(RuntimeError, match="backward_mode=unroll"):
        torch.autograd.grad(plan.sum(), z0, create_graph=True)


def test_theseus_agrees_on_solution_and_gradient(make_problem):
    model, z0, prior = make_problem()
    upstream = torch.randn(prior.shape, dtype=prior.dtype, generator=torch.Generator().manual_seed(3))
    layers = [TrajOptLayer(converged_config(solver=solver)) for solver in ("gauss_newton", "theseus")]
    ours, theirs = (layer(model, z0, prior).actions for layer in layers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert_all_close(*(gradients(layer, model, z0, prior, upstream) for layer in layers), 1e-5)


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
def test_theseus_differentiates_its_iterations(make_problem, mode):
    """Differentiated from the warm start to convergence, Theseus' gradients are ours."""
    model, z0, prior = make_problem()
    upstream = torch.ones_like(prior)
    config = {"backward_mode": mode, "backward_iterations": 12, "iterations": 12}
    results = [
        gradients(TrajOptLayer(converged_config(solver=solver, **config)), model, z0, prior, upstream)
        for solver in ("gauss_newton", "theseus")
    ]
    assert_all_close(*results, 1e-5)


def test_truncated_differentiates_converged_environments(make_problem):
    """A solve that converges before its differentiated iterations still has their gradient."""
    model, z0, prior = make_problem()
    config = {"backward_mode": "truncated", "backward_iterations": 6, "iterations": 30, "tolerance": 1e-3}
    reference = converged_config(backward_mode="implicit", hessian="exact")
    results = [
        gradients(TrajOptLayer(settings), model, z0, prior, torch.ones_like(prior))
        for settings in (converged_config(**config), reference)
    ]
    assert_all_close(*results, 1e-3)
