"""The cart-pole problem of ``known_dynamics`` in mpc.pytorch: one JSON object in, one out.

Started by :mod:`difftori_isaac.benchmarks.peers` as a program of its own, where the package ``mpc`` is importable and
this package need not be.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch


class CartPole(torch.nn.Module):
    """Explicit Euler of a uniform rod on a cart, as :class:`difftori_isaac.world_models.analytic.CartPole`."""

    def __init__(self, cart_mass: float, pole_mass: float, half_length: float, gravity: float, dt: float) -> None:
        super().__init__()
        self.mass, self.pole_mass, self.half_length = cart_mass + pole_mass, pole_mass, half_length
        self.gravity, self.dt = gravity, dt

    def forward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Next states, shape (num_envs, 4)."""
        velocity, angle, rate = z[:, 1:2], z[:, 2:3], z[:, 3:]
        sin, cos = angle.sin(), angle.cos()
        moment = self.pole_mass * self.half_length
        push = (a + moment * rate.square() * sin) / self.mass
        inertia = self.half_length * (4.0 / 3.0 - self.pole_mass * cos.square() / self.mass)
        pole_acceleration = (self.gravity * sin - cos * push) / inertia
        cart_acceleration = push - moment * pole_acceleration * cos / self.mass
        return z + self.dt * torch.cat((velocity, cart_acceleration, rate, pole_acceleration), dim=1)


def main(problem: dict[str, Any]) -> dict[str, Any]:
    """Time, peak memory and actions of the solve."""
    from mpc import mpc  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    dtype = getattr(torch, problem["dtype"])
    system = CartPole(**problem["physical"])
    weights = torch.tensor(problem["weights"], dtype=dtype, requires_grad=True)
    z0 = torch.tensor(problem["z0"], dtype=dtype)

    def solve(z0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hessian = torch.diag(weights.square()).expand(problem["horizon"], len(z0), -1, -1)
        cost = mpc.QuadCost(hessian, torch.zeros(problem["horizon"], len(z0), 5, dtype=dtype))
        planner = mpc.MPC(
            4,
            1,
            problem["horizon"],
            lqr_iter=problem["iterations"],
            grad_method=mpc.GradMethods.AUTO_DIFF,
            eps=0.0,
            verbose=-1,
            exit_unconverged=False,
            detach_unconverged=False,
        )
        states, actions, _ = planner(z0, cost, system)
        return states, actions

    def forward(z0: torch.Tensor = z0) -> torch.Tensor:
        return solve(z0)[1].detach()  # its Jacobians need autograd

    def forward_backward(z0: torch.Tensor = z0) -> torch.Tensor:
        states, actions = solve(z0)
        return torch.autograd.grad(states.square().sum() + actions.square().sum(), weights)[0]

    forward_backward(z0[:1])
    before = _peak_resident_mb()
    forward_backward()
    peak_memory_mb = _peak_resident_mb() - before
    return {
        "actions": forward().transpose(0, 1).tolist(),
        "gradient": forward_backward().tolist(),
        "forward_ms": _milliseconds(forward, problem["repeats"]),
        "forward_backward_ms": _milliseconds(forward_backward, problem["repeats"]),
        "peak_memory_mb": peak_memory_mb,
    }


def _milliseconds(call: Any, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * median(times)


def _peak_resident_mb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
