"""The dynamics of classic systems as Warp functions; units and states are those of ``world_models.analytic``."""

from typing import Any

import warp as wp

from difftori_isaac.trajopt.kernels.system import WarpSystem


@wp.func
def _pendulum(z: Any, a: Any, p: Any):
    mass, length, damping, gravity, dt = p[0], p[1], p[2], p[3], p[4]
    acceleration = gravity / length * wp.sin(z[0]) + (a[0] - damping * z[1]) / (mass * length * length)
    velocity = z[1] + dt * acceleration
    return type(z)(z[0] + dt * velocity, velocity)


@wp.func
def _cart_pole(z: Any, a: Any, p: Any):
    cart_mass, pole_mass, half_length, gravity, dt = p[0], p[1], p[2], p[3], p[4]
    sin, cos = wp.sin(z[2]), wp.cos(z[2])
    mass = cart_mass + pole_mass
    push = (a[0] + pole_mass * half_length * z[3] * z[3] * sin) / mass
    inertia = half_length * (z.dtype(4.0) / z.dtype(3.0) - pole_mass * cos * cos / mass)
    pole_acceleration = (gravity * sin - cos * push) / inertia
    cart_acceleration = push - pole_mass * half_length * pole_acceleration * cos / mass
    return type(z)(z[0] + dt * z[1], z[1] + dt * cart_acceleration, z[2] + dt * z[3], z[3] + dt * pole_acceleration)


@wp.func
def _double_integrator(z: Any, a: Any, p: Any):
    mass, dt = p[0], p[1]
    vx, vy = z[2] + dt * a[0] / mass, z[3] + dt * a[1] / mass
    return type(z)(z[0] + dt * vx, z[1] + dt * vy, vx, vy)


@wp.func
def _planar_reacher(z: Any, a: Any, p: Any):
    mass1, mass2, length1, length2, damping, dt = p[0], p[1], p[2], p[3], p[4], p[5]
    third, half, two = z.dtype(1.0) / z.dtype(3.0), z.dtype(0.5), z.dtype(2.0)
    coupling = half * mass2 * length1 * length2
    inertia22 = third * mass2 * length2 * length2
    inertia12 = inertia22 + coupling * wp.cos(z[1])
    inertia11 = (third * mass1 + mass2) * length1 * length1 + inertia22 + two * coupling * wp.cos(z[1])
    centrifugal = coupling * wp.sin(z[1])
    torque1 = a[0] - damping * z[2] + centrifugal * z[3] * (two * z[2] + z[3])
    torque2 = a[1] - damping * z[3] - centrifugal * z[2] * z[2]
    determinant = inertia11 * inertia22 - inertia12 * inertia12
    velocity1 = z[2] + dt * (inertia22 * torque1 - inertia12 * torque2) / determinant
    velocity2 = z[3] + dt * (inertia11 * torque2 - inertia12 * torque1) / determinant
    return type(z)(z[0] + dt * velocity1, z[1] + dt * velocity2, velocity1, velocity2)


@wp.func
def _end_effector(z: Any, p: Any):
    length1, length2, elbow = p[2], p[3], z[0] + z[1]
    return type(z)(
        length1 * wp.cos(z[0]) + length2 * wp.cos(elbow), length1 * wp.sin(z[0]) + length2 * wp.sin(elbow), z[2], z[3]
    )


PENDULUM = WarpSystem(step=_pendulum, state_dim=2, action_dim=1, parameters=("mass", "length", "damping", "gravity"))
CART_POLE = WarpSystem(
    step=_cart_pole, state_dim=4, action_dim=1, parameters=("cart_mass", "pole_mass", "half_length", "gravity")
)
DOUBLE_INTEGRATOR = WarpSystem(step=_double_integrator, state_dim=4, action_dim=2, parameters=("mass",))
PLANAR_REACHER = WarpSystem(
    step=_planar_reacher,
    state_dim=4,
    action_dim=2,
    parameters=("mass1", "mass2", "length1", "length2", "damping"),
    outputs=_end_effector,
    num_outputs=4,
)
