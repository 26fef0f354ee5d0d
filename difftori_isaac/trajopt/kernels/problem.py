"""The problem and the iterates of all environments, as structures of arrays that kernels take."""
# pyright: reportInvalidTypeForm=false

from functools import cache
from typing import Any, NamedTuple

import warp as wp

from difftori_isaac.trajopt.kernels.derivatives import types_of
from difftori_isaac.trajopt.kernels.system import WarpSystem


class Structs(NamedTuple):
    """Structure types of a system in one precision."""

    problem: Any
    """What is minimised, see :class:`~difftori_isaac.trajopt.problem.TrajOptProblem`."""
    expansion: Any
    """Solution, and the quadratic model of the problem around it."""


@cache
def structs_of(system: WarpSystem, scalar: Any) -> Structs:
    """Structure types, whose arrays have the shapes (num_envs, horizon), (num_envs,) or (1,)."""
    types = types_of(system, scalar)

    @wp.struct
    class Problem:
        horizon: int
        discount: scalar
        prior_weight: scalar
        z0: wp.array(dtype=types.state)
        prior: wp.array2d(dtype=types.action)
        low: wp.array2d(dtype=types.action)
        high: wp.array2d(dtype=types.action)
        physical: wp.array(dtype=types.physical)
        weights: wp.array(dtype=types.output)
        terminal_weights: wp.array(dtype=types.output)
        goal: wp.array(dtype=types.output)
        action_weights: wp.array(dtype=types.action)

    @wp.struct
    class Expansion:
        states: wp.array2d(dtype=types.state)  # z_0 … z_H
        actions: wp.array2d(dtype=types.action)
        free: wp.array2d(dtype=types.action)  # 1 for components that no bound holds, 0 for the others
        step_z: wp.array2d(dtype=types.state_state)  # ∂step/∂z
        step_a: wp.array2d(dtype=types.state_action)  # ∂step/∂a
        inverse: wp.array2d(dtype=types.action_action)  # of the free block of Q_aa
        gain: wp.array2d(dtype=types.action_state)  # δa = offset + gain δz
        offset: wp.array2d(dtype=types.action)

    return Structs(Problem, Expansion)
