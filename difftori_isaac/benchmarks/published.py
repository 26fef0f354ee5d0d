"""One plan of DiffTORI as published against one of ours, solved with a thousand others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from difftori_isaac.benchmarks.config import BenchmarkConfig
from difftori_isaac.benchmarks.learned_model import LatentProblem, workload
from difftori_isaac.benchmarks.measure import measure
from difftori_isaac.benchmarks.row import Row
from difftori_isaac.run.build import resolve_device

REFERENCE = "DiffTORI, published code, 50 iterations"
_QUOTED = Row(
    suite="published",
    solver=REFERENCE,
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


def published(config: BenchmarkConfig) -> Iterator[Row]:
    """Latent 50, two hidden layers of 512, 6 actions, horizon 5: the sizes of DiffTORI's model-based experiments."""
    device, dtype = resolve_device(config.device), config.dtype or "float32"
    if device == "cpu":
        yield from QUOTED
    take = partial(measure, suite="published", device=device, dtype=dtype, repeats=config.repeats)
    for size in config.sizes(num_envs=(1024,), horizon=(5,), iterations=(5,)):
        if config.wants(solver := "gauss_newton implicit, least squares"):
            problem = LatentProblem(
                latent_dim=50, action_dim=6, hidden_dims=(512, 512), device=device, dtype=getattr(torch, dtype)
            )
            yield take(partial(workload, problem), size, solver=solver)
