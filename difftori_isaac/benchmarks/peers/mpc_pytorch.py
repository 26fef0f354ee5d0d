"""The cart-pole of ``known_dynamics`` in mpc.pytorch."""

from __future__ import annotations

from dataclasses import replace

import torch
from mpc import mpc  # pyright: ignore[reportMissingImports]

from difftori_isaac.benchmarks import known_dynamics
from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.measure import Workload
from difftori_isaac.world_models.analytic import CartPole


def workload(problem: known_dynamics.CartPoleProblem, size: Size) -> Workload:
    """As :func:`difftori_isaac.benchmarks.known_dynamics.workload`; the prior's weight is added to the force's."""
    model, z0 = problem.build(size.num_envs)
    dynamics = _Dynamics(model)
    prior_weight = z0.new_tensor([problem.trajopt.prior_weight])

    def solve() -> tuple[torch.Tensor, torch.Tensor]:
        weights = torch.cat((model.weights.square(), model.action_weights.square() + prior_weight.square()))
        cost = mpc.QuadCost(
            torch.diag(weights).expand(size.horizon, size.num_envs, -1, -1),
            z0.new_zeros(size.horizon, size.num_envs, len(weights)),
        )
        planner = mpc.MPC(
            z0.shape[1],
            1,
            size.horizon,
            lqr_iter=size.iterations,
            grad_method=mpc.GradMethods.AUTO_DIFF,
            eps=0.0,
            verbose=-1,
            exit_unconverged=False,
            detach_unconverged=False,
        )
        states, actions, _ = planner(z0, cost, dynamics)
        return states, actions

    def forward() -> torch.Tensor:
        return solve()[1].detach().transpose(0, 1)  # its Jacobians need autograd

    def forward_backward() -> tuple[torch.Tensor, ...]:
        states, actions = solve()
        loss = states.square().sum() + actions.square().sum()
        return torch.autograd.grad(loss, [model.weights, model.action_weights])

    return replace(known_dynamics.workload(problem, size), forward=forward, forward_backward=forward_backward)


class _Dynamics(torch.nn.Module):
    def __init__(self, model: CartPole) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, shape (num_envs, 4)."""
        return self.model.next(z, a)
