"""Solver backends: one file each, one contract, one registry line."""

from __future__ import annotations

from typing import Protocol

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.problem import TrajOptProblem


class Solver(Protocol):
    """Minimises a batch of problems, every environment on its own."""

    def __call__(
        self, problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run ``config.iterations`` iterations from ``warm_start``, shape (num_envs, horizon, action_dim).

        Returns:
            Actions of the shape of ``warm_start``, finite wherever the problem is, with the gradient of
            ``config.backward_mode`` attached if ``differentiable`` and the solver has that gradient of its own; and
            accepted iterations, shape (num_envs,).
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
    else:
        raise ValueError(f"trajopt.solver is {name!r}; allowed: gauss_newton, theseus")
    return solve
