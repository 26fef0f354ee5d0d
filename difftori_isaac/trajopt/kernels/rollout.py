"""States and outputs visited by action sequences, and their adjoint."""
# pyright: reportInvalidTypeForm=false

from functools import cache
from typing import Any, NamedTuple

import torch
import warp as wp
from torch.autograd.function import once_differentiable

from difftori_isaac.trajopt.kernels.derivatives import derivatives_of, types_of
from difftori_isaac.trajopt.kernels.interop import launch, packed, scalar_type, view
from difftori_isaac.trajopt.kernels.system import WarpSystem


class Rollout(NamedTuple):
    """Trajectories of a batch of environments."""

    states: torch.Tensor
    """Shape (num_envs, horizon + 1, state_dim), the initial states first."""
    outputs: torch.Tensor
    """Outputs of the states, shape (num_envs, horizon + 1, output_dim)."""


def rollout(system: WarpSystem, z0: torch.Tensor, actions: torch.Tensor, physical: torch.Tensor) -> Rollout:
    """Roll a system out in one kernel launch, differentiably.

    Args:
        system: The dynamics.
        z0: Initial states, shape (num_envs, state_dim).
        actions: Shape (num_envs, horizon, action_dim).
        physical: Physical parameters and time step, shape (system.num_params,).
    """
    return Rollout(*_Rollout.apply(system, z0, actions, physical))


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, system: WarpSystem, z0: torch.Tensor, actions: torch.Tensor, physical: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        types = types_of(system, scalar_type(z0.dtype))
        (num_envs, horizon, _), num_states = actions.shape, actions.shape[1] + 1
        states = z0.new_empty(num_envs, num_states, system.state_dim)
        outputs = z0.new_empty(num_envs, num_states, system.output_dim)
        z0, actions, physical = packed(z0), packed(actions), packed(physical)
        launch(
            _rollout_kernel(system, types.scalar),
            z0,
            view(z0, types.state),
            view(actions, types.action),
            view(physical[None], types.physical),
            horizon,
            view(states, types.state),
            view(outputs, types.output),
        )
        ctx.system = system
        ctx.save_for_backward(states, actions, physical)
        return states, outputs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, states_grad: torch.Tensor, outputs_grad: torch.Tensor
    ) -> tuple[None, torch.Tensor, torch.Tensor, torch.Tensor]:
        states, actions, physical = ctx.saved_tensors
        types = types_of(ctx.system, scalar_type(states.dtype))
        z0_grad, actions_grad = torch.empty_like(states[:, 0]), torch.empty_like(actions)
        physical_grad = states.new_empty(len(states), len(physical))
        launch(
            _adjoint_kernel(ctx.system, types.scalar),
            states,
            view(states, types.state),
            view(actions, types.action),
            view(physical[None], types.physical),
            actions.shape[1],
            view(packed(states_grad), types.state),
            view(packed(outputs_grad), types.output),
            view(z0_grad, types.state),
            view(actions_grad, types.action),
            view(physical_grad, types.physical),
        )
        return None, z0_grad, actions_grad, physical_grad.sum(dim=0)


@cache
def _rollout_kernel(system: WarpSystem, scalar: Any) -> Any:
    types, outputs, step = types_of(system, scalar), derivatives_of(system, scalar).outputs, system.step
    state, action, physical, output = types.state, types.action, types.physical, types.output

    @wp.kernel(enable_backward=False, module="unique")
    def roll_out(
        # In:
        z0_in: wp.array(dtype=state),
        actions_in: wp.array2d(dtype=action),
        physical_in: wp.array(dtype=physical),
        horizon: int,
        # Out:
        states_out: wp.array2d(dtype=state),
        outputs_out: wp.array2d(dtype=output),
    ):
        env = wp.tid()
        p, z = physical_in[0], state(z0_in[env])
        for t in range(horizon):
            states_out[env, t] = z
            outputs_out[env, t] = outputs(z, p)
            z = step(z, actions_in[env, t], p)
        states_out[env, horizon] = z
        outputs_out[env, horizon] = outputs(z, p)

    return roll_out


@cache
def _adjoint_kernel(system: WarpSystem, scalar: Any) -> Any:
    types, derivatives = types_of(system, scalar), derivatives_of(system, scalar)
    state, action, physical, output = types.state, types.action, types.physical, types.output
    step_pull, outputs_pull = derivatives.step_pull, derivatives.outputs_pull

    @wp.kernel(enable_backward=False, module="unique")
    def pull_back(
        # In:
        states_in: wp.array2d(dtype=state),
        actions_in: wp.array2d(dtype=action),
        physical_in: wp.array(dtype=physical),
        horizon: int,
        states_grad_in: wp.array2d(dtype=state),
        outputs_grad_in: wp.array2d(dtype=output),
        # Out:
        z0_grad_out: wp.array(dtype=state),
        actions_grad_out: wp.array2d(dtype=action),
        physical_grad_out: wp.array(dtype=physical),
    ):
        env = wp.tid()
        p = physical_in[0]
        costate, p_grad = outputs_pull(states_in[env, horizon], p, outputs_grad_in[env, horizon])
        costate += states_grad_in[env, horizon]
        for back in range(horizon):
            t = horizon - 1 - back
            z_part, a_part, p_part = step_pull(states_in[env, t], actions_in[env, t], p, costate)
            z_direct, p_direct = outputs_pull(states_in[env, t], p, outputs_grad_in[env, t])
            costate = z_part + z_direct + states_grad_in[env, t]
            actions_grad_out[env, t] = a_part
            p_grad += p_part + p_direct
        z0_grad_out[env] = costate
        physical_grad_out[env] = p_grad

    return pull_back
