"""A system's types and derivatives for one precision, as Warp functions built once and cached."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from difftori_isaac.trajopt.kernels.system import WarpSystem

_Function = Callable[..., Any]


class Types(NamedTuple):
    """Vector and matrix types of a system; ``action_state`` has a row per action component, and so on."""

    scalar: Any
    state: Any
    action: Any
    physical: Any
    output: Any
    state_state: Any
    state_action: Any
    action_state: Any
    action_action: Any
    output_state: Any


@cache
def types_of(system: WarpSystem, scalar: Any) -> Types:
    """Types of a system in a precision, ``wp.float32`` or ``wp.float64``."""
    n, m, k = system.state_dim, system.action_dim, system.output_dim
    return Types(
        scalar=scalar,
        state=wp.types.vector(n, scalar),
        action=wp.types.vector(m, scalar),
        physical=wp.types.vector(system.num_params, scalar),
        output=wp.types.vector(k, scalar),
        state_state=wp.types.matrix((n, n), scalar),
        state_action=wp.types.matrix((n, m), scalar),
        action_state=wp.types.matrix((m, n), scalar),
        action_action=wp.types.matrix((m, m), scalar),
        output_state=wp.types.matrix((k, n), scalar),
    )


class Derivatives(NamedTuple):
    """Warp functions of a system."""

    outputs: _Function
    """``(z, p) -> y``."""
    step_pull: _Function
    """``(z, a, p, λ) -> (z-, a-, p-gradient)`` of ``λᵀ step(z, a, p)``."""
    outputs_pull: _Function
    """``(z, p, η) -> (z-, p-gradient)`` of ``ηᵀ outputs(z, p)``."""
    step_jacobians: _Function
    """``(z, a, p) -> (∂step/∂z, ∂step/∂a)``."""
    outputs_jacobian: _Function
    """``(z, p) -> ∂outputs/∂z``."""
    step_pull_tangent: _Function
    """``(z, a, p, λ, δz, δa)``: derivative of ``step_pull`` along (δz, δa)."""
    outputs_pull_tangent: _Function
    """``(z, p, η, δz)``: derivative of ``outputs_pull`` along δz."""


def derived(function: _Function) -> _Function:
    """``wp.func`` for a function that calls derivatives, if only through others.

    Warp 1.17 emits what calls ``wp.grad`` after the adjoints that it needs, but the callers of such functions before.
    """
    warp_function: Any = wp.func(function)
    warp_function.adj.uses_grad_call = True
    return warp_function


@cache
def derivatives_of(system: WarpSystem, scalar: Any) -> Derivatives:
    """First derivatives by Warp's reverse mode; second ones as central differences of it.

    The differences are taken along one direction, with the step of least error where all derivatives are of one order:
    errors are of the order of ``eps^(2/3)`` of the first derivatives, 4e-11 in float64 and 2e-5 in float32.
    """
    types = types_of(system, scalar)
    state, action, physical, output = types.state, types.action, types.physical, types.output
    state_state, state_action, output_state = types.state_state, types.state_action, types.output_state
    step, outputs = system.step, _identity if system.outputs is None else system.outputs
    state_dim, output_dim = system.state_dim, system.output_dim
    relative_step = float(np.cbrt(np.finfo(wp.dtype_to_numpy(scalar)).eps))

    @wp.func
    def step_product(z: state, a: action, p: physical, costate: state):
        return wp.dot(costate, step(z, a, p))

    @wp.func
    def outputs_product(z: state, p: physical, cotangent: output):
        return wp.dot(cotangent, outputs(z, p))

    @derived
    def step_pull(z: state, a: action, p: physical, costate: state):
        z_grad, a_grad, p_grad, _ = wp.grad(step_product)(z, a, p, costate)
        return z_grad, a_grad, p_grad

    @derived
    def outputs_pull(z: state, p: physical, cotangent: output):
        z_grad, p_grad, _ = wp.grad(outputs_product)(z, p, cotangent)
        return z_grad, p_grad

    @derived
    def step_jacobians(z: state, a: action, p: physical):
        z_jacobian, a_jacobian = state_state(), state_action()
        for row in range(state_dim):
            unit = state()
            unit[row] = scalar(1.0)
            z_grad, a_grad, _p_grad = step_pull(z, a, p, unit)
            z_jacobian[row] = z_grad
            a_jacobian[row] = a_grad
        return z_jacobian, a_jacobian

    @derived
    def outputs_jacobian(z: state, p: physical):
        jacobian = output_state()
        for row in range(output_dim):
            unit = output()
            unit[row] = scalar(1.0)
            z_grad, _p_grad = outputs_pull(z, p, unit)
            jacobian[row] = z_grad
        return jacobian

    @wp.func
    def difference_step(point: scalar, direction: scalar):
        return scalar(relative_step) * (scalar(1.0) + point) / wp.max(direction, scalar(1e-30))

    @derived
    def step_pull_tangent(z: state, a: action, p: physical, costate: state, dz: state, da: action):
        point = wp.max(wp.max(wp.abs(z)), wp.max(wp.abs(a)))
        h = difference_step(point, wp.max(wp.max(wp.abs(dz)), wp.max(wp.abs(da))))
        z_above, a_above, p_above = step_pull(z + h * dz, a + h * da, p, costate)
        z_below, a_below, p_below = step_pull(z - h * dz, a - h * da, p, costate)
        scale = scalar(0.5) / h
        return scale * (z_above - z_below), scale * (a_above - a_below), scale * (p_above - p_below)

    @derived
    def outputs_pull_tangent(z: state, p: physical, cotangent: output, dz: state):
        h = difference_step(wp.max(wp.abs(z)), wp.max(wp.abs(dz)))
        z_above, p_above = outputs_pull(z + h * dz, p, cotangent)
        z_below, p_below = outputs_pull(z - h * dz, p, cotangent)
        scale = scalar(0.5) / h
        return scale * (z_above - z_below), scale * (p_above - p_below)

    return Derivatives(
        outputs, step_pull, outputs_pull, step_jacobians, outputs_jacobian, step_pull_tangent, outputs_pull_tangent
    )


@wp.func
def _identity(z: Any, p: Any):
    return z
