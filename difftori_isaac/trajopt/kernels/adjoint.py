"""The implicit gradient of every environment in one launch."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from functools import cache
from typing import Any

import warp as wp

from difftori_isaac.trajopt.kernels.derivatives import derivatives_of, derived, types_of
from difftori_isaac.trajopt.kernels.lqr import lqr_of
from difftori_isaac.trajopt.kernels.newton import newton_of
from difftori_isaac.trajopt.kernels.problem import structs_of
from difftori_isaac.trajopt.kernels.system import WarpSystem


@cache
def adjoint_kernel(system: WarpSystem, scalar: Any, exact: bool) -> Any:
    """``v = ∂L/∂a*`` to the gradients of L, one environment per thread.

    Solves ``H ω = v`` by the recursions of the solve and returns ``−∂/∂θ (gᵀω)``. The directional derivative
    ``gᵀω`` of the cost is differentiated by hand: costates λ and tangents δz, and tangents δλ of the costates.
    """
    types, derivatives, lqr = types_of(system, scalar), derivatives_of(system, scalar), lqr_of(system, scalar)
    state, action, physical, output = types.state, types.action, types.physical, types.output
    outputs, outputs_jacobian = derivatives.outputs, derivatives.outputs_jacobian
    step_pull, step_pull_tangent = derivatives.step_pull, derivatives.step_pull_tangent
    outputs_pull, outputs_pull_tangent = derivatives.outputs_pull, derivatives.outputs_pull_tangent
    factorise, factorise_gauss_newton = newton_of(system, scalar, exact), newton_of(system, scalar, exact=False)
    linear_solve = lqr.solve
    problem_type, expansion_type = structs_of(system, scalar)

    @derived
    def output_terms(z: state, dz: state, p: physical, scale: scalar, weights: output, goal: output):
        """The state gradient of an output cost; derivatives along dz of those for z, p, weights and goal."""
        squared, difference = wp.cw_mul(weights, weights), outputs(z, p) - goal
        dy = outputs_jacobian(z, p) * dz
        cotangent = scale * wp.cw_mul(squared, difference)
        cotangent_tangent = scale * wp.cw_mul(squared, dy)
        z_grad, _ = outputs_pull(z, p, cotangent)
        z_first, p_first = outputs_pull(z, p, cotangent_tangent)
        z_second, p_second = outputs_pull_tangent(z, p, cotangent, dz)
        weights_tangent = scalar(2.0) * scale * wp.cw_mul(wp.cw_mul(weights, difference), dy)
        return z_grad, z_first + z_second, p_first + p_second, weights_tangent, -cotangent_tangent

    @wp.kernel(enable_backward=False, module="unique")
    def pull_back(
        # In:
        problem: problem_type,
        step_norm_in: wp.array(dtype=scalar),
        actions_grad_in: wp.array2d(dtype=action),
        # Scratch:
        expansion: expansion_type,
        tangents: wp.array2d(dtype=state),
        # Out, all zero before:
        z0_grad_out: wp.array(dtype=state),
        prior_grad_out: wp.array2d(dtype=action),
        physical_grad_out: wp.array(dtype=physical),
        weights_grad_out: wp.array(dtype=output),
        terminal_weights_grad_out: wp.array(dtype=output),
        goal_grad_out: wp.array(dtype=output),
        action_weights_grad_out: wp.array(dtype=action),
    ):
        env = wp.tid()
        if not wp.isfinite(step_norm_in[env]):
            return
        p, horizon = problem.physical[0], problem.horizon
        if wp.static(exact) and not factorise(problem, expansion, env):
            factorise_gauss_newton(problem, expansion, env)
        for t in range(horizon):
            expansion.offset[env, t] = -wp.cw_mul(expansion.free[env, t], actions_grad_in[env, t])
        linear_solve(expansion, env, horizon)

        dz, scale = state(), scalar(1.0)
        for t in range(horizon):
            tangents[env, t] = dz
            dz = expansion.step_z[env, t] * dz + expansion.step_a[env, t] * expansion.offset[env, t]
            scale *= problem.discount

        costate, costate_tangent, p_grad, terminal_weights_grad, goal_grad = output_terms(
            expansion.states[env, horizon], dz, p, scale, problem.terminal_weights[0], problem.goal[0]
        )
        weights_grad, action_weights_grad = output(), action()
        for back in range(horizon):
            t = horizon - 1 - back
            scale /= problem.discount
            z, a = expansion.states[env, t], expansion.actions[env, t]
            dz, da = state(tangents[env, t]), expansion.offset[env, t]
            z_first, _, p_first = step_pull(z, a, p, costate_tangent)
            z_second, _, p_second = step_pull_tangent(z, a, p, costate, dz, da)
            z_grad, z_tangent, p_tangent, weights_tangent, goal_tangent = output_terms(
                z, dz, p, scale, problem.weights[0], problem.goal[0]
            )
            costate = z_grad + wp.transpose(expansion.step_z[env, t]) * costate
            costate_tangent = z_tangent + z_first + z_second
            p_grad += p_tangent + p_first + p_second
            weights_grad += weights_tangent
            goal_grad += goal_tangent
            action_weights_grad += scalar(2.0) * scale * wp.cw_mul(wp.cw_mul(problem.action_weights[0], a), da)
            prior_grad_out[env, t] = problem.prior_weight * problem.prior_weight * da
        z0_grad_out[env] = -costate_tangent
        physical_grad_out[env] = -p_grad
        weights_grad_out[env] = -weights_grad
        terminal_weights_grad_out[env] = -terminal_weights_grad
        goal_grad_out[env] = -goal_grad
        action_weights_grad_out[env] = -action_weights_grad

    return pull_back
