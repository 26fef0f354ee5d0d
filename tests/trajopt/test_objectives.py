"""Returns as objectives: their plans are optima, their gradients those of finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.curvature import derivatives, modulus
from difftori_isaac.trajopt.gradients import exact_hessian
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.trajopt.solvers.theseus_lm import solve as solve_with_theseus

BOUNDS = {"free": {}, "bounded": {"action_low": (-0.1, None), "action_high": (0.05, 0.02)}}


class TwinValueModel(nn.Module):
    """A reward and two value functions of any sign of curvature; the smaller value counts."""

    def __init__(self, state_dim: int = 4, action_dim: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.dynamics = nn.Linear(state_dim + action_dim, state_dim)
        self.rewards = nn.Sequential(nn.Linear(state_dim + action_dim, 8), nn.Tanh(), nn.Linear(8, 1))
        self.values = nn.Sequential(nn.Linear(state_dim, 8), nn.Tanh(), nn.Linear(8, 2))
        self.scale = scale

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return z + 0.5 * torch.tanh(self.dynamics(torch.cat((z, a), dim=-1)))

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return self.scale * self.rewards(torch.cat((z, a), dim=-1))[:, 0]

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * self.values(z).amin(dim=-1)


class SquaredReturnModel(nn.Module):
    """A least-squares model, its residuals seen as reward and value."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.next = model.next

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return 3.0 - 0.5 * self.model.stage_residual(z, a).square().sum(dim=-1)

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        return 5.0 - 0.5 * self.model.terminal_residual(z).square().sum(dim=-1)


@pytest.fixture
def problem():
    """A problem whose model alone is curved both ways."""
    return make_problem(scale=2.0)


def make_problem(num_envs=4, horizon=3, scale=2.0, dtype=torch.float64):
    torch.manual_seed(0)
    model = TwinValueModel(scale=scale).to(dtype)
    return model, torch.randn(num_envs, 4, dtype=dtype), 0.3 * torch.randn(num_envs, horizon, 2, dtype=dtype)


def make_layer(**changes) -> TrajOptLayer:
    settings = {"objective": "return", "iterations": 40, "tolerance": 1e-10, "prior_weight": 0.7, "discount": 0.9}
    return TrajOptLayer(TrajOptConfig(**settings | changes))


def gradients(layer, model, z0, prior, upstream):
    inputs = [z0.clone().requires_grad_(), prior.clone().requires_grad_(), *model.parameters()]
    return torch.autograd.grad(layer(model, *inputs[:2]).actions, inputs, upstream, allow_unused=True)


def difference(layer, model, z0, prior, upstream, directions, eps=1e-5):
    """Central difference of the plan, along one direction through all of its inputs at once."""
    values = []
    inputs = (z0, prior, *model.parameters())
    with torch.no_grad():
        originals = [tensor.clone() for tensor in inputs]
        for sign in (1.0, -1.0):
            for tensor, original, direction in zip(inputs, originals, directions, strict=True):
                tensor.copy_(original + sign * eps * direction)
            values.append((layer(model, z0, prior).actions * upstream).sum())
        for tensor, original in zip(inputs, originals, strict=True):
            tensor.copy_(original)
    return (values[0] - values[1]) / (2.0 * eps)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("objective", ["return", "return_residual"])
@pytest.mark.parametrize("mode", ["implicit", "unroll"])
def test_gradient_matches_finite_differences(problem, objective, mode, bounds):
    model, z0, prior = problem
    settings = {"objective": objective, "backward_mode": mode, "hessian": "exact"}
    settings |= {"action_rate_weight": 0.5, "iterations": 12}
    if objective == "return_residual":  # Gauss-Newton converges where the one residual is not too large
        settings |= {"return_offset": 2.0, "prior_weight": 2.0}
    layer = make_layer(**settings, **BOUNDS[bounds])
    solution = layer(model, z0, prior)
    assert solution.converged.all()
    high = torch.tensor([0.05, 0.02], dtype=prior.dtype)
    held = (solution.actions == high) | (solution.actions == -0.1)
    assert bool(held.any()) == (bounds == "bounded") and not held.all()
    upstream = torch.randn_like(prior)
    directions = [torch.randn_like(tensor) for tensor in (z0, prior, *model.parameters())]
    analytic = gradients(layer, model, z0, prior, upstream)
    projected = sum((g * d).sum() for g, d in zip(analytic, directions, strict=True) if g is not None)
    numeric = difference(layer, model, z0, prior, upstream, directions)
    torch.testing.assert_close(projected, numeric, rtol=1e-5, atol=1e-6)


def test_truncated_gradient_is_that_of_the_solution(problem):
    upstream = torch.randn_like(problem[2])
    exact, truncated = (
        gradients(make_layer(backward_mode=mode, backward_iterations=3), *problem, upstream)
        for mode in ("implicit", "truncated")
    )
    for a, b in zip(truncated, exact, strict=True):
        assert (a is None and b is None) or (a - b).abs().max() < 1e-6


