"""Model predictive path integral control (MPPI): a sampling baseline that needs the cost of a plan and nothing else.

pytorch-mppi keeps the standard deviation of its samples, torchrl's MPPIPlanner rolls out an ``EnvBase`` with fresh
noise; this one plans against a problem's cost, within bounds, and its plans are a function of the problem.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from difftori_isaac.trajopt.config import MppiConfig, TrajOptConfig
from difftori_isaac.trajopt.optimality import conclude
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> SolverResult:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    A Gaussian over plans is refitted to its best samples ``config.iterations`` times (TD-MPC, arXiv 2203.04955,
    section 3, with the mean as the plan). Every environment and every call sees the same noise, drawn from
    ``config.mppi.seed``, so that a plan recomputed in an update is the plan that was executed.

    The samples have no gradient: a plan passes gradients on to the prior plan, as if it were at a constant distance
    from it, and to nothing else.
    """
    shape = (config.iterations, config.mppi.num_samples, *warm_start.shape[1:])
    with torch.no_grad():
        start = problem.project(warm_start)
        mean, std = start, torch.full_like(start, config.mppi.std_max)
        for noise in _noise(config.mppi.seed, shape, start.dtype, start.device):
            mean, std = _refit(problem, mean, std, noise, config.mppi)
        improved = problem.cost(mean) <= problem.cost(start)
        actions = torch.where(improved[:, None, None], mean, start)
    if differentiable:
        actions = actions + (problem.prior - problem.prior.detach())
    return conclude(problem, actions, config.iterations * improved.long(), config, implicit=False)


@lru_cache(maxsize=8)
def _noise(seed: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Standard normal noise, shape (iterations, num_samples, horizon, action_dim), the same on every device.

    The first sample is zero, so that the mean itself is a candidate.
    """
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise[:, 0] = 0.0
    return noise.to(dtype=dtype, device=device)


def _refit(
    problem: TrajOptProblem, mean: torch.Tensor, std: torch.Tensor, noise: torch.Tensor, settings: MppiConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the elites, weighted by ``exp(−cost / temperature)``."""
    at_once = max(1, settings.max_batch // len(mean))
    costs = torch.cat([_costs(problem, problem.project(mean + std * part[:, None])) for part in noise.split(at_once)])
    costs, elites = costs.nan_to_num(torch.finfo(costs.dtype).max).topk(settings.num_elites, dim=0, largest=False)
    plans = problem.project(mean + std * noise[elites])
    weights = torch.softmax(-costs / settings.temperature, dim=0)[..., None, None]
    average = (weights * plans).sum(dim=0)
    spread = (weights * (plans - average).square()).sum(dim=0).sqrt().clamp(settings.std_min, settings.std_max)
    return problem.project(torch.lerp(average, mean, settings.momentum)), spread


def _costs(problem: TrajOptProblem, plans: torch.Tensor) -> torch.Tensor:
    """Costs, shape (num_samples, num_envs), of plans, shape (num_samples, num_envs, horizon, action_dim)."""
    num_samples, num_envs = plans.shape[:2]
    repeated = problem.replaced(z0=problem.z0.repeat(num_samples, 1), prior=problem.prior.repeat(num_samples, 1, 1))
    return repeated.cost(plans.flatten(0, 1)).view(num_samples, num_envs)
