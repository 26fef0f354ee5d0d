"""The latent model of ``learned_model`` in torchrl's planners, all environments at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Composite, Unbounded  # pyright: ignore[reportMissingImports]
from torchrl.envs import ModelBasedEnvBase  # pyright: ignore[reportMissingImports]
from torchrl.modules.planners import CEMPlanner, MPPIPlanner  # pyright: ignore[reportMissingImports]

from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.learned_model import LatentProblem
from difftori_isaac.benchmarks.learned_model import workload as our_workload
from difftori_isaac.benchmarks.measure import Workload
from difftori_isaac.trajopt.objectives import pose
from difftori_isaac.trajopt.problem import TrajOptProblem


def cem(problem: LatentProblem, size: Size) -> Workload:
    """CEM: the mean of the elites, each counting the same."""
    return _workload(problem, size, CEMPlanner)


def mppi(problem: LatentProblem, size: Size) -> Workload:
    """MPPI: the mean of the elites, weighted by ``exp(−cost / temperature)``."""
    advantage = TensorDictModule(torch.nn.Identity(), in_keys=[("next", "reward")], out_keys=["advantage"])
    temperature = 1.0 / problem.trajopt.mppi.temperature
    return _workload(problem, size, MPPIPlanner, advantage_module=advantage, temperature=temperature)


def _workload(problem: LatentProblem, size: Size, planner_type: Callable[..., Any], **arguments: Any) -> Workload:
    """As :func:`difftori_isaac.benchmarks.learned_model.workload`, with the samples and iterations of our ``mppi``."""
    config, (model, z0, prior) = problem.trajopt, problem.build(size.num_envs, size.horizon)
    torch.manual_seed(config.mppi.seed)
    planner = planner_type(
        _WholePlan(pose(config, model, z0.detach(), prior.detach())),
        planning_horizon=1,
        optim_steps=size.iterations,
        num_candidates=config.mppi.num_samples,
        top_k=config.mppi.num_elites,
        **arguments,
    )
    start = TensorDict({"z": z0.detach(), "prior": prior.detach().flatten(1)}, batch_size=[size.num_envs])

    @torch.no_grad()
    def forward() -> torch.Tensor:
        shift = planner(start.clone())["action"]
        return prior + shift.view_as(prior)

    return replace(our_workload(problem, size), forward=forward, forward_backward=None)


class _WholePlan(ModelBasedEnvBase):
    """An environment of one step, whose action is how far a whole plan is from the prior plan.

    torchrl's planners return the first action alone, without discount, and begin from zero.
    """

    def __init__(self, problem: TrajOptProblem) -> None:
        horizon, action_dim = problem.prior.shape[1:]

        def reward(z: torch.Tensor, prior: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            plan, prior = ((part.reshape(-1, horizon, action_dim)) for part in (prior + shift, prior))
            cost = problem.replaced(z0=z.reshape(-1, z.shape[-1]), prior=prior).cost(plan)
            return -cost.view(*z.shape[:-1], 1)

        model = TensorDictModule(reward, in_keys=["z", "prior", "action"], out_keys=["reward"])
        super().__init__(model, device=problem.z0.device)
        shape = {"device": problem.z0.device, "dtype": problem.z0.dtype}
        plan = Unbounded((horizon * action_dim,), **shape)
        self.observation_spec = Composite(z=Unbounded(problem.z0.shape[1:], **shape), prior=plan)
        self.state_spec = self.observation_spec.clone()
        self.action_spec = plan.clone()
        self.reward_spec = Unbounded((1,), **shape)

    def _reset(self, tensordict: TensorDict | None = None, **_: Any) -> TensorDict:
        raise RuntimeError("planners begin at the state that they are given")
