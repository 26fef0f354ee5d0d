"""Theseus' Levenberg-Marquardt as a backend: the reference the others are checked against."""

from __future__ import annotations

import warnings

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.optimality import conclude
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*[Cc]holmod.*")
    import theseus as th

_BACKWARD_MODES = {
    "implicit": th.BackwardMode.IMPLICIT,
    "truncated": th.BackwardMode.TRUNCATED,
    "unroll": th.BackwardMode.UNROLL,
}


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> SolverResult:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    One Theseus problem per environment, batched, with Theseus' own gradient. Theseus does not tell which steps it
    accepted in which environment: all iterations are reported.
    """
    num_envs, horizon, action_dim = warm_start.shape
    dtype, device = warm_start.dtype, warm_start.device

    def residual(optim_vars: tuple[th.Variable, ...], aux_vars: tuple[th.Variable, ...]) -> torch.Tensor:
        z0, prior = (variable.tensor for variable in aux_vars)
        solved = problem.replaced(z0=z0, prior=prior.view(-1, horizon, action_dim))
        return solved.residual(optim_vars[0].tensor.view(-1, horizon, action_dim))

    with torch.no_grad():
        num_residuals = problem.detached().residual(warm_start).shape[1]
    actions = th.Vector(tensor=warm_start.flatten(1), name="actions")
    z0 = th.Vector(tensor=problem.z0, name="z0")
    prior = th.Vector(tensor=problem.prior.flatten(1), name="prior")
    objective = th.Objective(dtype=dtype)
    objective.add(
        th.AutoDiffCostFunction(
            [actions],
            residual,
            num_residuals,
            cost_weight=th.ScaleCostWeight(torch.ones(1, 1, dtype=dtype)),
            aux_vars=[z0, prior],
            autograd_mode="vmap",
        )
    )
    optimizer = th.LevenbergMarquardt(
        objective,
        linear_solver_cls=th.CholeskyDenseSolver,
        max_iterations=config.iterations,
        step_size=1.0,
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
    )
    layer = th.TheseusLayer(optimizer)
    layer.to(device=device)
    with torch.set_grad_enabled(differentiable):
        values, _ = layer.forward(
            {"actions": warm_start.flatten(1), "z0": problem.z0, "prior": problem.prior.flatten(1)},
            optimizer_kwargs={
                "backward_mode": _BACKWARD_MODES[config.backward_mode],
                "backward_num_iterations": config.backward_iterations,
                "damping": config.damping,
                # Accept/reject would leave a converged truncated solve without a differentiated step.
                "adaptive_damping": config.backward_mode != "truncated",
                "track_best_solution": False,
            },
        )
    iterations = torch.full((num_envs,), config.iterations, dtype=torch.int64, device=device)
    return conclude(problem, values["actions"].view_as(warm_start), iterations, config, implicit=False)
