"""Theseus as a backend: its own gradients, direct loss minimization included, against ours and finite differences."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolveStatus


def make_layer(**changes) -> TrajOptLayer:
    settings = {"solver": "theseus", "iterations": 24, "tolerance": 1e-11, "prior_weight": 0.7}
    return TrajOptLayer(TrajOptConfig(**settings | changes))


def gradients(layer, model, z0, prior, upstream):
    inputs = [z0.clone().requires_grad_(), prior.clone().requires_grad_(), *model.parameters()]
    return torch.autograd.grad(layer(model, *inputs[:2]).actions, inputs, upstream)


@pytest.mark.parametrize("scale", [1.0, 1e-6], ids="upstream={}".format)
def test_direct_loss_minimization_approaches_the_implicit_gradient(make_problem, scale):
    """Its error is of first order in epsilon, for weights too, and whatever the scale of the upstream gradient."""
    model, z0, prior = make_problem()
    upstream = scale * torch.randn(prior.shape, dtype=prior.dtype, generator=torch.Generator().manual_seed(4))
    exact = gradients(make_layer(), model, z0, prior, upstream)
    errors = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        result = gradients(make_layer(backward_mode="dlm", dlm_epsilon=epsilon), model, z0, prior, upstream)
        errors.append(max(((a - e).norm() / e.norm()).item() for a, e in zip(result, exact, strict=True)))
    assert errors[0] < 0.05 and errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]


def test_direct_loss_minimization_plans_in_inference_mode(make_problem):
    model, z0, prior = make_problem()
    layer = make_layer(backward_mode="dlm")
    expected = layer(model, z0, prior).actions
    assert expected.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(layer(model, z0 + 0.0, prior + 0.0).actions, expected, rtol=0, atol=1e-12)


def test_direct_loss_minimization_needs_parameters_it_can_reach(make_problem):
    model, z0, prior = make_problem()

    class Closure:
        next, stage_residual, terminal_residual = model.next, model.stage_residual, model.terminal_residual

    assert make_layer(tolerance=1e-8)(Closure(), z0, prior).converged.all()
    with pytest.raises(ValueError, match=r"the model \(Closure\) has none; allowed: implicit, truncated, unroll"):
        make_layer(backward_mode="dlm")(Closure(), z0, prior)


def test_scalar_parameters_get_the_gradient_of_our_solver(make_problem):
    model, z0, prior = make_problem()
    model.scale = torch.nn.Parameter(torch.tensor(1.3, dtype=z0.dtype))
    upstream = torch.ones_like(prior)
    theirs = gradients(make_layer(), model, z0, prior, upstream)
    ours = gradients(make_layer(solver="gauss_newton"), model, z0, prior, upstream)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solver", ["gauss_newton", "mppi"])
def test_direct_loss_minimization_is_theseus_alone(solver):
    with pytest.raises(
        ValueError, match=f"trajopt.solver={solver} does not have; allowed: implicit, truncated, unroll"
    ):
        make_layer(solver=solver, backward_mode="dlm")


def test_gradients_of_models_without_a_module_reach_their_closure(make_problem):
    """Parameters that are no auxiliary variables still get the gradient of every other mode."""
    model, z0, prior = make_problem()

    class Closure:
        next, stage_residual, terminal_residual = model.next, model.stage_residual, model.terminal_residual

    upstream = torch.ones_like(prior)
    for mode in ("implicit", "truncated", "unroll"):
        layer = make_layer(backward_mode=mode, backward_iterations=6)
        closure = torch.autograd.grad(layer(Closure(), z0, prior).actions, list(model.parameters()), upstream)
        module = torch.autograd.grad(layer(model, z0, prior).actions, list(model.parameters()), upstream)
        for a, b in zip(closure, module, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_an_environment_that_diverges_returns_its_warm_start_without_gradient():
    """Undamped Newton steps on the arc tangent overshoot from far away; close to the root they converge."""

    class ArcTangent(torch.nn.Module):
        def next(self, z, a):
            return z + a

        def stage_residual(self, z, a):
            return 0.0 * a

        def terminal_residual(self, z):
            return torch.atan(z)

    z0 = torch.tensor([[3.0], [0.1], [-4.0]], dtype=torch.float64, requires_grad=True)
    layer = make_layer(backward_mode="truncated", horizon=1, iterations=2, prior_weight=1e-3, damping=1e-9)
    warm_start = torch.full((3, 1, 1), 0.2, dtype=torch.float64)
    solution = layer(ArcTangent(), z0, torch.zeros_like(warm_start), warm_start=warm_start)
    assert solution.failed.tolist() == [True, False, True]
    assert (solution.status[[0, 2]] == SolveStatus.DIVERGED).all()
    assert torch.equal(solution.actions[[0, 2]], warm_start[[0, 2]])
    problem = TrajOptProblem(ArcTangent(), z0, torch.zeros_like(warm_start), prior_weight=1e-3, discount=0.99)
    torch.testing.assert_close(solution.cost, problem.cost(solution.actions))
    assert solution.step_norm.isnan().tolist() == [True, False, True]
    solution.actions.sum().backward()
    assert (z0.grad[[0, 2]] == 0).all() and z0.grad[1] != 0
