"""The latent model of ``learned_model`` in pytorch-mppi, all environments at once."""

from __future__ import annotations

from dataclasses import replace

import torch
from pytorch_mppi import MPPI_Batched  # pyright: ignore[reportMissingImports]

from difftori_isaac.benchmarks import learned_model
from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.measure import Workload

STD, TEMPERATURE = 0.6, 0.01
"""Standard deviation of the samples, which it does not adapt, and its λ: of those tried, those of the lowest cost."""


def workload(problem: learned_model.LatentProblem, size: Size) -> Workload:
    """As :func:`difftori_isaac.benchmarks.learned_model.workload`, with the samples and iterations of our ``mppi``.

    It plans distances from the prior plan, since it draws its plans towards zero. Its costs see the state after a step;
    ours belong to the state before it, so they are added up in the dynamics and travel as the last number of a state.
    """
    ours = learned_model.workload(problem, size)
    model, z0, prior = problem.build(size.num_envs, size.horizon)
    z0, prior = z0.detach(), prior.detach()
    config, num_samples = problem.trajopt, problem.trajopt.mppi.num_samples

    def dynamics(state: torch.Tensor, shift: torch.Tensor, t: int) -> torch.Tensor:
        z, a = state[:, :-1], shift + prior[:, t].repeat_interleave(num_samples, dim=0)
        cost = config.gamma**t * model.stage_residual(z, a).square().sum(dim=1, keepdim=True)
        cost += config.prior_weight**2 * shift.square().sum(dim=1, keepdim=True)
        return torch.cat((model.next(z, a), 0.5 * cost), dim=1)

    def running_cost(state: torch.Tensor, shift: torch.Tensor, t: int) -> torch.Tensor:
        cost = state[:, -1]
        if t == size.horizon - 1:
            residual = model.terminal_residual(state[:, :-1])
            cost = cost + 0.5 * config.gamma**size.horizon * residual.square().sum(dim=1)
        return cost

    torch.manual_seed(config.mppi.seed)
    planner = MPPI_Batched(
        dynamics,
        running_cost,
        z0.shape[1] + 1,
        STD**2 * torch.eye(prior.shape[2], dtype=z0.dtype),
        size.num_envs,
        num_samples=num_samples,
        horizon=size.horizon,
        device=problem.device,
        lambda_=TEMPERATURE,
        step_dependent_dynamics=True,
    )
    state = torch.nn.functional.pad(z0, (0, 1))

    @torch.no_grad()
    def forward() -> torch.Tensor:
        planner.U = torch.zeros_like(prior)
        for _ in range(size.iterations):
            planner.command(state, shift_nominal_trajectory=False)
        return prior + planner.U

    return replace(ours, forward=forward, forward_backward=None)
