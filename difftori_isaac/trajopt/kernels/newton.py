"""The undamped Newton system at a solution, with its bounds held: Gauss-Newton or exact."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from functools import cache
from typing import Any

import warp as wp

from difftori_isaac.trajopt.kernels.derivatives import derivatives_of, derived, types_of
from difftori_isaac.trajopt.kernels.lqr import lqr_of
from difftori_isaac.trajopt.kernels.problem import structs_of
from difftori_isaac.trajopt.kernels.system import WarpSystem


@cache
def newton_of(system: WarpSystem, scalar: Any, exact: bool) -> Any:
    """``(problem, expansion, env) -> whether the Hessian is positive definite``, a Warp function.

    Fills ``free``, ``inverse``, ``gain`` and, in ``offset``, the cost gradient of the free components.
    """
    types, derivatives, lqr = types_of(system, scalar), derivatives_of(system, scalar), lqr_of(system, scalar)
    state, action, output, physical = types.state, types.action, types.output, types.physical
    state_state, action_state, action_action = types.state_state, types.action_state, types.action_action
    output_expansion, stage, free_inverse = lqr.output_expansion, lqr.stage, lqr.free_inverse
    outputs, outputs_pull_tangent = derivatives.outputs, derivatives.outputs_pull_tangent
    step_pull_tangent = derivatives.step_pull_tangent
    problem_type, expansion_type = structs_of(system, scalar)
    state_dim, action_dim = system.state_dim, system.action_dim

    @derived
    def output_curvature(z: state, p: physical, weights: output, goal: output):
        """``Σ_k w_k² (y_k − goal_k) ∂²y_k/∂z²``."""
        cotangent = wp.cw_mul(wp.cw_mul(weights, weights), outputs(z, p) - goal)
        curvature = state_state()
        for row in range(state_dim):
            unit = state()
            unit[row] = scalar(1.0)
            z_part, _ = outputs_pull_tangent(z, p, cotangent, unit)
            curvature[row] = z_part
        return curvature

    @derived
    def step_curvature(z: state, a: action, p: physical, costate: state):
        """Second derivatives of ``costateᵀ step``: zz, az, aa."""
        zz, az, aa = state_state(), action_state(), action_action()
        for row in range(state_dim):
            unit = state()
            unit[row] = scalar(1.0)
            z_part, _a_part, _p_part = step_pull_tangent(z, a, p, costate, unit, action())
            zz[row] = z_part
        for row in range(action_dim):
            a_unit = action()
            a_unit[row] = scalar(1.0)
            z_part, a_part, _p_part = step_pull_tangent(z, a, p, costate, state(), a_unit)
            az[row] = z_part
            aa[row] = a_part
        return zz, az, aa

    @derived
    def factorise(problem: problem_type, expansion: expansion_type, env: int):
        p, scale, positive = problem.physical[0], scalar(1.0), bool(True)
        for _ in range(problem.horizon):
            scale *= problem.discount
        last = expansion.states[env, problem.horizon]
        costate, hessian = output_expansion(last, p, problem.terminal_weights[0], problem.goal[0])
        if wp.static(exact):
            hessian += output_curvature(last, p, problem.terminal_weights[0], problem.goal[0])
        costate, hessian = scale * costate, scale * hessian
        for back in range(problem.horizon):
            t = problem.horizon - 1 - back
            scale /= problem.discount
            z, a = expansion.states[env, t], expansion.actions[env, t]
            q_z, q_a, q_zz, q_az, q_aa = stage(problem, expansion, env, t, scale, costate, hessian)
            if wp.static(exact):
                zz, az, aa = step_curvature(z, a, p, costate)
                q_zz += zz + scale * output_curvature(z, p, problem.weights[0], problem.goal[0])
                q_az += az
                q_aa += aa
            low, high, free = problem.low[env, t], problem.high[env, t], action(scalar(1.0))
            for j in range(action_dim):
                if (a[j] <= low[j] and q_a[j] > scalar(0.0)) or (a[j] >= high[j] and q_a[j] < scalar(0.0)):
                    free[j] = scalar(0.0)
            inverse, stage_positive = free_inverse(q_aa, free)
            gain = -(inverse * q_az)
            positive = positive and stage_positive
            expansion.free[env, t] = free
            expansion.inverse[env, t] = inverse
            expansion.gain[env, t] = gain
            expansion.offset[env, t] = wp.cw_mul(free, q_a)
            hessian = q_zz + wp.transpose(q_az) * gain
            costate = q_z
        return positive

    return factorise
