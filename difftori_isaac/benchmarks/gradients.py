"""Every way to differentiate a plan: how right it is and what it costs, against solver iterations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from difftori_isaac.benchmarks.config import BenchmarkConfig
from difftori_isaac.benchmarks.learned_model import TRAJOPT, LatentProblem, plan_inputs, workload
from difftori_isaac.benchmarks.measure import measure
from difftori_isaac.benchmarks.row import Row
from difftori_isaac.run.build import resolve_device
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.world_models.latent import LatentWorldModel

REFERENCE = None
"""Speeds are not compared: what a gradient is worth is its error."""
SOLVERS: dict[str, dict[str, Any]] = {
    "gauss_newton implicit, Gauss-Newton Hessian": {"hessian": "gauss_newton"},
    "gauss_newton implicit, exact Hessian": {"hessian": "exact"},
    "gauss_newton truncated": {"backward_mode": "truncated"},
    "gauss_newton unroll": {"backward_mode": "unroll"},
    "theseus implicit": {"solver": "theseus"},
    "theseus unroll": {"solver": "theseus", "backward_mode": "unroll"},
}
BOUND = 0.3
"""Bound of the bounded problems, inside of which about half of the unbounded plan's actions lie."""
_SMALL = LatentProblem(latent_dim=6, action_dim=2, hidden_dims=(16,), activation="tanh")
_SMALL_HORIZON = 3


def gradients(config: BenchmarkConfig) -> Iterator[Row]:
    """Times on the problem of ``learned_model``; errors on a small one in float64, with and without bounds."""
    device, dtype = resolve_device(config.device), config.dtype or "float32"
    take = partial(measure, suite="gradients", device=device, dtype=dtype, repeats=config.repeats)
    sizes = config.sizes(num_envs=(64,), horizon=(5,), iterations=(2, 5, 10, 20))
    for bounded in (False, True):
        bounds = {"action_low": -BOUND, "action_high": BOUND} if bounded else {}
        for solver, settings in SOLVERS.items():
            name = f"{solver}, bounded" if bounded else solver
            if not config.wants(name) or (bounded and settings.get("solver") == "theseus"):
                continue
            # A tolerance that no solve meets: every iteration is run.
            trajopt = replace(TRAJOPT, tolerance=1e-12, **settings, **bounds)
            problem = LatentProblem(trajopt=trajopt, device=device, dtype=getattr(torch, dtype))
            for size in sizes:
                row = take(partial(workload, problem), size, solver=name)
                yield replace(row, gradient_error=gradient_error(trajopt, size.iterations))


def gradient_error(trajopt: TrajOptConfig, iterations: int) -> float:
    """Largest error of the derivatives of a loss of the plan along random directions, relative to the largest of them.

    The derivatives after ``iterations`` are compared with central differences of the converged plan, in float64; the
    directions move initial states, priors and every weight of the model together.
    """
    model, z0, prior, inputs = _small_problem()
    layer = TrajOptLayer(replace(trajopt, horizon=_SMALL_HORIZON, iterations=iterations, tolerance=1e-12))
    gradient = torch.autograd.grad(_loss(layer, model, z0, prior), inputs)
    expected = _finite_differences(trajopt.action_low, trajopt.action_high)
    errors = [
        abs(sum(float((part * move).sum()) for part, move in zip(gradient, moves, strict=True)) - derivative)
        for moves, derivative in zip(_directions(inputs), expected, strict=True)
    ]
    return max(errors) / max(map(abs, expected))


@cache
def _finite_differences(low: float | None, high: float | None, step: float = 1e-5) -> list[float]:
    """Central differences of the loss of the converged plan along the directions."""
    model, z0, prior, inputs = _small_problem()
    converged = replace(TRAJOPT, horizon=_SMALL_HORIZON, iterations=200, tolerance=1e-9)
    layer = TrajOptLayer(replace(converged, action_low=low, action_high=high))

    def moved(moves: list[torch.Tensor], size: float) -> float:
        for tensor, move in zip(inputs, moves, strict=True):
            tensor.add_(move, alpha=size)
        value = float(_loss(layer, model, z0, prior))
        for tensor, move in zip(inputs, moves, strict=True):
            tensor.sub_(move, alpha=size)
        return value

    with torch.no_grad():
        return [(moved(moves, step) - moved(moves, -step)) / (2 * step) for moves in _directions(inputs)]


def _small_problem() -> tuple[LatentWorldModel, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    problem = replace(_SMALL, dtype=torch.float64)
    model, z0, prior = problem.build(4, _SMALL_HORIZON)
    return model, z0, prior, plan_inputs(model, z0, prior)


def _loss(layer: TrajOptLayer, model: LatentWorldModel, z0: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    return layer(model, z0, prior).actions.sin().sum()


def _directions(inputs: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in inputs] for _ in range(4)
    ]
