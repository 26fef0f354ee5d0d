"""The trajectory-optimization layer: warm start, solve, gradient. The one way in."""

from __future__ import annotations

from typing import cast

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.objectives import ReturnModel, pose
from difftori_isaac.trajopt.problem import TrajOptModel, TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult, SolveStatus, TrajOptSolution, all_finite, zero_where
from difftori_isaac.trajopt.solvers import get_solver


def _not_compiled[F](function: F) -> F:
    return cast("F", torch.compiler.disable(function))


class TrajOptLayer:
    """Plans action sequences for a batch of environments and differentiates the plans.

    Gradients reach the initial states, the prior plan and every parameter of the model. The layer may be called in
    any autograd mode, :func:`torch.inference_mode` included, in float32 and float64, on any device. It plans in that
    precision under :class:`torch.autocast` as well, and :func:`torch.compile` leaves it as it is.
    """

    def __init__(self, config: TrajOptConfig) -> None:
        """Take the settings."""
        self.config = config
        self._solver = get_solver(config.solver)

    @_not_compiled
    def __call__(
        self,
        model: TrajOptModel | ReturnModel,
        z0: torch.Tensor,
        prior: torch.Tensor,
        *,
        warm_start: torch.Tensor | None = None,
    ) -> TrajOptSolution:
        """Minimise the cost of :func:`~difftori_isaac.trajopt.objectives.pose` for every environment.

        An environment whose state, prior or cost is not finite (status ``NON_FINITE``), or whose cost ends above that
        of its warm start (``DIVERGED``), returns its warm start, passes no gradient on and leaves the others as they
        are, up to rounding. What is not finite is computed at zeros instead: the model has to be finite and
        differentiable there. A batch of no environments has an empty solution.

        Args:
            model: Dynamics and residuals, or dynamics, reward and value, as ``objective`` needs.
            z0: Initial states, shape (num_envs, state_dim).
            prior: Prior plan, shape (num_envs, horizon, action_dim).
            warm_start: First guess, of the shape of ``prior``; the prior plan if not given.

        Raises:
            ValueError: If a shape or type, the model or the number of bounds does not fit.
        """
        _check(z0, prior, warm_start, self.config.horizon)
        differentiable = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        differentiable &= self.config.train_through_plan
        precise = torch.autocast(z0.device.type, enabled=False)  # a step in bfloat16 is lost in its rounding
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable), precise:
            z0, prior = _copied(z0), _copied(prior)
            guess = prior.detach() if warm_start is None else _copied(warm_start).detach()
            return self._solve(model, z0, prior, guess, differentiable)

    def _solve(
        self,
        model: TrajOptModel | ReturnModel,
        z0: torch.Tensor,
        prior: torch.Tensor,
        guess: torch.Tensor,
        differentiable: bool,
    ) -> TrajOptSolution:
        config = self.config
        finite = all_finite(z0, prior)
        problem = pose(config, model, zero_where(~finite, z0), zero_where(~finite, prior))
        guess = problem.project(guess.nan_to_num(0.0, 0.0, 0.0))
        if guess.shape[0] > 0:
            result = self._solver(problem, guess, config, differentiable=differentiable)
        else:
            result = _nothing(problem, guess)

        finite &= all_finite(result.cost, result.step_norm)
        cost, diverged = result.cost.detach(), torch.zeros_like(finite)
        if result.initial_cost is not None:
            diverged = cost > result.initial_cost + problem.rounding(result.initial_cost)
            cost = torch.where(diverged, result.initial_cost, cost)
        failed = diverged | ~finite
        actions = torch.where(failed[:, None, None], guess, result.actions)
        status = torch.full_like(result.iterations, SolveStatus.MAX_ITERATIONS)
        status = status.masked_fill(result.step_norm <= config.tolerance, SolveStatus.CONVERGED)
        status = status.masked_fill(diverged, SolveStatus.DIVERGED).masked_fill(~finite, SolveStatus.NON_FINITE)
        shift = zero_where(failed, (actions - prior).detach())
        cost = cost.masked_fill(~finite, torch.nan)
        step_norm = result.step_norm.detach().masked_fill(failed, torch.nan)
        return TrajOptSolution(actions, shift, cost, step_norm, result.iterations, status)


def _check(z0: torch.Tensor, prior: torch.Tensor, warm_start: torch.Tensor | None, horizon: int) -> None:
    if z0.ndim != 2 or z0.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the initial states have shape {tuple(z0.shape)} and are {z0.dtype}; "
            "allowed: (num_envs, state_dim), float32 or float64"
        )
    if prior.ndim != 3 or prior.shape[:2] != (z0.shape[0], horizon):
        raise ValueError(
            f"the prior plan has shape {tuple(prior.shape)}; "
            f"allowed: (num_envs, horizon, action_dim) = ({z0.shape[0]}, {horizon}, any)"
        )
    if warm_start is not None and warm_start.shape != prior.shape:
        raise ValueError(
            f"the warm start has shape {tuple(warm_start.shape)}; allowed: that of the prior plan, {tuple(prior.shape)}"
        )
    for name, plan in (("prior plan", prior), ("warm start", prior if warm_start is None else warm_start)):
        if (plan.dtype, plan.device) != (z0.dtype, z0.device):
            raise ValueError(
                f"the {name} is {plan.dtype} on {plan.device}; "
                f"allowed: what the initial states are, {z0.dtype} on {z0.device}"
            )


def _nothing(problem: TrajOptProblem, guess: torch.Tensor) -> SolverResult:
    """The result for no environments, which gradients of no number pass through."""
    cost = problem.action_cost(guess) + problem.z0.sum(dim=1)
    norm = cost.detach()
    return SolverResult(guess + cost[:, None, None], norm, norm, norm.long())


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, which autograd can record and the caller cannot change before a backward pass."""
    return tensor.clone()
