"""Which lines are compared with which, and when speeds may not be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from difftori_isaac.benchmarks.config import BenchmarkConfig
from difftori_isaac.benchmarks.figure import _lines
from difftori_isaac.benchmarks.row import Reference, Row, compare

REFERENCE = Row(suite="learned_model", solver="theseus", num_envs=64, forward_backward_ms=100.0, final_cost=2.0)
OURS = replace(REFERENCE, solver="ours", forward_backward_ms=10.0, final_cost=2.01)


def compared(row: Row, reference: Row = REFERENCE, **same) -> Row:
    return compare([reference, row], Reference(reference.solver, **same))[1]


def test_same_cost_is_within_one_percent():
    assert (compared(OURS).ratio, compared(OURS).same_cost) == (10.0, True)


@pytest.mark.parametrize("cost", [1.97, 2.03, float("nan")])
def test_another_cost_has_no_ratio(cost: float):
    row = compared(replace(OURS, final_cost=cost))
    assert (row.ratio, row.same_cost, row.note) == (None, False, "cost differs")


def test_unknown_costs_are_not_compared():
    row = compared(OURS, replace(REFERENCE, final_cost=None, measured=False))
    assert (row.ratio, row.same_cost, row.reference) == (10.0, None, "theseus")


def test_sizes():
    assert compared(replace(OURS, num_envs=128)) == replace(OURS, num_envs=128)
    assert compared(replace(OURS, num_envs=128), same=()).ratio == 20.0
    assert compared(replace(OURS, horizon=3)).ratio is None


def test_no_gradient_has_no_ratio():
    assert compared(replace(OURS, forward_backward_ms=None)).ratio is None


def test_training_is_compared_by_environment_steps():
    mlp = Row(suite="training", solver="mlp", num_envs=64, env_steps_per_s=1000.0)
    assert compared(replace(mlp, solver="trajopt", env_steps_per_s=600.0), mlp, same=("num_envs",)).ratio == 0.6


def test_lists_vary_one_at_a_time():
    config = BenchmarkConfig(suite="learned_model", num_envs=(64, 256), horizon=(5, 3))
    sizes = config.sizes(num_envs=(1,), horizon=(1,), iterations=(4, 8))
    assert sizes == [(64, 5, 4), (64, 5, 8), (64, 3, 4), (256, 5, 4)]
    rows = [replace(OURS, **size._asdict(), backward_ms=1.0) for size in sizes]
    for name, values in {"num_envs": [64, 256], "horizon": [3, 5], "iterations": [4, 8]}.items():
        assert [getattr(row, name) for row in _lines(rows, name)["ours"]] == values
