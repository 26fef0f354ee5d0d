"""The problems are the same for every solver, worth solving, and solved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from difftori_isaac.benchmarks import gradients, known_dynamics, learned_model
from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.row import COST_TOLERANCE


def test_learned_model_has_one_cost():
    size = Size(num_envs=16, horizon=5, iterations=5)
    costs, starts = {}, set()
    for solver, settings in learned_model.SOLVERS.items():
        problem = learned_model.LatentProblem(trajopt=replace(learned_model.TRAJOPT, **settings))
        workload = learned_model.workload(problem, size)
        costs[solver] = float(workload.cost(workload.forward()).mean())
        starts.add(float(workload.cost(workload.warm_start).mean()))
        assert (workload.forward_backward is None) == (solver == "mppi")
    (start,) = starts
    reference = costs[learned_model.REFERENCE.solver]
    assert reference < 0.7 * start
    for solver in ("gauss_newton implicit", "gauss_newton truncated", "gauss_newton unroll", "theseus unroll"):
        assert costs[solver] == pytest.approx(reference, rel=COST_TOLERANCE), solver


def test_known_dynamics_have_one_cost_and_one_gradient():
    size = Size(num_envs=8, horizon=10, iterations=5)
    costs, slopes = [], []
    for settings in known_dynamics.SOLVERS.values():
        problem = known_dynamics.CartPoleProblem(trajopt=replace(known_dynamics.TRAJOPT, **settings))
        workload = known_dynamics.workload(problem, size)
        costs.append(workload.cost(workload.forward()).mean())
        assert costs[-1] < 0.7 * workload.cost(workload.warm_start).mean()
        slopes.append(torch.cat(workload.forward_backward()))
    torch.testing.assert_close(costs, [costs[0]] * len(costs), rtol=1e-6, atol=0)
    torch.testing.assert_close(slopes, [slopes[0]] * len(slopes), rtol=1e-2, atol=1e-2 * float(slopes[0].abs().max()))


@pytest.mark.parametrize("bound", [None, gradients.BOUND])
def test_gradients_are_right_at_convergence(bound: float | None):
    low = None if bound is None else -bound
    trajopt = replace(learned_model.TRAJOPT, hessian="exact", action_low=low, action_high=bound)
    assert gradients.gradient_error(trajopt, 40) < 1e-3 < gradients.gradient_error(trajopt, 1)
