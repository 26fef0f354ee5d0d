"""One plan of DiffTORI as published against one of ours, solved with a thousand others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from difftori_isaac.benchmarks.config import BenchmarkConfig, Size
from difftori_isaac.benchmarks.learned_model import TRAJOPT, LatentProblem
from difftori_isaac.benchmarks.learned_model import workload as learned_model_workload
from difftori_isaac.benchmarks.measure import Build, Workload, measure
from difftori_isaac.benchmarks.row import Reference, Row
from difftori_isaac.run.build import resolve_device

REFERENCE = Reference("DiffTORI, published code, 50 iterations", same=())
_QUOTED = Row(
    suite="published",
    solver=REFERENCE.solver,
    num_envs=1,
    horizon=5,
    iterations=50,
    forward_ms=1012.0,
    forward_backward_ms=1172.0,
    solves_per_s=1e3 / 1012.0,
    measured=False,
    device="cpu",
    dtype="float32",
    note="quoted",
)
QUOTED = (
    _QUOTED,
    replace(
        _QUOTED,
        solver="DiffTORI, published code, stopped after about 4",
        iterations=4,
        forward_ms=126.0,
        forward_backward_ms=170.0,
        solves_per_s=1e3 / 126.0,
    ),
)


SOLVERS: dict[str, dict[str, Any]] = {
    "gauss_newton, return as one residual": {"objective": "return_residual"},
    "gauss_newton, return": {"objective": "return"},
    "gauss_newton, least squares": {},
    "gauss_newton, least squares, one Hessian": {"hessian_every": 1000},
}
_AS_PUBLISHED = {"solver": "theseus", "objective": "return_residual"}
_AS_PUBLISHED_SIZE = Size(num_envs=1, horizon=5, iterations=50)


def workload(problem: LatentProblem, size: Size) -> Workload:
    """As in ``learned_model``; whatever the objective, the cost is that of least squares.

    It is the prior block less the return, up to a constant: what all objectives minimise, in different ways.
    """
    judge = replace(problem, trajopt=replace(problem.trajopt, objective="least_squares"))
    return replace(learned_model_workload(problem, size), cost=learned_model_workload(judge, size).cost)


def published(config: BenchmarkConfig) -> Iterator[Row]:
    """Latent 50, two hidden layers of 512, 6 actions, horizon 5: the sizes of DiffTORI's model-based experiments."""
    device, dtype = resolve_device(config.device), config.dtype or "float32"
    take = partial(measure, suite="published", device=device, dtype=dtype, repeats=config.repeats)

    def build(settings: dict[str, Any]) -> Build:
        problem = LatentProblem(
            latent_dim=50,
            action_dim=6,
            hidden_dims=(512, 512),
            trajopt=replace(TRAJOPT, **settings),
            device=device,
            dtype=getattr(torch, dtype),
        )
        return partial(workload, problem)

    if device == "cpu":
        yield from (row for row in QUOTED if config.wants(row.solver))
    if config.wants(solver := "theseus, return as one residual"):
        yield take(build(_AS_PUBLISHED), _AS_PUBLISHED_SIZE, solver=solver)
    for size in config.sizes(num_envs=(1024,), horizon=(5,), iterations=(5,)):
        for solver, settings in SOLVERS.items():
            if config.wants(solver):
                yield take(build(settings), size, solver=solver)
