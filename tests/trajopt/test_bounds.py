"""Bounds of single action components."""

from __future__ import annotations

from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer


def solve(problem, low, high, **changes):
    model, z0, prior = problem
    config = TrajOptConfig(**{"iterations": 30, "tolerance": 1e-6} | changes, action_low=low, action_high=high)
    return TrajOptLayer(config)(model, z0, prior)


def test_a_step_that_ends_at_a_bound_is_there_exactly(make_problem):
    """Whatever the rounding of action + (bound − action): a component beside its bound would count as free."""
    low, high = -0.1, 0.15
    for iterations in (1, 2):
        solution = solve(make_problem(num_envs=400, scale=3.0, dtype=torch.float32), low, high, iterations=iterations)
        for bound in (low, high):
            near = (solution.actions - bound).abs() < 1e-6
            assert near.sum() > 100 and (solution.actions[near] == torch.tensor(bound)).all()


def test_held_components_leave_the_gradient_of_the_others_as_it_is():
    """However small the cost: nothing else depends on the actions, so that each follows its prior."""
    model = SimpleNamespace(
        next=lambda z, a: z, stage_residual=lambda z, a: 0.0 * a, terminal_residual=lambda z: torch.zeros_like(z)
    )
    prior = torch.full((1, 5, 2), 3.0)
    prior[0, 2, 1] = 0.2
    prior.requires_grad_()
    actions = solve((model, torch.zeros(1, 3), prior), -1.0, 1.0, horizon=5, prior_weight=1e-3).actions
    (gradient,) = torch.autograd.grad(actions.sum(), prior)
    assert gradient[0, 2, 1].item() == pytest.approx(1.0, abs=1e-4) and gradient.count_nonzero() == 1


@pytest.mark.parametrize("unbounded", [None, inf], ids=["null", "infinite"])
def test_each_component_has_its_own_bounds(make_problem, unbounded):
    problem = make_problem(num_envs=16, action_dim=3, scale=3.0)
    lower = None if unbounded is None else -unbounded
    solution = solve(problem, (-0.1, lower, -0.3), (unbounded, unbounded, 0.2))
    first, second, third = solution.actions.detach().unbind(dim=2)
    assert solution.converged.all()
    assert (first >= -0.1).all() and (first == -0.1).any() and (first > 0.3).any()
    assert (second.abs() > 0.3).any()
    assert (third >= -0.3).all() and (third <= 0.2).all() and (third == 0.2).any()


def test_equal_entries_are_one_number(make_problem):
    problem = make_problem(action_dim=3)
    one, each = solve(problem, -0.2, 0.3), solve(problem, (-0.2,) * 3, [0.3, 0.3, 0.3])
    assert torch.equal(one.actions, each.actions)


def test_arrays_are_lists_and_what_is_no_number_is_refused(make_problem):
    problem = make_problem(action_dim=3)
    arrays = solve(problem, np.full(3, -0.2), torch.full((3,), 0.25))
    assert torch.equal(arrays.actions, solve(problem, np.float64(-0.2), [0.25] * 3).actions)
    for bound in (np.zeros((2, 3)), "low", ("0.1",) * 3):
        with pytest.raises(ValueError, match=r"trajopt.action_low is .*; allowed: null, a number, or a list with one"):
            TrajOptConfig(action_low=bound)


@pytest.mark.parametrize("solver", ["gauss_newton", "theseus"])
def test_infinite_bounds_are_none(make_problem, solver):
    problem = make_problem()
    free, infinite = solve(problem, None, None, solver=solver), solve(problem, -inf, (None, inf), solver=solver)
    assert torch.equal(free.actions, infinite.actions)


def test_wrong_number_of_entries_names_both_lengths(make_problem):
    with pytest.raises(ValueError, match="action_high has 3 entries, but an action has 2 components; allowed: null, "):
        solve(make_problem(action_dim=2), None, (1.0, 1.0, None))


@pytest.mark.parametrize(
    ("low", "high"), [((0.0, 0.0), (1.0, 0.0)), ((0.0, 0.0), 0.0), ((0.0,) * 2, (1.0,) * 3), (nan, None), (inf, None)]
)
def test_impossible_bounds_are_refused(low, high):
    with pytest.raises(ValueError, match="allowed: "):
        TrajOptConfig(action_low=low, action_high=high)
