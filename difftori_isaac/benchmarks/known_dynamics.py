"""Plans of a cart-pole whose dynamics are known, differentiated with respect to the weights of the cost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from difftori_isaac.benchmarks.config import BenchmarkConfig, Size
from difftori_isaac.benchmarks.measure import Workload, measure
from difftori_isaac.benchmarks.peers import PeerError, measure_peer
from difftori_isaac.benchmarks.row import Reference, Row
from difftori_isaac.run.build import resolve_device
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.world_models.analytic import CartPole

REFERENCE = Reference("diffmpc")
TRAJOPT = TrajOptConfig(damping=1e-6, prior_weight=1e-3, discount=1.0)
"""Settings that all solvers share; the cost of the force is the model's, which has a gradient, not the prior's."""
SOLVERS: dict[str, dict[str, Any]] = {
    "warp implicit": {"solver": "warp"},
    "gauss_newton implicit": {"solver": "gauss_newton"},
    "theseus implicit": {"solver": "theseus"},
}
QUOTED = {
    "diffmpc": {64: 14.9, 256: 62.0, 1024: 326.0},
    "mpc.pytorch": {64: 155.0, 256: 276.0, 1024: 1158.0},
}
"""Forward and backward [ms] by number of environments, in float64."""
QUOTED_SIZE = Size(num_envs=1, horizon=10, iterations=5)
WEIGHTS = (1.0, 0.3, 3.0, 0.3, 0.3)
"""Weights of cart position [1/m], velocity [s/m], pole angle [1/rad], rate [s/rad] and force [1/N]."""


@dataclass(frozen=True, kw_only=True)
class CartPoleProblem:
    """Bring cart and pole to rest from random states near the upright."""

    trajopt: TrajOptConfig = TRAJOPT
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def build(self, num_envs: int) -> tuple[CartPole, torch.Tensor]:
        """Model and initial states, shape (num_envs, 4)."""
        model = CartPole(dt=0.05, weights=WEIGHTS[:4], action_weights=WEIGHTS[4], terminal_weights=0.0)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in ("weights", "action_weights"))
        spread = torch.tensor([0.5, 0.5, 0.2, 0.5], dtype=torch.float64)
        z0 = spread * torch.randn(num_envs, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return model.to(self.device, self.dtype), z0.to(self.device, self.dtype)


def workload(problem: CartPoleProblem, size: Size) -> Workload:
    """Plans from zero; the loss is the squared norm of the planned states and actions."""
    model, z0 = problem.build(size.num_envs)
    config = replace(problem.trajopt, horizon=size.horizon, iterations=size.iterations)
    layer = TrajOptLayer(config)
    prior = torch.zeros(size.num_envs, size.horizon, 1, dtype=problem.dtype, device=problem.device)
    posed = pose(config, model, z0, prior)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return layer(model, z0, prior).actions

    def forward_backward() -> tuple[torch.Tensor, ...]:
        actions = layer(model, z0, prior).actions
        loss = posed.rollout(actions)[:, :-1].square().sum() + actions.square().sum()
        return torch.autograd.grad(loss, [model.weights, model.action_weights])

    def cost(actions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return posed.cost(actions)

    return Workload(forward, forward_backward, cost, prior)


def known_dynamics(config: BenchmarkConfig) -> Iterator[Row]:
    """Cart-pole: 4 states, 1 control, explicit Euler at 0.05 s, 10 stages, quadratic cost of states and force."""
    device, dtype = resolve_device(config.device), config.dtype or "float64"
    take = partial(measure, suite="known_dynamics", device=device, dtype=dtype, repeats=config.repeats)
    for size in config.sizes(num_envs=(64, 256, 1024), horizon=(10, 5, 20), iterations=(5,)):
        for solver, settings in SOLVERS.items():
            if config.wants(solver):
                trajopt = replace(TRAJOPT, **settings)
                problem = CartPoleProblem(trajopt=trajopt, device=device, dtype=getattr(torch, dtype))
                yield take(partial(workload, problem), size, solver=solver)
        if device == "cpu":
            yield from _peers(config, size, dtype)


def _peers(config: BenchmarkConfig, size: Size, dtype: str) -> Iterator[Row]:
    quoted = dict(QUOTED)
    if config.peers and config.wants(solver := "mpc.pytorch"):
        problem = CartPoleProblem(dtype=getattr(torch, dtype))
        settings = {"suite": "known_dynamics", "device": "cpu", "dtype": dtype, "repeats": config.repeats}
        try:
            yield measure_peer(problem, size, solver=solver, **settings)
            del quoted[solver]
        except PeerError as error:
            warnings.warn(f"{solver} cannot be run: {error}", stacklevel=2)
    for solver, milliseconds in quoted.items():
        quoted_size = QUOTED_SIZE._replace(num_envs=size.num_envs)
        if config.wants(solver) and size == quoted_size and size.num_envs in milliseconds and dtype == "float64":
            yield Row(
                suite="known_dynamics",
                solver=solver,
                **size._asdict(),
                forward_backward_ms=milliseconds[size.num_envs],
                measured=False,
                device="cpu",
                dtype=dtype,
                note="quoted",
            )
