"""The Warp solver plans and differentiates as the torch solver does, and as finite differences do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import warp as wp
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.kernels.system import WarpSystem
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolveStatus
from difftori_isaac.world_models.analytic import AnalyticModel, CartPole, PlanarReacher

HORIZON = 6
HESSIANS = ["gauss_newton", "exact"]


def make_layer(width=None, **changes) -> TrajOptLayer:
    bounds = {} if width is None else {"action_low": -width, "action_high": width}
    config = {"solver": "warp", "horizon": HORIZON, "iterations": 40, "tolerance": 1e-10, "prior_weight": 0.2}
    return TrajOptLayer(TrajOptConfig(**(config | bounds | changes)))


def make(system, num_envs=4, dtype=torch.float64, seed=0):
    """A system with parameters unlike any default, initial states and a prior plan."""
    torch.manual_seed(seed)
    model = system(terminal_weights=2.0, action_weights=0.2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    z0 = 0.5 * torch.randn(num_envs, model.system.state_dim, dtype=torch.float64)
    prior = 0.1 * torch.randn(num_envs, HORIZON, model.system.action_dim, dtype=torch.float64)
    return model.to(dtype), z0.to(dtype), prior.to(dtype)


def gradients(layer, model, z0, prior):
    """Gradients of a linear function of the plan for z0, the prior plan and every parameter of the model."""
    inputs = [z0.clone().requires_grad_(), prior.clone().requires_grad_(), *model.parameters()]
    actions = layer(model, *inputs[:2]).actions
    return torch.autograd.grad((actions * upstream(actions)).sum(), inputs, materialize_grads=True)


def upstream(actions):
    return torch.linspace(-1.0, 1.0, actions.numel(), dtype=actions.dtype).view_as(actions)


@pytest.mark.parametrize("hessian", HESSIANS)
@pytest.mark.parametrize(("system", "width"), [(CartPole, None), (CartPole, 3.0), (PlanarReacher, 0.6)])
def test_equals_gauss_newton_in_solution_and_gradient(system, width, hessian):
    model, z0, prior = make(system)
    inputs = [z0.requires_grad_(), prior.requires_grad_(), *model.parameters()]
    layers = [make_layer(width, hessian=hessian, solver=solver) for solver in ("gauss_newton", "warp")]
    theirs, ours = (layer(model, z0, prior) for layer in layers)
    assert ours.converged.all() and theirs.converged.all()
    if width is not None:
        held = ours.actions.abs() == width
        assert held.any() and not held.all()
    torch.testing.assert_close(ours.actions, theirs.actions, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.cost, theirs.cost)
    weights = upstream(prior)
    expected, actual = (
        torch.autograd.grad(solution.actions, inputs, weights, materialize_grads=True) for solution in (theirs, ours)
    )
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(e.abs().max()))


@pytest.mark.parametrize(
    ("system", "width"), [(CartPole, None), (CartPole, 3.0), (PlanarReacher, None), (PlanarReacher, 0.6)]
)
def test_exact_gradient_equals_finite_differences(system, width):
    model, z0, prior = make(system)
    layer = make_layer(width, hessian="exact")
    analytic = gradients(layer, model, z0, prior)
    generator = torch.Generator().manual_seed(1)
    for tensor, gradient in zip((z0, prior, *model.parameters()), analytic, strict=True):
        direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        values, eps = [], 1e-5
        with torch.no_grad():
            for sign in (1.0, -2.0):
                tensor.add_(sign * eps * direction)
                actions = layer(model, z0, prior).actions
                values.append((actions * upstream(actions)).sum())
            tensor.add_(eps * direction)
        numeric = (values[0] - values[1]) / (2.0 * eps)
        torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-7)


@settings(max_examples=12, deadline=None)
@given(
    num_envs=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    width=st.one_of(st.none(), st.floats(0.05, 2.0)),
    horizon=st.integers(1, 12),
)
def test_plans_satisfy_the_optimality_conditions(num_envs, seed, width, horizon):
    model, z0, prior = make(CartPole, num_envs=num_envs, seed=seed)
    prior = prior[:, :1].expand(-1, horizon, -1)
    solution = make_layer(width, horizon=horizon, iterations=60, tolerance=1e-7)(model, z0, prior)
    assert solution.converged.all()
    problem = TrajOptProblem(model, z0, prior, prior_weight=0.2, discount=0.99)
    actions = solution.actions.detach().requires_grad_()
    cost = problem.cost(actions)
    torch.testing.assert_close(solution.cost, cost.detach())
    (gradient,) = torch.autograd.grad(cost.sum(), actions)
    width = torch.inf if width is None else width
    low, high = actions == -width, actions == width
    assert (actions.abs() <= width).all()
    assert (gradient[~(low | high)].abs() < 1e-5).all()
    assert (gradient[low] > -1e-5).all() and (gradient[high] < 1e-5).all()


def test_an_indefinite_exact_hessian_falls_back_to_gauss_newton():
    """A straight arm that points away from its goal is at a saddle, where Gauss-Newton stays."""
    model, _, prior = make(PlanarReacher, num_envs=2)
    with torch.no_grad():
        model.goal.copy_(torch.tensor([0.8, 0.0, 0.0, 0.0]))
        for weights in (model.weights, model.terminal_weights):
            weights.copy_(torch.tensor([5.0, 5.0, 0.0, 0.0]))
    z0 = torch.tensor([[torch.pi, 0.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0]], dtype=torch.float64)
    exact, gauss_newton = (
        gradients(make_layer(hessian=hessian), model, z0, torch.zeros_like(prior))[1] for hessian in HESSIANS[::-1]
    )
    torch.testing.assert_close(exact[0], gauss_newton[0])
    assert (exact[1] - gauss_newton[1]).abs().max() > 1e-3


def test_plans_in_single_precision():
    reference, z0, prior = make(CartPole, num_envs=16)
    expected, expected_gradients = make_layer()(reference, z0, prior), gradients(make_layer(), reference, z0, prior)
    model, z0, prior = make(CartPole, num_envs=16, dtype=torch.float32)
    layer = make_layer(tolerance=1e-3)
    solution = layer(model, z0, prior)
    assert solution.actions.dtype == torch.float32 and solution.converged.all()
    torch.testing.assert_close(solution.actions.double(), expected.actions, rtol=0, atol=1e-3)
    for a, e in zip(gradients(layer, model, z0, prior), expected_gradients, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=2e-2 * float(e.abs().max()))


def test_a_failing_environment_touches_no_other():
    model, z0, prior = make(CartPole, num_envs=64)
    layer, others = make_layer(iterations=6), torch.arange(64) != 17

    def solve(z0, prior):
        z0, prior = z0.clone().requires_grad_(), prior.clone().requires_grad_()
        solution = layer(model, z0, prior, warm_start=torch.full_like(prior, 0.1))
        return solution, torch.autograd.grad(solution.actions.sum(), [z0, prior, *model.parameters()])

    healthy, healthy_grads = solve(z0, prior)
    for value, broken in ((torch.nan, z0.clone()), (torch.inf, prior.clone()), (1e200, z0.clone())):
        broken[17] = value
        solution, grads = solve(*((broken, prior) if broken.shape == z0.shape else (z0, broken)))
        assert solution.status[17] == SolveStatus.NON_FINITE and not solution.failed[others].any()
        assert (solution.actions[17] == 0.1).all()
        assert torch.equal(solution.actions[others], healthy.actions[others])
        for grad, expected in zip(grads[:2], healthy_grads[:2], strict=True):
            assert torch.equal(grad[others], expected[others]) and not grad[17].any()
        assert all(grad.isfinite().all() for grad in grads[2:])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_plans_in_every_autograd_mode(mode):
    model, z0, prior = make(CartPole)
    expected = make_layer()(model, z0, prior)
    with mode():
        solution = make_layer()(model, z0 + 0.0, prior + 0.0)
    assert not solution.actions.requires_grad
    assert torch.equal(solution.actions, expected.actions)


@wp.func
def _damped_spring(z: Any, a: Any, p: Any):
    stiffness, damping, dt = p[0], p[1], p[2]
    force = a[0] - stiffness * z[0] * z[0] * z[0] - damping * z[1]
    velocity = z[1] + dt * force * z.dtype(0.7)
    return type(z)(z[0] + dt * velocity, velocity)


def test_dynamics_of_a_users_own():
    """Written as a Warp function alone; the torch version is here to check it."""

    class TorchSpring(AnalyticModel):
        def next(self, z, a):
            force = a[:, 0] - self.stiffness * z[:, 0] ** 3 - self.damping * z[:, 1]
            velocity = z[:, 1] + self.dt * force * 0.7
            return torch.stack((z[:, 0] + self.dt * velocity, velocity), dim=1)

    system = WarpSystem(step=_damped_spring, state_dim=2, action_dim=1, parameters=("stiffness", "damping"))
    arguments = (system, {"stiffness": 3.0, "damping": 0.5})
    z0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = torch.zeros(4, HORIZON, 1, dtype=torch.float64)
    models = AnalyticModel(*arguments, goal=0.5).double(), TorchSpring(*arguments, goal=0.5).double()
    layers = make_layer(hessian="exact"), make_layer(hessian="exact", solver="gauss_newton")
    actual, expected = (gradients(layer, model, z0, prior) for layer, model in zip(layers, models, strict=True))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-8)


def test_refuses_a_second_derivative():
    model, z0, prior = make(CartPole)
    plan = make_layer()(model, z0.requires_grad_(), prior).actions
    with pytest.raises(RuntimeError, match="second derivative was asked for"):
        torch.autograd.grad(plan.sum(), z0, create_graph=True)


def test_refuses_models_and_sizes_that_it_cannot_plan_with(make_problem):
    model, z0, prior = make_problem(horizon=HORIZON)
    with pytest.raises(ValueError, match="but the model is a TanhModel; allowed: a subclass of"):
        make_layer()(model, z0, prior)
    with pytest.raises(ValueError, match="have 4 and 2 components; allowed: 4 and 1"):
        make_layer()(CartPole().double(), z0, prior)


@pytest.mark.parametrize(
    "changes", [{"backward_mode": "unroll"}, {"backward_mode": "truncated"}, {"action_rate_weight": 1.0}], ids=str
)
def test_refuses_settings_that_it_cannot_follow(changes):
    with pytest.raises(ValueError, match="cannot do; allowed: "):
        make_layer(**changes)