def test_a_return_of_squares_is_least_squares(make_problem):
    """Both forms of one problem have one plan and one gradient."""
    model, z0, prior = make_problem()
    upstream = torch.randn_like(prior)
    squares = make_layer(objective="least_squares", hessian="exact")
    returns, maximised = make_layer(), SquaredReturnModel(model)
    expected, solution = squares(model, z0, prior), returns(maximised, z0, prior)
    torch.testing.assert_close(solution.actions, expected.actions, rtol=0, atol=1e-8)
    offset = 3.0 * (1.0 + 0.9 + 0.9**2) + 5.0 * 0.9**3
    torch.testing.assert_close(solution.cost, expected.cost - offset)
    for a, b in zip(
        gradients(returns, maximised, z0, prior, upstream), gradients(squares, model, z0, prior, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_solves_where_the_return_is_not_concave():
    """Newton's step would climb here; the safeguarded one descends, to a minimum, in every environment."""
    model, z0, prior = make_problem(num_envs=32, scale=20.0)
    layer = make_layer(prior_weight=0.5)
    problem = pose(layer.config, model, z0, prior)
    _, _, safe = derivatives(problem, prior)
    indefinite = torch.linalg.eigvalsh(exact_hessian(problem, prior))[:, 0] < -0.1
    assert 0.2 < indefinite.float().mean() < 1.0
    assert (torch.linalg.eigvalsh(safe) > 0).all()
    solution = layer(model, z0, prior)
    assert (solution.cost <= problem.cost(prior) + 1e-12).all() and solution.converged.float().mean() > 0.8


def test_curvature_beyond_a_bound_leaves_the_free_gradient_exact():
    """Negative curvature of a held component safeguards the step; the gradient of the free one is that of its own."""

    class Saddle:
        def next(self, z, a):
            return z

        def reward(self, z, a):
            return 2.0 * a[:, 0].square() - 0.5 * a[:, 1].square() + a[:, 0] * a[:, 1]

        def terminal_value(self, z):
            return 0.0 * z[:, 0]

    prior = torch.tensor([[[0.5, 0.2]]], dtype=torch.float64, requires_grad=True)
    layer = make_layer(horizon=1, prior_weight=1.0, action_low=-1.0, action_high=1.0)
    solution = layer(Saddle(), torch.zeros(1, 1, dtype=torch.float64), prior)
    torch.testing.assert_close(solution.actions, torch.tensor([[[1.0, 0.6]]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(solution.actions.sum(), prior)
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, 0.5]]], dtype=torch.float64))


def test_modulus_turns_eigenvalues_positive():
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(16, 6, 6, dtype=torch.float64)).Q
    eigenvalues = torch.tensor([-3.0, -1.0, -0.5, 0.2, 1.0, 4.0], dtype=torch.float64)
    expected = vectors @ torch.diag(eigenvalues.abs()) @ vectors.mT
    torch.testing.assert_close(modulus(vectors @ torch.diag(eigenvalues) @ vectors.mT), expected, rtol=0, atol=1e-3)
    tiny = modulus(vectors @ torch.diag(1e-6 * eigenvalues.flip(0) ** 5) @ vectors.mT)
    assert torch.linalg.eigvalsh(tiny).min() > -1e-18
    assert (modulus(torch.zeros(1, 3, 3)) == 0).all()


def test_a_failing_environment_touches_no_other(problem):
    model, z0, prior = problem
    expected = make_layer()(model, z0, prior).actions
    z0[1] = torch.nan
    solution = make_layer()(model, z0, prior)
    assert solution.failed.tolist() == [False, True, False, False]
    assert torch.equal(solution.actions[[0, 2, 3]], expected[[0, 2, 3]])


@pytest.mark.parametrize("solver", ["gauss_newton", "theseus"])
def test_one_residual_is_the_offset_less_the_return(problem, solver):
    """The plan of the published form: stationary for ``½ (offset − G)² + prior block``."""
    model, z0, prior = problem
    layer = make_layer(objective="return_residual", solver=solver, return_offset=2.0, prior_weight=2.0, iterations=20)
    actions = layer(model, z0, prior).actions.detach().requires_grad_()
    negative_return = pose(make_layer(prior_weight=2.0).config, model, z0, prior).cost(actions)
    block = 0.5 * 2.0**2 * (actions - prior).square().sum(dim=(1, 2))
    cost = 0.5 * (2.0 + negative_return - block).square() + block
    (gradient,) = torch.autograd.grad(cost.sum(), actions)
    assert gradient.abs().max() < 1e-6
    torch.testing.assert_close(layer(model, z0, prior).cost, cost)


def test_published_form_breaks_down_in_theseus_alone():
    """One steep residual in float32 and hardly a prior: rank 1 defeats Theseus' Cholesky factorisation."""
    model, z0, prior = make_problem(horizon=5, scale=2000.0, dtype=torch.float32)
    settings = {"objective": "return_residual", "prior_weight": 1e-3, "iterations": 50, "horizon": 5}
    assert not make_layer(**settings)(model, z0, prior).failed.any()
    theseus = make_layer(**settings, solver="theseus").config
    with pytest.warns(RuntimeWarning, match="not positive-definite"):
        solve_with_theseus(pose(theseus, model, z0, prior), prior, theseus, differentiable=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "theseus"}, "'return', which trajopt.solver=theseus cannot optimise; allowed: trajopt.solver=gau"),
        ({"objective": "return_residual", "solver": "mppi"}, "allowed: trajopt.solver=gauss_newton or trajopt.solver="),
        ({"objective": "reward"}, "'reward'; allowed: least_squares, return, return_residual"),
        ({"return_offset": float("inf")}, "return_offset is inf; allowed: a finite number"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_layer(**changes)


def test_models_without_the_methods_are_refused(problem):
    with pytest.raises(
        ValueError, match=r"'least_squares', but the model \(TwinValueModel\) has no stage_residual and no"
    ):
        make_layer(objective="least_squares")(*problem)
