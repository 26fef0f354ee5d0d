"""Rollouts of a latent model in one launch, their adjoint in another, cost and gradient of a plan in one as well.

A thread block rolls out a few environments; on CUDA (sm_90) it needs 16 KiB of shared memory in float32 and 30 KiB in
float64. On a CPU torch is an order of magnitude faster.
"""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import warp as wp
from torch import nn
from torch.autograd.function import once_differentiable

from difftori_isaac.trajopt.kernels.interop import launch_tiled, scalar_type, view
from difftori_isaac.trajopt.kernels.layers import Layers, layers_of
from difftori_isaac.trajopt.kernels.network import TILE_ENVS, network_functions

_BLOCK_DIM = 128


class LatentModel(Protocol):
    """A model that these kernels roll out; ``world_models.latent.LatentWorldModel`` is one."""

    dynamics: nn.Sequential
    """State and action, side by side, to the change of the state."""
    reward_head: nn.Sequential
    """State and action to the residual φ of a step."""
    value_head: nn.Sequential
    """State to the residual ψ of the last state."""


class LatentRollout(NamedTuple):
    """Trajectories of a batch of environments."""

    states: torch.Tensor
    """Shape (num_envs, horizon + 1, latent_dim), the initial states first."""
    stage_residuals: torch.Tensor
    """Residuals φ of the steps, shape (num_envs, horizon, num_residuals)."""
    terminal_residual: torch.Tensor
    """Residual ψ of the last state, shape (num_envs, num_terminal_residuals)."""


def latent_rollout(model: LatentModel, z0: torch.Tensor, actions: torch.Tensor) -> LatentRollout:
    """Roll a model out in one kernel launch, differentiably (once) in z0, the actions and every weight.

    Args:
        model: Dynamics and heads.
        z0: Initial states, shape (num_envs, latent_dim).
        actions: Shape (num_envs, horizon, action_dim).

    Raises:
        ValueError: If a network has other layers than the kernels know, or the types or devices differ.
    """
    networks = _networks(model, z0)
    parameters = [tensor for network in networks for tensor in network.parameters]
    states, stage, terminal = _Rollout.apply(networks, z0, actions, *parameters)
    return LatentRollout(states.transpose(0, 1), stage.transpose(0, 1), terminal)


def latent_cost(model: LatentModel, z0: torch.Tensor, actions: torch.Tensor, discount: float) -> torch.Tensor:
    """``½ Σ_t γ^t ‖φ(z_t, a_t)‖² + ½ γ^H ‖ψ(z_H)‖²``, shape (num_envs,), in one launch; no autograd graph.

    See :func:`latent_rollout` for the arguments and errors.
    """
    simulation = _Simulation(_networks(model, z0), z0, actions, keep=False)
    simulation.run(discount, forward=True)
    return simulation.cost()


