"""Theseus' Levenberg-Marquardt as a backend: the reference the others are checked against."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.linearize import linearize, zeroed
from difftori_isaac.trajopt.optimality import conclude
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*[Cc]holmod.*")
    import theseus as th


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> SolverResult:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    One Theseus problem per environment, batched, with Theseus' own gradient. Every parameter of the model is an
    auxiliary variable. Theseus does not tell which steps it accepted in which environment: all iterations are reported.
    One environment that is not finite would stop it in all: it does not see those that are not at their warm start. One
    that overflows on the way, or whose Hessian loses its factorisation, still stops it, with a RuntimeError if
    ``differentiable``.

    Raises:
        ValueError: If ``backward_mode=dlm`` meets a model whose parameters it cannot reach.
    """
    with torch.no_grad():
        point = linearize(problem, warm_start)
    problem, start, broken = zeroed(problem, warm_start, point)
    residual = _Residual(problem)
    if config.backward_mode == "dlm" and next(residual.parameters(), None) is None:
        raise ValueError(
            "trajopt.backward_mode is 'dlm', which reaches the parameters of an nn.Module alone, but the model "
            f"({type(problem.model).__name__}) has none; allowed: implicit, truncated, unroll"
        )
    inputs = {"z0": problem.z0, "prior": problem.prior.flatten(1)}
    inputs |= {name: parameter.reshape(1, -1) for name, parameter in residual.named_parameters()}
    scale = _GradientScale()
    if config.backward_mode == "dlm":
        inputs = {name: scale.restored(tensor) for name, tensor in inputs.items()}
    layer = th.TheseusLayer(_optimizer(residual, start, inputs, config))
    layer.to(device=warm_start.device)
    with torch.set_grad_enabled(differentiable):
        values, _ = layer.forward(
            {"actions": start.flatten(1)} | inputs,
            optimizer_kwargs={
                "backward_mode": config.backward_mode,
                "backward_num_iterations": config.backward_iterations,
                "dlm_epsilon": config.dlm_epsilon,
                "damping": config.damping,
                # Accept/reject would leave a converged truncated solve without a differentiated step.
                "adaptive_damping": config.backward_mode != "truncated",
                "track_best_solution": False,
            },
        )
    actions = values["actions"]
    if config.backward_mode == "dlm":
        actions = scale.normalised(actions)
    iterations = torch.full((len(warm_start),), config.iterations, dtype=torch.int64, device=warm_start.device)
    result = conclude(problem, actions.view_as(warm_start), iterations, config, implicit=False)
    with torch.no_grad():
        return result._replace(cost=result.cost.masked_fill(broken, torch.nan), initial_cost=problem.cost(start))


class _Residual(nn.Module):
    """The residual of a problem as a function of all that it depends on, the parameters of its model included."""

    def __init__(self, problem: TrajOptProblem) -> None:
        super().__init__()
        self.problem, self.model = problem, problem.model

    def forward(self, actions: torch.Tensor, z0: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        shape = (-1, *self.problem.prior.shape[1:])
        return self.problem.replaced(z0=z0, prior=prior.view(shape)).residual(actions.view(shape))


def _optimizer(
    residual: _Residual, warm_start: torch.Tensor, inputs: dict[str, torch.Tensor], config: TrajOptConfig
) -> th.LevenbergMarquardt:
    """Theseus' problem: one vector of actions, and as auxiliary variables ``inputs``, parameters with a batch of 1."""
    names = [name for name in inputs if name not in ("z0", "prior")]

    def error(optim_vars: tuple[th.Variable, ...], aux_vars: tuple[th.Variable, ...]) -> torch.Tensor:
        z0, prior, *parameters = (variable.tensor for variable in aux_vars)
        named = {
            name: parameter[0].view_as(residual.get_parameter(name))
            for name, parameter in zip(names, parameters, strict=True)
        }
        return functional_call(residual, named, (optim_vars[0].tensor, z0, prior))

    with torch.no_grad():
        num_residuals = residual(warm_start, inputs["z0"], inputs["prior"]).shape[1]
    objective = th.Objective(dtype=warm_start.dtype)
    objective.add(
        th.AutoDiffCostFunction(
            [th.Vector(tensor=warm_start.flatten(1), name="actions")],
            error,
            num_residuals,
            cost_weight=th.ScaleCostWeight(torch.ones(1, 1, dtype=warm_start.dtype)),
            aux_vars=[th.Variable(tensor, name=name) for name, tensor in inputs.items()],
            autograd_mode="vmap",
        )
    )
    return th.LevenbergMarquardt(
        objective,
        linear_solver_cls=th.CholeskyDenseSolver,
        max_iterations=config.iterations,
        step_size=1.0,
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
    )


class _GradientScale:
    """Hands Theseus an upstream gradient of largest component 1, and restores its scale behind Theseus.

    Theseus' direct loss minimization moves the solution by ``dlm_epsilon`` times the upstream gradient and weighs that
    against a penalty of ``dlm_epsilon²`` on the solution itself (Theseus, arXiv 2207.09442): the small gradient of a
    mean over many environments would drown in the penalty.
    """

    def __init__(self) -> None:
        self._scale = torch.ones(())

    def normalised(self, solution: torch.Tensor) -> torch.Tensor:
        """The same solution, which divides its gradient by the largest component."""
        return _MappedGradient.apply(solution, self._divide)

    def restored(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same input, which multiplies its gradient by that component."""
        return _MappedGradient.apply(tensor, self._multiply)

    def _divide(self, gradient: torch.Tensor) -> torch.Tensor:
        self._scale = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / self._scale

    def _multiply(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self._scale


class _MappedGradient(torch.autograd.Function):
    """The identity, with a function applied to the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, function: Any) -> torch.Tensor:
        ctx.function = function
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.function(gradient), None
