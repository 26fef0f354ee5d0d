"""What every solver keeps, for every objective, size and set of bounds."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.trajopt.config import MppiConfig, TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.trajopt.solution import SolveStatus

COMBINATIONS = [
    ("gauss_newton", "least_squares"),
    ("gauss_newton", "return"),
    ("gauss_newton", "return_residual"),
    ("mppi", "least_squares"),
    ("mppi", "return"),
    ("theseus", "least_squares"),
    ("theseus", "return_residual"),
]


@pytest.mark.parametrize(("solver", "objective"), COMBINATIONS)
@settings(max_examples=6, deadline=None)
@given(data=st.data(), num_envs=st.integers(1, 6), horizon=st.integers(1, 4), action_dim=st.integers(1, 5))
def test_plans_of_any_problem(make_problem, solver, objective, data, num_envs, horizon, action_dim):
    """Within bounds, no worse than the warm start, each environment on its own, of the promised shapes."""
    seed = data.draw(st.integers(0, 2**16), label="seed")
    bounds = {}
    if solver != "theseus":
        for name, sign in (("action_low", -1.0), ("action_high", 1.0)):
            widths = st.one_of(st.none(), st.just(inf), st.floats(0.05, 1.0))
            drawn = data.draw(st.lists(widths, min_size=action_dim, max_size=action_dim), label=name)
            bounds[name] = tuple(width if width is None else sign * width for width in drawn)
    config = TrajOptConfig(
        solver=solver,
        objective=objective,
        return_offset=3.0,
        horizon=horizon,
        iterations=data.draw(st.integers(1, 6), label="iterations"),
        action_rate_weight=data.draw(st.sampled_from([0.0, 0.8]), label="action_rate_weight"),
        mppi=MppiConfig(num_samples=16, num_elites=4),
        **bounds,
    )
    layer = TrajOptLayer(config)
    model, z0, prior = make_problem(num_envs, horizon, action_dim, seed)
    warm_start = torch.randn(prior.shape, dtype=prior.dtype, generator=torch.Generator().manual_seed(seed))
    solution = layer(model, z0, prior, warm_start=warm_start)

    problem = pose(config, model, z0, prior)
    assert torch.equal(problem.project(solution.actions), solution.actions)
    start = problem.cost(problem.project(warm_start))
    assert (solution.cost <= start + config.iterations * problem.rounding(start)).all()
    torch.testing.assert_close(solution.cost, problem.cost(solution.actions))
    assert solution.actions.shape == solution.shift.shape == prior.shape
    for values in (solution.cost, solution.step_norm, solution.iterations, solution.status):
        assert values.shape == (num_envs,)
    allowed = {SolveStatus.CONVERGED, SolveStatus.MAX_ITERATIONS}
    assert set(solution.status.tolist()) <= allowed and (solution.iterations <= config.iterations).all()
    assert torch.equal(solution.converged, solution.step_norm <= config.tolerance)

    order = torch.randperm(num_envs, generator=torch.Generator().manual_seed(seed))
    permuted = layer(model, z0[order], prior[order], warm_start=warm_start[order])
    torch.testing.assert_close(permuted.actions, solution.actions[order], rtol=0, atol=1e-7)