def latent_cost_and_gradient(
    model: LatentModel, z0: torch.Tensor, actions: torch.Tensor, discount: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`latent_cost` and its gradient for the actions, of their shape, in one launch."""
    simulation = _Simulation(_networks(model, z0), z0, actions, keep=True)
    simulation.run(discount, forward=True, backward=True)
    return simulation.cost(), simulation.actions_grad()


def _networks(model: LatentModel, z0: torch.Tensor) -> tuple[Layers, ...]:
    return tuple(layers_of(model, name, z0) for name in ("dynamics", "reward_head", "value_head"))


class _Simulation:
    """The memory of a rollout, times first. A point is a state and an action side by side."""

    def __init__(self, networks: tuple[Layers, ...], z0: torch.Tensor, actions: torch.Tensor, *, keep: bool) -> None:
        """Allocate; ``keep`` what the adjoint needs."""
        (num_envs, self.horizon, action_dim), self.latent_dim = actions.shape, z0.shape[1]
        dynamics, reward, value = networks
        self.keep = keep
        self.points = z0.new_zeros(self.horizon + 1, num_envs, self.latent_dim + action_dim)
        self.states = self.points[..., : self.latent_dim]
        self.states[0] = z0.detach()
        self.points[:-1, :, self.latent_dim :] = actions.detach().transpose(0, 1)
        self.points_grad = torch.zeros_like(self.points) if keep else z0.new_empty(self.horizon + 1, 0, 0)
        self.costates = self.points_grad[..., : self.latent_dim]
        self.stage = z0.new_empty(self.horizon, num_envs, reward.widths[-1])
        self.terminal = z0.new_empty(num_envs, value.widths[-1])
        self.stage_grad, self.terminal_grad = torch.empty_like(self.stage), torch.empty_like(self.terminal)
        self.tapes = (
            dynamics.tape(self.points[:-1], self.costates[1:], keep),
            reward.tape(self.points[:-1], self.stage_grad, keep),
            value.tape(self.points[-1:], self.terminal_grad[None], keep),
        )

    def run(self, discount: float = 1.0, *, forward: bool = False, backward: bool = False) -> None:
        """Forward writes states, residuals and the gradient of the cost for the residuals.

        Backward adds to ``points_grad``, which holds the gradient of the states alone or zeros before.
        """
        scalar = scalar_type(self.points.dtype)
        struct = network_functions(scalar).struct
        launch_tiled(
            _latent_kernel(scalar),
            self.points,
            -(-self.points.shape[1] // TILE_ENVS),
            _BLOCK_DIM,
            *(tape.fill(struct()) for tape in self.tapes),
            self.horizon,
            discount,
            forward,
            backward,
            self.keep,
            view(self.states),
            view(self.stage),
            view(self.terminal),
            view(self.stage_grad),
            view(self.terminal_grad),
            view(self.points_grad),
            view(self.costates),
        )

    def cost(self) -> torch.Tensor:
        """Half the squared residuals, discounted, shape (num_envs,)."""
        stage, terminal = self.stage * self.stage_grad, self.terminal * self.terminal_grad
        return 0.5 * (stage.sum(dim=(0, 2)) + terminal.sum(dim=1))

    def actions_grad(self) -> torch.Tensor:
        """Shape (num_envs, horizon, action_dim)."""
        return self.points_grad[:-1, :, self.latent_dim :].transpose(0, 1).contiguous()


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, networks: tuple[Layers, ...], z0: torch.Tensor, actions: torch.Tensor, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.simulation = _Simulation(networks, z0, actions, keep=True)
        ctx.simulation.run(forward=True)
        ctx.save_for_backward(*parameters)
        # Outputs hold ctx: what ctx holds, and were one itself, would never be freed.
        return ctx.simulation.states.clone(), ctx.simulation.stage.clone(), ctx.simulation.terminal.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, states_grad: torch.Tensor, stage_grad: torch.Tensor, terminal_grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if a parameter has changed since
        simulation: _Simulation = ctx.simulation
        simulation.points_grad.zero_()
        simulation.costates.copy_(states_grad)
        simulation.stage_grad.copy_(stage_grad)
        simulation.terminal_grad.copy_(terminal_grad)
        simulation.run(backward=True)
        parameter_grads = [grad for tape in simulation.tapes for grad in tape.parameter_grads()]
        return None, simulation.costates[0].clone(), simulation.actions_grad(), *parameter_grads


@cache
def _latent_kernel(scalar: Any) -> Any:
    network, push, pull, add, scale_to = network_functions(scalar)

    @wp.kernel(enable_backward=False, module="unique")
    def roll_out(
        # Model:
        dynamics: network,
        reward_head: network,
        value_head: network,
        # In:
        horizon: int,
        discount: scalar,
        forward: bool,
        backward: bool,
        keep: bool,
        # In and out:
        states: wp.array3d(dtype=scalar),
        stage: wp.array3d(dtype=scalar),
        terminal: wp.array2d(dtype=scalar),
        stage_grad: wp.array3d(dtype=scalar),
        terminal_grad: wp.array2d(dtype=scalar),
        points_grad: wp.array3d(dtype=scalar),
        costates: wp.array3d(dtype=scalar),  # the states' part of points_grad
    ):
        first_env = wp.tid() * TILE_ENVS
        if forward:
            scale = scalar(1.0)
            for t in range(horizon):
                push(reward_head, t, first_env, keep, stage[t])
                scale_to(stage[t], scale, first_env, stage_grad[t])
                push(dynamics, t, first_env, keep, states[t + 1])
                add(states[t], first_env, states[t + 1])
                scale *= discount
            push(value_head, 0, first_env, keep, terminal)
            scale_to(terminal, scale, first_env, terminal_grad)
        if backward:
            pull(value_head, 0, first_env, points_grad[horizon])
            for back in range(horizon):
                t = horizon - 1 - back
                pull(reward_head, t, first_env, points_grad[t])
                pull(dynamics, t, first_env, points_grad[t])
                add(costates[t + 1], first_env, costates[t])

    return roll_out
