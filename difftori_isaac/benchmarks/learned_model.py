"""Plans against a learned latent world model: this project's solvers beside Theseus."""

from __future__ import annotations

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
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel

REFERENCE = Reference("theseus implicit")
TRAJOPT = TrajOptConfig(damping=0.01, prior_weight=0.2)
"""Settings that all solvers share."""
SOLVERS: dict[str, dict[str, Any]] = {
    "gauss_newton implicit": {},
    "gauss_newton truncated": {"backward_mode": "truncated"},
    "gauss_newton unroll": {"backward_mode": "unroll"},
    "gauss_newton implicit, Hessian every 2": {"hessian_every": 2},
    "gauss_newton implicit, one Hessian": {"hessian_every": 1000},
    "gauss_newton implicit, without CUDA graph": {"cuda_graph": False},
    "theseus implicit": {"solver": "theseus"},
    "theseus unroll": {"solver": "theseus", "backward_mode": "unroll"},
    "mppi": {"solver": "mppi"},
}
SAMPLING_PEERS = ("pytorch-mppi", "torchrl MPPI", "torchrl CEM")
"""Planners of others, measured with ``peers=true``."""
MAX_ENVS = {"theseus unroll": 256} | dict.fromkeys(("mppi", *SAMPLING_PEERS), 256)
"""Environments beyond which a solver takes tens of gigabytes, or minutes for a solve on a CPU."""


@dataclass(frozen=True, kw_only=True)
class LatentProblem:
    """A world model at its start, with heads large enough that planning matters, and random states and priors."""

    latent_dim: int = 64
    action_dim: int = 8
    hidden_dims: tuple[int, ...] = (256,)
    activation: str = "elu"
    head_scale: float = 1.5
    """Factor on the last layers of torch's initialisation; with 1.5, planning halves the cost of the prior."""
    trajopt: TrajOptConfig = TRAJOPT
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def build(self, num_envs: int, horizon: int) -> tuple[LatentWorldModel, torch.Tensor, torch.Tensor]:
        """Model, initial states (num_envs, latent_dim) and prior plans (num_envs, horizon, action_dim)."""
        config = WorldModelConfig(
            encoder_dims=(self.latent_dim,),
            hidden_dims=self.hidden_dims,
            head_hidden_dims=self.hidden_dims,
            activation=self.activation,
            head_scale=self.head_scale,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LatentWorldModel(self.latent_dim, self.action_dim, config)
        generator = torch.Generator().manual_seed(0)
        z0 = torch.randn(num_envs, self.latent_dim, generator=generator)
        prior = 0.5 * torch.randn(num_envs, horizon, self.action_dim, generator=generator)
        z0, prior = (tensor.to(self.device, self.dtype).requires_grad_() for tensor in (z0, prior))
        return model.to(self.device, self.dtype), z0, prior


def plan_inputs(model: LatentWorldModel, z0: torch.Tensor, prior: torch.Tensor) -> list[torch.Tensor]:
    """Everything that a plan depends on."""
    return [z0, prior, *model.dynamics.parameters(), *model.reward_head.parameters(), *model.value_head.parameters()]


def workload(problem: LatentProblem, size: Size) -> Workload:
    """Plans from the prior; the loss is the squared norm of the first actions."""
    model, z0, prior = problem.build(size.num_envs, size.horizon)
    config = replace(problem.trajopt, horizon=size.horizon, iterations=size.iterations)
    layer = TrajOptLayer(config)
    inputs = plan_inputs(model, z0, prior)
    posed = pose(config, model, z0, prior)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return layer(model, z0, prior).actions

    def forward_backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(layer(model, z0, prior).action.square().sum(), inputs)

    def cost(actions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return posed.cost(actions)

    return Workload(forward, None if config.solver == "mppi" else forward_backward, cost, prior.detach())


def learned_model(config: BenchmarkConfig) -> Iterator[Row]:
    """Latent 64, one hidden layer of 256, 8 actions, 4 residuals a step: 60 residuals and 40 unknowns at horizon 5."""
    device, dtype = resolve_device(config.device), config.dtype or "float32"
    settings = {"suite": "learned_model", "device": device, "dtype": dtype, "repeats": config.repeats}
    base = LatentProblem(device=device, dtype=getattr(torch, dtype))
    for size in config.sizes(num_envs=(64, 256, 1024), horizon=(5, 3, 8), iterations=(5,)):
        for solver in (*SOLVERS, *(SAMPLING_PEERS if config.peers else ())):
            if not config.wants(solver) or size.num_envs > MAX_ENVS.get(solver, size.num_envs):
                continue
            if device == "cpu" and solver.endswith("CUDA graph"):
                continue
            if solver in SAMPLING_PEERS:
                yield _measure_peer(base, size, solver=solver, **settings)
            else:
                problem = replace(base, trajopt=replace(TRAJOPT, **SOLVERS[solver]))
                yield measure(partial(workload, problem), size, solver=solver, **settings)


def _measure_peer(problem: LatentProblem, size: Size, *, solver: str, **settings: Any) -> Row:
    """The row of a peer; one that cannot be installed or run has a note instead of numbers."""
    try:
        return measure_peer(problem, size, solver=solver, **settings)
    except PeerError as error:
        note = f"cannot be run: {error}"
        return Row(suite=settings["suite"], solver=solver, **size._asdict(), measured=False, note=note)
