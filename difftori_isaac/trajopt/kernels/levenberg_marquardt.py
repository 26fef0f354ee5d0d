"""Every Levenberg-Marquardt iteration of every environment in one launch."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

from functools import cache
from typing import Any

import numpy as np
import warp as wp

from difftori_isaac.trajopt.box_qp import MAX_PIVOTS
from difftori_isaac.trajopt.config import DAMPING_MAX, DAMPING_MIN
from difftori_isaac.trajopt.kernels.derivatives import derivatives_of, derived, types_of
from difftori_isaac.trajopt.kernels.lqr import lqr_of
from difftori_isaac.trajopt.kernels.newton import newton_of
from difftori_isaac.trajopt.kernels.problem import structs_of
from difftori_isaac.trajopt.kernels.system import WarpSystem


@cache
def solve_kernel(system: WarpSystem, scalar: Any) -> Any:
    """The solve of one environment per thread.

    An iteration is a Riccati recursion backward and a rollout of the policy that it gives forward (iterative LQR; Li
    and Todorov, 2004), with the action bounds within the recursion (Tassa, Mansard, Todorov, 2014) and the damping
    added to every ``Q_aa``, relative to the mean of its diagonal.
    """
    types, derivatives, lqr = types_of(system, scalar), derivatives_of(system, scalar), lqr_of(system, scalar)
    state, action, action_action = types.state, types.action, types.action_action
    step, step_jacobians = system.step, derivatives.step_jacobians
    output_cost, output_expansion, stage, free_inverse = lqr[:4]
    factorise, linear_solve = newton_of(system, scalar, exact=False), lqr.solve
    problem_type, expansion_type = structs_of(system, scalar)
    action_dim = system.action_dim
    mean = 1.0 / action_dim
    rounding = 1.0 + 8.0 * float(np.finfo(wp.dtype_to_numpy(scalar)).eps)

    @wp.func
    def action_cost(problem: problem_type, env: int, t: int, a: action, scale: scalar):
        residual = wp.cw_mul(problem.action_weights[0], a)
        offset = problem.prior_weight * (a - problem.prior[env, t])
        return scalar(0.5) * (scale * wp.dot(residual, residual) + wp.dot(offset, offset))

    @wp.func
    def box_minimum(hessian: action_action, slope: action, low: action, high: action):
        """Minimise ``½ δᵀHδ + slopeᵀδ`` in a box by block principal pivoting, see ``trajopt.box_qp``."""
        free, held, inverse = action(scalar(1.0)), action(), action_action()
        delta, changed, pivots, zero = action(), bool(True), int(0), scalar(0.0)
        while changed and pivots < MAX_PIVOTS:
            inverse, _ = free_inverse(hessian, free)
            delta = held - inverse * (slope + hessian * held)
            tangent = slope + hessian * delta
            changed = False
            for j in range(action_dim):
                inwards = (held[j] == low[j] and tangent[j] < zero) or (held[j] == high[j] and tangent[j] > zero)
                if free[j] > zero and (delta[j] < low[j] or delta[j] > high[j]):
                    free[j] = zero
                    held[j] = wp.clamp(delta[j], low[j], high[j])
                    changed = True
                elif free[j] == zero and inwards:
                    free[j] = scalar(1.0)
                    held[j] = zero
                    changed = True
            pivots += 1
        return wp.min(wp.max(delta, low), high), inverse

    @derived
    def linearise(problem: problem_type, expansion: expansion_type, env: int):
        for t in range(problem.horizon):
            step_z, step_a = step_jacobians(expansion.states[env, t], expansion.actions[env, t], problem.physical[0])
            expansion.step_z[env, t] = step_z
            expansion.step_a[env, t] = step_a

    @derived
    def improve(problem: problem_type, expansion: expansion_type, env: int, damping: scalar):
        """Gains and offsets that minimise the damped quadratic model within the bounds."""
        scale = scalar(1.0)
        for _ in range(problem.horizon):
            scale *= problem.discount
        slope, hessian = output_expansion(
            expansion.states[env, problem.horizon], problem.physical[0], problem.terminal_weights[0], problem.goal[0]
        )
        slope, hessian = scale * slope, scale * hessian
        for back in range(problem.horizon):
            t = problem.horizon - 1 - back
            scale /= problem.discount
            q_z, q_a, q_zz, q_az, q_aa = stage(problem, expansion, env, t, scale, slope, hessian)
            added = damping * scalar(mean) * wp.trace(q_aa)
            for j in range(action_dim):
                q_aa[j, j] += added
            a = expansion.actions[env, t]
            offset, inverse = box_minimum(q_aa, q_a, problem.low[env, t] - a, problem.high[env, t] - a)
            gain = -(inverse * q_az)
            expansion.offset[env, t] = offset
            expansion.gain[env, t] = gain
            slope = q_z + wp.transpose(q_az) * offset + wp.transpose(gain) * (q_a + q_aa * offset)
            hessian = q_zz + wp.transpose(q_az) * gain

    @wp.func
    def roll_out(problem: problem_type, expansion: expansion_type, env: int, p: types.physical):
        """States and cost of the actions."""
        z, cost, scale = state(problem.z0[env]), scalar(0.0), scalar(1.0)
        for t in range(problem.horizon):
            a = expansion.actions[env, t]
            expansion.states[env, t] = z
            cost += scale * output_cost(z, p, problem.weights[0], problem.goal[0])
            cost += action_cost(problem, env, t, a, scale)
            z = step(z, a, p)
            scale *= problem.discount
        expansion.states[env, problem.horizon] = z
        return cost + scale * output_cost(z, p, problem.terminal_weights[0], problem.goal[0])

    @wp.func
    def follow(
        problem: problem_type,
        expansion: expansion_type,
        env: int,
        p: types.physical,
        trial_states: wp.array2d(dtype=state),
        trial_actions: wp.array2d(dtype=action),
    ):
        """States, actions and cost of the improved policy, and its largest change of an action."""
        z, cost, scale, largest = state(problem.z0[env]), scalar(0.0), scalar(1.0), scalar(0.0)
        for t in range(problem.horizon):
            low, high, previous = problem.low[env, t], problem.high[env, t], expansion.actions[env, t]
            offset = expansion.offset[env, t]
            a = previous + offset + expansion.gain[env, t] * (z - expansion.states[env, t])
            for j in range(action_dim):  # onto a bound exactly, whatever the rounding of the sum
                if a[j] < low[j] or offset[j] <= low[j] - previous[j]:
                    a[j] = low[j]
                if a[j] > high[j] or offset[j] >= high[j] - previous[j]:
                    a[j] = high[j]
            trial_states[env, t] = z
            trial_actions[env, t] = a
            largest = wp.max(largest, wp.max(wp.abs(a - previous)))
            cost += scale * output_cost(z, p, problem.weights[0], problem.goal[0])
            cost += action_cost(problem, env, t, a, scale)
            z = step(z, a, p)
            scale *= problem.discount
        trial_states[env, problem.horizon] = z
        return cost + scale * output_cost(z, p, problem.terminal_weights[0], problem.goal[0]), largest

    @wp.kernel(enable_backward=False, module="unique")
    def minimise(
        # In:
        problem: problem_type,
        iterations: int,
        initial_damping: scalar,
        damping_up: scalar,
        damping_down: scalar,
        tolerance: scalar,
        # Scratch:
        trial_states: wp.array2d(dtype=state),
        trial_actions: wp.array2d(dtype=action),
        # In and out:
        expansion: expansion_type,
        # Out:
        cost_out: wp.array(dtype=scalar),
        step_norm_out: wp.array(dtype=scalar),
        accepted_out: wp.array(dtype=wp.int64),
    ):
        env = wp.tid()
        p = problem.physical[0]
        cost = roll_out(problem, expansion, env, p)
        damping, accepted, stale, moving, iteration = initial_damping, int(0), bool(True), bool(True), int(0)
        while moving and iteration < iterations and wp.isfinite(cost):
            if stale:
                linearise(problem, expansion, env)
                stale = False
            improve(problem, expansion, env, damping)
            trial_cost, largest = follow(problem, expansion, env, p, trial_states, trial_actions)
            moving = largest * (scalar(1.0) + damping) > scalar(0.1) * tolerance
            if trial_cost <= cost * scalar(rounding):
                damping *= damping_down
                if moving:
                    for t in range(problem.horizon):
                        expansion.actions[env, t] = trial_actions[env, t]
                        expansion.states[env, t + 1] = trial_states[env, t + 1]
                    cost, stale = trial_cost, True
                    accepted += 1
            else:
                damping *= damping_up
            damping = wp.clamp(damping, scalar(DAMPING_MIN), scalar(DAMPING_MAX))
            iteration += 1
        if stale:
            linearise(problem, expansion, env)
        factorise(problem, expansion, env)
        cost_out[env] = cost
        step_norm_out[env] = linear_solve(expansion, env, problem.horizon)
        accepted_out[env] = wp.int64(accepted)

    return minimise
