"""Classic systems with learnable physical parameters and quadratic costs, in torch and in Warp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from difftori_isaac.trajopt.kernels import classic
from difftori_isaac.trajopt.kernels.rollout import rollout
from difftori_isaac.trajopt.kernels.system import WarpSystem

_Values = float | Sequence[float]


class AnalyticModel(nn.Module):
    """A :class:`~difftori_isaac.trajopt.problem.TrajOptModel` of a physical system with a quadratic cost.

    With outputs ``y`` of a state, by default the state itself, the residuals are ``(weights · (y − goal),
    action_weights · a)`` at every step and ``terminal_weights · (y − goal)`` at the last; the prior block of the
    problem adds its own action cost. Weights, goal and every physical parameter are learnable;
    ``model.gravity.requires_grad_(False)`` fixes one.

    ``AnalyticModel(system, {"mass": 1.0}, dt=0.05)`` plans with dynamics written as a Warp function alone. The systems
    below override ``next`` and ``outputs`` in torch, so that every solver plans with them.
    """

    dt: torch.Tensor
    """Time step [s]."""

    def __init__(
        self,
        system: WarpSystem,
        physical: Mapping[str, float],
        *,
        dt: float = 0.05,
        weights: _Values = 1.0,
        terminal_weights: _Values = 1.0,
        action_weights: _Values = 0.0,
        goal: _Values = 0.0,
    ) -> None:
        """Store the parameters; a single value holds for every component.

        Args:
            system: The dynamics as Warp functions.
            physical: Values of the system's physical parameters, by name.
            dt: Time step [s].
            weights: Weight of every output at every step.
            terminal_weights: Weight of every output at the last state.
            action_weights: Weight of every action component.
            goal: Desired outputs.

        Raises:
            ValueError: If names or sizes do not fit the system.
        """
        super().__init__()
        if set(physical) != set(system.parameters):
            raise ValueError(
                f"the physical parameters are {', '.join(physical)}; allowed: {', '.join(system.parameters)}"
            )
        self.system = system
        for name in system.parameters:
            self.register_parameter(name, nn.Parameter(torch.tensor(float(physical[name]))))
        self.register_buffer("dt", torch.tensor(float(dt)))
        self.weights = _vector("weights", weights, system.output_dim)
        self.terminal_weights = _vector("terminal_weights", terminal_weights, system.output_dim)
        self.action_weights = _vector("action_weights", action_weights, system.action_dim)
        self.goal = _vector("goal", goal, system.output_dim)

    def physical(self) -> torch.Tensor:
        """The physical parameters in the system's order, then ``dt``; shape (system.num_params,)."""
        return torch.stack([*(self.get_parameter(name) for name in self.system.parameters), self.dt])

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """States after ``dt``, shape (num_envs, state_dim)."""
        return rollout(self.system, z, a[:, None], self.physical()).states[:, 1]

    def outputs(self, z: torch.Tensor) -> torch.Tensor:
        """What the cost looks at, shape (num_envs, system.output_dim)."""
        if self.system.outputs is None:
            return z
        no_actions = z.new_zeros(len(z), 0, self.system.action_dim)
        return rollout(self.system, z, no_actions, self.physical()).outputs[:, 0]

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Residual of one step, shape (num_envs, output_dim + action_dim)."""
        return torch.cat((self.weights * (self.outputs(z) - self.goal), self.action_weights * a), dim=1)

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """Residual of the last state, shape (num_envs, output_dim)."""
        return self.terminal_weights * (self.outputs(z) - self.goal)


class Pendulum(AnalyticModel):
    """State (angle from upright [rad], angular velocity [rad/s]), action torque [N·m]; semi-implicit Euler."""

    mass: nn.Parameter
    """Mass at the end of the rod [kg]."""
    length: nn.Parameter
    """Length of the rod [m]."""
    damping: nn.Parameter
    """Viscous friction of the joint [N·m·s/rad]."""
    gravity: nn.Parameter
    """Gravity [m/s²]."""

    def __init__(
        self, mass: float = 1.0, length: float = 1.0, damping: float = 0.0, gravity: float = 9.81, **cost: Any
    ) -> None:
        """Take the physical parameters; ``cost`` are the keywords of :class:`AnalyticModel`."""
        super().__init__(
            classic.PENDULUM, {"mass": mass, "length": length, "damping": damping, "gravity": gravity}, **cost
        )

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """See :class:`AnalyticModel`."""
        angle, velocity = z[:, :1], z[:, 1:]
        torque = a - self.damping * velocity
        acceleration = self.gravity / self.length * angle.sin() + torque / (self.mass * self.length.square())
        velocity = velocity + self.dt * acceleration
        return torch.cat((angle + self.dt * velocity, velocity), dim=1)


class CartPole(AnalyticModel):
    """A pole, a uniform rod, on a cart; explicit Euler.

    State (cart position [m], cart velocity [m/s], pole angle from upright [rad], angular velocity [rad/s]), action the
    force on the cart [N] (Barto, Sutton, Anderson, 1983, without friction).
    """

    cart_mass: nn.Parameter
    """Mass of the cart [kg]."""
    pole_mass: nn.Parameter
    """Mass of the pole [kg]."""
    half_length: nn.Parameter
    """Half the length of the pole [m]."""
    gravity: nn.Parameter
    """Gravity [m/s²]."""

    def __init__(
        self,
        cart_mass: float = 1.0,
        pole_mass: float = 0.1,
        half_length: float = 0.5,
        gravity: float = 9.81,
        **cost: Any,
    ) -> None:
        """Take the physical parameters; ``cost`` are the keywords of :class:`AnalyticModel`."""
        physical = {"cart_mass": cart_mass, "pole_mass": pole_mass, "half_length": half_length, "gravity": gravity}
        super().__init__(classic.CART_POLE, physical, **cost)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """See :class:`AnalyticModel`."""
        velocity, angle, rate = z[:, 1:2], z[:, 2:3], z[:, 3:]
        sin, cos = angle.sin(), angle.cos()
        mass, moment = self.cart_mass + self.pole_mass, self.pole_mass * self.half_length
        push = (a + moment * rate.square() * sin) / mass
        inertia = self.half_length * (4.0 / 3.0 - self.pole_mass * cos.square() / mass)
        pole_acceleration = (self.gravity * sin - cos * push) / inertia
        cart_acceleration = push - moment * pole_acceleration * cos / mass
        return z + self.dt * torch.cat((velocity, cart_acceleration, rate, pole_acceleration), dim=1)


class DoubleIntegrator(AnalyticModel):
    """A point mass in the plane; semi-implicit Euler.

    State (position x, y [m], velocity x, y [m/s]), action the force [N].
    """

    mass: nn.Parameter
    """Mass [kg]."""

    def __init__(self, mass: float = 1.0, **cost: Any) -> None:
        """Take the physical parameters; ``cost`` are the keywords of :class:`AnalyticModel`."""
        super().__init__(classic.DOUBLE_INTEGRATOR, {"mass": mass}, **cost)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """See :class:`AnalyticModel`."""
        velocity = z[:, 2:] + self.dt * a / self.mass
        return torch.cat((z[:, :2] + self.dt * velocity, velocity), dim=1)


class PlanarReacher(AnalyticModel):
    """An arm of two uniform rods in a horizontal plane, whose end effector has a goal; semi-implicit Euler.

    State (angles of shoulder and elbow [rad], their velocities [rad/s]), action their torques [N·m], outputs
    (end effector x, y [m], joint velocities [rad/s]).
    """

    mass1: nn.Parameter
    """Mass of the upper arm [kg]."""
    mass2: nn.Parameter
    """Mass of the forearm [kg]."""
    length1: nn.Parameter
    """Length of the upper arm [m]."""
    length2: nn.Parameter
    """Length of the forearm [m]."""
    damping: nn.Parameter
    """Viscous friction of both joints [N·m·s/rad]."""

    def __init__(
        self,
        mass1: float = 1.0,
        mass2: float = 1.0,
        length1: float = 0.5,
        length2: float = 0.5,
        damping: float = 0.0,
        **cost: Any,
    ) -> None:
        """Take the physical parameters; ``cost`` are the keywords of :class:`AnalyticModel`."""
        physical = {"mass1": mass1, "mass2": mass2, "length1": length1, "length2": length2, "damping": damping}
        super().__init__(classic.PLANAR_REACHER, physical, **cost)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """See :class:`AnalyticModel`."""
        angles, velocities = z[:, :2], z[:, 2:]
        rate1, rate2 = velocities.unbind(dim=1)
        coupling = 0.5 * self.mass2 * self.length1 * self.length2
        inertia22 = self.mass2 * self.length2.square() / 3.0
        inertia12 = inertia22 + coupling * angles[:, 1].cos()
        inertia11 = (self.mass1 / 3.0 + self.mass2) * self.length1.square() + inertia22
        inertia11 = inertia11 + 2.0 * coupling * angles[:, 1].cos()
        centrifugal = coupling * angles[:, 1].sin()
        torque1 = a[:, 0] - self.damping * rate1 + centrifugal * rate2 * (2.0 * rate1 + rate2)
        torque2 = a[:, 1] - self.damping * rate2 - centrifugal * rate1.square()
        accelerations = torch.stack(
            (inertia22 * torque1 - inertia12 * torque2, inertia11 * torque2 - inertia12 * torque1), dim=1
        )
        determinant = (inertia11 * inertia22 - inertia12.square())[:, None]
        velocities = velocities + self.dt * accelerations / determinant
        return torch.cat((angles + self.dt * velocities, velocities), dim=1)

    def outputs(self, z: torch.Tensor) -> torch.Tensor:
        """See :class:`AnalyticModel`."""
        shoulder, elbow = z[:, 0], z[:, 0] + z[:, 1]
        x = self.length1 * shoulder.cos() + self.length2 * elbow.cos()
        y = self.length1 * shoulder.sin() + self.length2 * elbow.sin()
        return torch.cat((x[:, None], y[:, None], z[:, 2:]), dim=1)


def _vector(name: str, values: _Values, size: int) -> nn.Parameter:
    tensor = torch.as_tensor(values, dtype=torch.get_default_dtype())
    if tensor.numel() not in (1, size):
        raise ValueError(f"{name} has {tensor.numel()} values; allowed: 1 or {size}")
    return nn.Parameter(tensor.expand(size).clone())
