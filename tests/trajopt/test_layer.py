"""Solutions, bounds, autograd modes, precisions, batch sizes and failures of the layer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.linearize import linearize
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolveStatus
from difftori_isaac.world_models.analytic import CartPole, DoubleIntegrator

SOLVERS = ["gauss_newton", "theseus"]


def make_layer(**changes) -> TrajOptLayer:
    return TrajOptLayer(TrajOptConfig(**({"iterations": 15, "tolerance": 1e-6} | changes)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_quadratic_problem_has_its_closed_form_solution(make_problem, solver):
    model, z0, prior = make_problem(horizon=2, action_dim=3)
    model.next = lambda z, a: z @ torch.eye(4, dtype=z.dtype) + a @ torch.ones(3, 4, dtype=z.dtype)
    model.stage_residual = lambda z, a: z[:, :3] + 2.0 * a
    layer = make_layer(solver=solver, horizon=2, prior_weight=0.5, discount=0.8, damping=1e-6)
    problem = TrajOptProblem(model, z0, prior, prior_weight=0.5, discount=0.8)
    zero = torch.zeros_like(prior)
    jacobian = torch.func.jacfwd(problem.residual)(zero)
    jacobian = torch.stack([jacobian[i, :, i].flatten(1) for i in range(len(z0))])
    expected = torch.linalg.lstsq(jacobian, -problem.residual(zero)[..., None]).solution.view_as(prior)
    solution = layer(model, z0, prior)
    torch.testing.assert_close(solution.actions, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(solution.cost, problem.cost(expected))
    assert solution.converged.all()


def test_bounded_solution_satisfies_the_optimality_conditions(make_problem):
    model, z0, prior = make_problem(num_envs=32, scale=3.0)
    low, high = -0.2, 0.25
    solution = make_layer(action_low=low, action_high=high, iterations=30, tolerance=1e-8)(model, z0, prior)
    actions = solution.actions.detach().requires_grad_()
    problem = TrajOptProblem(model, z0, prior, prior_weight=1.0, discount=0.99)
    (gradient,) = torch.autograd.grad(problem.cost(actions).sum(), actions)
    at_low, at_high = actions == low, actions == high
    assert solution.converged.all() and at_low.any() and at_high.any() and not (at_low | at_high).all()
    assert (actions >= low).all() and (actions <= high).all()
    assert gradient[~(at_low | at_high)].abs().max() < 1e-7
    assert (gradient[at_low] > -1e-7).all() and (gradient[at_high] < 1e-7).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_plans_in_every_autograd_mode(make_problem, solver, mode):
    """torch.func silently returns zero Jacobians inside inference_mode; the layer must leave it."""
    model, z0, prior = make_problem()
    layer = make_layer(solver=solver)
    expected = layer(model, z0, prior)
    assert (expected.actions - prior).abs().max() > 0.05
    with mode():
        solution = layer(model, z0 + 0.0, prior + 0.0)
    assert not solution.actions.requires_grad
    torch.testing.assert_close(solution.actions, expected.actions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_envs", [1, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_batch_sizes_and_precisions(make_problem, solver, num_envs, dtype):
    model, z0, prior = make_problem(num_envs=num_envs, dtype=dtype)
    layer = make_layer(solver=solver, iterations=8, tolerance=1e-3)
    solution = layer(model, z0, prior)
    assert solution.actions.shape == prior.shape and solution.actions.dtype == dtype
    assert solution.converged.float().mean() > 0.99
    alone = layer(model, z0[-1:], prior[-1:])
    torch.testing.assert_close(alone.actions[0], solution.actions[-1], rtol=0, atol=1e-4)
    solution.actions.sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("solver", [*SOLVERS, "mppi"])
def test_no_environments_have_no_plans(make_problem, solver):
    model, z0, prior = make_problem(num_envs=0)
    z0.requires_grad_()
    prior.requires_grad_()
    solution = make_layer(solver=solver)(model, z0, prior)
    assert solution.actions.shape == solution.shift.shape == (0, 3, 2) and solution.status.dtype == torch.int64
    assert [len(value) for value in solution] == [0] * 6
    solution.actions.square().sum().backward()
    assert z0.grad.shape == (0, 4) and prior.grad.shape == (0, 3, 2)


@pytest.mark.parametrize("solver", [*SOLVERS, "mppi"])
def test_memory_may_lie_in_any_order(make_problem, solver):
    model, z0, prior = make_problem()
    layer = make_layer(solver=solver, iterations=3)
    expected = layer(model, z0, prior).actions
    z0, prior = z0.T.contiguous().T, prior.transpose(0, 1).contiguous().transpose(0, 1)
    solution = layer(model, z0, prior, warm_start=prior)
    torch.testing.assert_close(solution.actions, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["implicit", "truncated", "unroll"])
def test_a_failing_environment_touches_no_other(make_problem, mode):
    model, z0, prior = make_problem(num_envs=64)
    layer = make_layer(backward_mode=mode, iterations=6)

    def solve(z0, prior):
        z0, prior = z0.clone().requires_grad_(), prior.clone().requires_grad_()
        solution = layer(model, z0, prior, warm_start=torch.full_like(prior, 0.1))
        others = torch.arange(64) != 17
        grads = torch.autograd.grad(solution.actions[others].sum(), [z0, prior, *model.parameters()])
        return solution, [grads[0][others], grads[1][others], *grads[2:]]

    healthy, healthy_grads = solve(z0, prior)
    for broken in (z0.clone(), prior.clone()):
        is_state = broken.shape == z0.shape
        broken[17] = float("nan") if is_state else float("inf")
        solution, grads = solve(*((broken, prior) if is_state else (z0, broken)))
        others = torch.arange(64) != 17
        assert solution.status[17] == SolveStatus.NON_FINITE and not solution.failed[others].any()
        assert (solution.actions[17] == 0.1).all()
        assert solution.cost[17].isnan() and solution.step_norm[17].isnan()
        assert torch.equal(solution.actions[others], healthy.actions[others])
        for grad, expected in zip(grads, healthy_grads, strict=True):
            torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["implicit", "truncated", "unroll"])
def test_gradient_of_a_failed_environment_is_zero(make_problem, mode):
    model, z0, prior = make_problem(num_envs=4)
    z0[2] = float("nan")
    z0.requires_grad_()
    make_layer(backward_mode=mode, iterations=6)(model, z0, prior).actions.square().sum().backward()
    assert (z0.grad[2] == 0).all() and z0.grad[[0, 1, 3]].any(dim=1).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mode", ["implicit", "truncated", "unroll"])
def test_overflowing_dynamics_fall_back_to_the_warm_start(make_problem, solver, mode):
    model, z0, prior = make_problem(num_envs=3)
    next_state = model.next
    model.next = lambda z, a: next_state(z, a) * torch.where(z[:, :1] > 50.0, torch.inf, 1.0)
    z0[1] = 100.0
    z0.requires_grad_()
    warm_start = torch.full_like(prior, 0.3)
    solution = make_layer(solver=solver, backward_mode=mode)(model, z0, prior, warm_start=warm_start)
    assert solution.status.tolist()[1] == SolveStatus.NON_FINITE
    assert torch.equal(solution.actions[1], warm_start[1])
    assert solution.converged[[0, 2]].all()
    solution.actions.square().sum().backward()
    assert (z0.grad[1] == 0).all() and z0.grad[[0, 2]].any(dim=1).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("implicit", {}),
        ("truncated", {}),
        ("unroll", {}),
        ("unroll", {"action_high": 2.0}),
        ("unroll", {"solver": "theseus"}),
    ],
)
@pytest.mark.parametrize("blind", [False, True])
def test_a_hessian_that_overflows_spoils_no_other(make_problem, monkeypatch, mode, changes, blind):
    """Cost and gradient are finite where a residual of slope 1e200 vanishes; its square is not."""
    if blind:  # as on a GPU
        for module in ("box_qp", "cholesky", "solution", "solvers.gauss_newton"):
            monkeypatch.setattr(f"difftori_isaac.trajopt.{module}.readable", lambda tensor: False)
    model, z0, prior = make_problem(num_envs=3)
    stage = model.stage_residual
    warm_start = torch.full_like(prior, 0.3)
    model.stage_residual = lambda z, a: torch.where(z[:, :1] > 50.0, 1e200 * (a[:, :1] - 0.3), stage(z, a))
    z0[1] = 100.0
    z0.requires_grad_()
    solution = make_layer(backward_mode=mode, **changes)(model, z0, prior, warm_start=warm_start)
    assert solution.status[1] == SolveStatus.NON_FINITE and solution.converged[[0, 2]].all()
    assert torch.equal(solution.actions[1], warm_start[1])
    solution.actions.square().sum().backward()
    assert (z0.grad[1] == 0).all() and z0.grad[[0, 2]].any(dim=1).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_steps_that_overflow_and_are_rejected_leave_unrolled_gradients_finite(make_problem):
    """The first, hardly damped step goes to where the residual is infinite; smaller ones do not."""
    model, z0, prior = make_problem(num_envs=3)
    stage = model.stage_residual
    model.stage_residual = lambda z, a: stage(z, a) * torch.where(a[:, :1] > 0.25, torch.inf, 1.0)
    warm_start = torch.full_like(prior, 0.2)
    layer = make_layer(backward_mode="unroll", iterations=8, damping_up=100.0)
    solution = layer(model, z0, prior + 0.5, warm_start=warm_start)
    assert not solution.failed.any() and (solution.iterations < 8).any()
    solution.actions.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_gauss_newton_settles_where_its_hessian_leaves_out_most_of_the_curvature():
    """The Hessian of ``½(a² + 1)²`` at 0 is 2, Gauss-Newton's 4a²: undamped steps jump far beyond the minimum."""
    model = SimpleNamespace(
        next=lambda z, a: z,
        stage_residual=lambda z, a: a.square() + 1.0,
        terminal_residual=lambda z: torch.zeros_like(z),
    )
    guess = torch.linspace(0.3, 3.0, 10).view(5, 2, 1)
    layer = TrajOptLayer(TrajOptConfig(horizon=2, iterations=10, prior_weight=0.1, damping=1.0, tolerance=1e-3))
    solution = layer(model, torch.zeros(5, 1), torch.zeros(5, 2, 1), warm_start=guess)
    assert (solution.iterations >= 6).all(), "few steps are rejected"
    assert solution.actions.abs().max() < 0.01


