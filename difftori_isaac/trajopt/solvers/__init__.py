"""Solver backends: one file each, one contract, one registry line."""

from __future__ import annotations

from typing import Protocol

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult


class Solver(Protocol):
    """Minimises a batch of problems, every environment on its own."""

    def __call__(
        self, problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
    ) -> SolverResult:
        """Run ``config.iterations`` iterations from ``warm_start``, shape (num_envs, horizon, action_dim).

        The gradient of ``config.backward_mode`` is attached to the actions if ``differentiable``;
        :func:`~difftori_isaac.trajopt.optimality.conclude` does it for solvers that have none of their own.
        """
        ...


def get_solver(name: str) -> Solver:
    """The backend called ``name``; backends load on first use.

    Raises:
        ValueError: If there is no such backend.
    """
    if name == "gauss_newton":
        from difftori_isaac.trajopt.solvers.gauss_newton import solve
    elif name == "theseus":
        from difftori_isaac.trajopt.solvers.theseus_lm import solve
    elif name == "mppi":
        from difftori_isaac.trajopt.solvers.mppi import solve
    elif name == "warp":
        from difftori_isaac.trajopt.solvers.warp_lm import solve
    else:
        raise ValueError(f"trajopt.solver is {name!r}; allowed: gauss_newton, theseus, mppi, warp")
    return solve
