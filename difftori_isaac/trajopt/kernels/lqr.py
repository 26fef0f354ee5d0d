"""Riccati recursions: the quadratic model of a trajectory, minimised without ever forming its Hessian."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import warp as wp

from difftori_isaac.trajopt.kernels.derivatives import derivatives_of, derived, types_of
from difftori_isaac.trajopt.kernels.problem import structs_of
from difftori_isaac.trajopt.kernels.system import WarpSystem

_Function = Callable[..., Any]


class LQR(NamedTuple):
    """Warp functions of a system; ``env`` is the environment's index."""

    output_cost: _Function
    """``(z, p, weights, goal) -> ½‖weights · (y − goal)‖²``."""
    output_expansion: _Function
    """``(z, p, weights, goal) -> (gradient, Gauss-Newton Hessian)`` of that cost."""
    stage: _Function
    """``(problem, expansion, env, t, γ^t, V_z, V_zz) -> (Q_z, Q_a, Q_zz, Q_az, Q_aa)`` with the value of the next."""
    free_inverse: _Function
    """``(matrix, free) -> (inverse of the free block, whether it is positive definite)``."""
    solve: _Function
    """``(expansion, env, horizon) -> largest component``: solve for ``offset``, with the factorised model."""


@cache
def lqr_of(system: WarpSystem, scalar: Any) -> LQR:
    """Functions of a system in one precision."""
    types, derivatives = types_of(system, scalar), derivatives_of(system, scalar)
    state, action, physical, output = types.state, types.action, types.physical, types.output
    state_state, action_action = types.state_state, types.action_action
    outputs, outputs_jacobian = derivatives.outputs, derivatives.outputs_jacobian
    problem_type, expansion_type = structs_of(system, scalar)
    action_dim = system.action_dim

    @wp.func
    def output_cost(z: state, p: physical, weights: output, goal: output):
        residual = wp.cw_mul(weights, outputs(z, p) - goal)
        return scalar(0.5) * wp.dot(residual, residual)

    @wp.func
    def state_expansion(z: state, p: physical, weights: output, goal: output):
        squared = wp.cw_mul(weights, weights)
        return wp.cw_mul(squared, z - goal), wp.diag(squared)

    @derived
    def outputs_expansion(z: state, p: physical, weights: output, goal: output):
        squared = wp.cw_mul(weights, weights)
        jacobian = outputs_jacobian(z, p)
        transposed = wp.transpose(jacobian)
        slope = transposed * wp.cw_mul(squared, outputs(z, p) - goal)
        return slope, transposed * (wp.diag(squared) * jacobian)

    output_expansion = state_expansion if system.outputs is None else outputs_expansion

    @derived
    def stage(
        problem: problem_type,
        expansion: expansion_type,
        env: int,
        t: int,
        scale: scalar,
        slope: state,
        hessian: state_state,
    ):
        a, step_z, step_a = expansion.actions[env, t], expansion.step_z[env, t], expansion.step_a[env, t]
        weights, prior_weight = problem.action_weights[0], problem.prior_weight * problem.prior_weight
        action_hessian = scale * wp.cw_mul(weights, weights)
        z_slope, z_hessian = output_expansion(
            expansion.states[env, t], problem.physical[0], problem.weights[0], problem.goal[0]
        )
        a_slope = wp.cw_mul(action_hessian, a) + prior_weight * (a - problem.prior[env, t])
        for i in range(action_dim):
            action_hessian[i] += prior_weight
        transposed = wp.transpose(step_a) * hessian
        return (
            scale * z_slope + wp.transpose(step_z) * slope,
            a_slope + wp.transpose(step_a) * slope,
            scale * z_hessian + wp.transpose(step_z) * (hessian * step_z),
            transposed * step_z,
            wp.diag(action_hessian) + transposed * step_a,
        )

    @wp.func
    def free_inverse(matrix: action_action, free: action):
        """Gauss-Jordan elimination of the free rows and columns; zeros elsewhere."""
        work, positive = matrix, bool(True)
        for j in range(action_dim):
            for i in range(action_dim):
                work[i, j] = work[i, j] * free[i] * free[j]
        for j in range(action_dim):
            if free[j] > scalar(0.0):
                if not work[j, j] > scalar(0.0):
                    positive = False
                pivot = scalar(1.0) / work[j, j]
                work[j, j] = scalar(1.0)
                for k in range(action_dim):
                    work[j, k] = work[j, k] * pivot
                for i in range(action_dim):
                    if i != j:
                        factor = work[i, j]
                        work[i, j] = scalar(0.0)
                        for k in range(action_dim):
                            work[i, k] = work[i, k] - factor * work[j, k]
        return work, positive

    @wp.func
    def solve(expansion: expansion_type, env: int, horizon: int):
        """Replace ``offset``, the linear term of each action, by minus the solution of ``H x = term``."""
        slope = state()
        for back in range(horizon):
            t = horizon - 1 - back
            term = expansion.offset[env, t] + wp.transpose(expansion.step_a[env, t]) * slope
            slope = wp.transpose(expansion.step_z[env, t]) * slope + wp.transpose(expansion.gain[env, t]) * term
            expansion.offset[env, t] = -(expansion.inverse[env, t] * term)
        dz, largest, total = state(), scalar(0.0), scalar(0.0)
        for t in range(horizon):
            step = expansion.offset[env, t] + expansion.gain[env, t] * dz
            expansion.offset[env, t] = step
            dz = expansion.step_z[env, t] * dz + expansion.step_a[env, t] * step
            largest = wp.max(largest, wp.max(wp.abs(step)))
            total += wp.dot(step, step)
        return wp.where(wp.isfinite(total), largest, total)  # a maximum would pass over NaN

    return LQR(output_cost, output_expansion, stage, free_inverse, solve)