@pytest.mark.parametrize("every", [1, 3])
def test_a_hessian_is_kept_for_so_many_iterations(make_problem, monkeypatch, every):
    fresh = []

    def watched(problem, actions, hessian=None):
        fresh.append(hessian is None)
        return linearize(problem, actions, hessian)

    monkeypatch.setattr("difftori_isaac.trajopt.solvers.gauss_newton.linearize", watched)
    with torch.no_grad():
        make_layer(iterations=6, hessian_every=every, tolerance=1e-14)(*make_problem())
    assert fresh == [iteration % every == 0 for iteration in range(7)]


@pytest.mark.parametrize("mode", ["implicit", "truncated", "unroll"])
def test_rank_deficient_steep_problems_solve_in_float32(mode):
    """The published single-residual cost loses its Cholesky factorisation once ‖J‖ passes ~130 at damping 1e-3."""

    class Steep(torch.nn.Module):
        def __init__(self, slope):
            super().__init__()
            self.slope = slope
            self.gain = torch.nn.Parameter(torch.tensor(1.0))

        def next(self, z, a):
            return z + self.gain * a.sum(dim=1, keepdim=True)

        def stage_residual(self, z, a):
            return torch.zeros_like(a[:, :1])

        def terminal_residual(self, z):
            return self.slope * (z + 0.1 * torch.sin(z) - 1.0)

    num_envs = 200
    slope = torch.logspace(2, 4, num_envs)[:, None]
    z0 = torch.randn(num_envs, 1, generator=torch.Generator().manual_seed(0))
    layer = make_layer(horizon=5, iterations=30, tolerance=1e-4, backward_mode=mode)
    model = Steep(slope)
    solution = layer(model, z0, torch.zeros(num_envs, 5, 6))
    assert not solution.failed.any()
    reached = z0[:, 0] + solution.actions.sum(dim=(1, 2))
    assert ((reached + 0.1 * torch.sin(reached) - 1.0).abs() < 1e-3).all()
    solution.actions.sum().backward()  # to reach the same state, the actions are in inverse proportion to the gain
    torch.testing.assert_close(model.gain.grad, -solution.actions.sum().detach(), rtol=0.2, atol=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "newton"}, "gauss_newton, theseus"),
        ({"backward_mode": "dlm"}, "implicit, truncated, unroll"),
        ({"horizon": 0}, "trajopt.horizon is 0"),
        ({"iterations": -1}, "trajopt.iterations is -1"),
        ({"horizon": 3.5}, "trajopt.horizon is 3.5; allowed: an integer of at least 1"),
        ({"iterations": "3"}, "trajopt.iterations is '3'; allowed: an integer of at least 1"),
        ({"mppi": {"num_samples": 9.5}}, "trajopt.mppi.num_samples is 9.5; allowed: an integer of at least 2"),
        ({"prior_weight": 0.0}, "trajopt.prior_weight is 0.0"),
        ({"damping": float("nan")}, "trajopt.damping is nan"),
        ({"action_low": 1.0, "action_high": -1.0}, "action_low below action_high"),
        ({"discount": 1.5}, "trajopt.discount is 1.5"),
        (
            {"solver": "theseus", "action_low": -1.0},
            "which has no bounds.*gauss_newton, or, but for learner=model_based",
        ),
        ({"solver": "theseus", "hessian": "exact"}, "own Gauss-Newton"),
    ],
)
def test_bad_settings_name_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        make_layer(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": (5, 7, 2)}, r"prior plan has shape \(5, 7, 2\); allowed: .* = \(5, 3, any\)"),
        ({"z0": (5,)}, r"initial states have shape \(5,\) .*; allowed: \(num_envs, state_dim\), float32 or float64"),
        (
            {"z0": torch.int64},
            r"initial states have shape \(5, 4\) and are torch.int64; allowed: .* float32 or float64",
        ),
        ({"z0": torch.bfloat16}, r"initial states have shape \(5, 4\) and are torch.bfloat16; allowed: .* float32 or"),
        ({"warm_start": (1, 3, 2)}, r"warm start has shape \(1, 3, 2\); allowed: .* prior plan, \(5, 3, 2\)"),
        ({"prior": torch.float32}, "prior plan is torch.float32 on cpu; allowed: .*, torch.float64 on cpu"),
        ({"prior": torch.device("meta")}, "prior plan is torch.float64 on meta; allowed: .*, torch.float64 on cpu"),
        ({"warm_start": torch.float32}, "warm start is torch.float32 on cpu; allowed: .*, torch.float64 on cpu"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(make_problem, change, message):
    model, z0, prior = make_problem()
    tensors = {"z0": z0, "prior": prior, "warm_start": prior}
    for name, to in change.items():
        tensors[name] = torch.zeros(to, dtype=z0.dtype) if isinstance(to, tuple) else tensors[name].to(to)
    with pytest.raises(ValueError, match=message):
        make_layer()(model, **tensors)


@pytest.mark.parametrize("solver", SOLVERS)
def test_action_rate_weight_smooths_the_plan(make_problem, solver):
    """The plan is the minimum of the cost with the action-rate block, and the heavier the block, the smoother it is."""
    model, z0, prior = make_problem(horizon=5)
    roughness = []
    for weight in (0.0, 1.0, 30.0):
        layer = make_layer(solver=solver, horizon=5, action_rate_weight=weight, tolerance=1e-8)
        actions = layer(model, z0, prior).actions.detach().requires_grad_()
        problem = TrajOptProblem(model, z0, prior, 1.0, 0.99)
        cost = problem.cost(actions).sum() + 0.5 * weight**2 * actions.diff(dim=1).square().sum()
        (gradient,) = torch.autograd.grad(cost, actions)
        assert gradient.abs().max() < 1e-6
        roughness.append(actions.diff(dim=1).square().sum().item())
    assert roughness[0] > 2.0 * roughness[1] > 1000.0 * roughness[2]


@pytest.mark.parametrize("mode", ["implicit", "truncated", "unroll"])
def test_cost_and_step_have_no_gradient(make_problem, mode):
    solution = make_layer(backward_mode=mode)(*make_problem())
    assert solution.actions.requires_grad
    assert not solution.cost.requires_grad and not solution.step_norm.requires_grad


def test_a_model_of_single_environments_is_refused(make_problem):
    model, z0, prior = make_problem()
    weights, residual = torch.linspace(0.5, 2.0, len(z0), dtype=z0.dtype)[:, None], model.terminal_residual
    model.terminal_residual = lambda z: weights * residual(z)
    with pytest.raises(ValueError, match="holds numbers of single environments"):
        make_layer(objective="return")(model, z0, prior)


def test_a_flat_residual_is_refused(make_problem):
    model, z0, prior = make_problem()
    model.stage_residual = lambda z, a: a[:, 0]
    with pytest.raises(ValueError, match=r"shape \(1,\); allowed: \(1, num_residuals\)"):
        make_layer()(model, z0, prior)


def test_plans_are_as_precise_under_autocast_and_compile(make_problem):
    model, z0, prior = make_problem(dtype=torch.float32)
    layer = make_layer(tolerance=1e-4)
    expected = layer(model, z0, prior).actions
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(model, z0, prior).actions, expected)
    assert torch.equal(torch.compile(lambda: layer(model, z0, prior).actions, backend="eager")(), expected)


@pytest.mark.parametrize("blind", [False, True])
def test_plans_go_on_until_newtons_step_is_within_the_tolerance(monkeypatch, blind):
    """Of an ill-conditioned Hessian, a Newton step is far longer than the gradient by its diagonal says."""
    if blind:  # as on a GPU
        monkeypatch.setattr("difftori_isaac.trajopt.solvers.gauss_newton.readable", lambda tensor: False)
    model = DoubleIntegrator(weights=1.0, terminal_weights=30.0)
    z0 = 0.3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    layer = TrajOptLayer(TrajOptConfig(horizon=50, iterations=20, prior_weight=0.1))
    with torch.no_grad():
        solution = layer(model, z0, torch.zeros(64, 50, 2))
    assert solution.converged.all() and solution.step_norm.max() < 2e-3
    assert (solution.iterations < 20).all(), "rested where nothing is left to do"


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
def test_recorded_plans_are_those_that_are_executed(mode):
    """A plan that is recorded goes on beyond the tolerance, where the others rest."""
    model = CartPole(weights=[1.0, 0.1, 5.0, 0.1], terminal_weights=[3.0, 1.0, 10.0, 1.0])
    z0 = 0.3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    layer = TrajOptLayer(TrajOptConfig(horizon=20, iterations=5, prior_weight=0.1, backward_mode=mode))
    recorded = layer(model, z0, torch.zeros(64, 20, 1))
    with torch.no_grad():
        executed = layer(model, z0, torch.zeros(64, 20, 1))
    assert recorded.actions.requires_grad
    torch.testing.assert_close(recorded.action.detach(), executed.action, rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("mode", ["implicit", "truncated"])
def test_a_step_that_cannot_be_computed_raises_the_damping(mode):
    """A residual so steep that its damped Hessian has no factor in float32."""
    steep = SimpleNamespace(
        next=lambda z, a: z,
        stage_residual=lambda z, a: 1e5 * (a.sum(dim=1, keepdim=True) - 1.0) * torch.eye(2, dtype=z.dtype)[:1],
        terminal_residual=lambda z: 0.0 * z[:, :1],
    )
    prior = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0))
    settings = {"prior_weight": 1e-4, "damping": 1e-7, "backward_mode": mode, "backward_iterations": 1}
    solution = make_layer(horizon=3, iterations=20, **settings)(steep, torch.zeros(8, 2), prior.requires_grad_())
    assert (solution.iterations > 0).all() and solution.cost.max() < 1.0
