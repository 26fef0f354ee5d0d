"""Levenberg-Marquardt of analytic systems in Warp: a solve and a gradient are one kernel launch each."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.kernels.adjoint import adjoint_kernel
from difftori_isaac.trajopt.kernels.derivatives import types_of
from difftori_isaac.trajopt.kernels.interop import launch, packed, scalar_type, scratch, view
from difftori_isaac.trajopt.kernels.levenberg_marquardt import solve_kernel
from difftori_isaac.trajopt.kernels.problem import structs_of
from difftori_isaac.trajopt.kernels.system import WarpSystem
from difftori_isaac.trajopt.problem import TrajOptProblem
from difftori_isaac.trajopt.solution import SolverResult
from difftori_isaac.trajopt.trajectory import overridden


class WarpModel(Protocol):
    """A model that this solver plans with; ``world_models.analytic.AnalyticModel`` is one."""

    system: WarpSystem
    """Dynamics and outputs y."""
    weights: torch.Tensor
    """Weights of ``y − goal`` at every step, shape (output_dim,)."""
    terminal_weights: torch.Tensor
    """Weights of ``y − goal`` at the last state, shape (output_dim,)."""
    goal: torch.Tensor
    """Desired outputs, shape (output_dim,)."""
    action_weights: torch.Tensor
    """Weights of the actions, shape (action_dim,)."""

    def physical(self) -> torch.Tensor:
        """Physical parameters and time step, shape (system.num_params,)."""
        ...


def solve(
    problem: TrajOptProblem, warm_start: torch.Tensor, config: TrajOptConfig, *, differentiable: bool
) -> SolverResult:
    """See :class:`~difftori_isaac.trajopt.solvers.Solver`.

    Raises:
        ValueError: If the model is no :class:`WarpModel`, overrides what its system says, or has other sizes.
    """
    model: Any = problem.model
    if not isinstance(getattr(model, "system", None), WarpSystem):
        raise ValueError(
            f"trajopt.solver is 'warp', but the model is a {type(model).__name__}; "
            "allowed: a subclass of world_models.analytic.AnalyticModel, or trajopt.solver=gauss_newton"
        )
    if changed := _changed(model):
        raise ValueError(
            f"trajopt.solver is 'warp', which plans with the model's system, but {type(model).__name__} overrides "
            f"{' and '.join(changed)}; allowed: an AnalyticModel of an own system, or trajopt.solver=gauss_newton"
        )
    sizes = (problem.z0.shape[1], warm_start.shape[2])
    if sizes != (model.system.state_dim, model.system.action_dim):
        raise ValueError(
            f"states and actions have {sizes[0]} and {sizes[1]} components; "
            f"allowed: {model.system.state_dim} and {model.system.action_dim}, those of the model's system"
        )
    parameters = (model.physical(), model.weights, model.terminal_weights, model.goal, model.action_weights)
    with torch.set_grad_enabled(differentiable):
        return SolverResult(*_Solve.apply(problem, warm_start, config, problem.z0, problem.prior, *parameters))


def _changed(model: WarpModel) -> list[str]:
    """Methods by which a subclass says something else than the system that its base class brings."""
    said = {"stage_residual": "physical", "terminal_residual": "physical"}
    if overridden(model, "__init__", "physical"):  # or else both the system and its methods are the user's own
        said |= {"next": "__init__", "outputs": "__init__"}
    return [name for name, since in said.items() if overridden(model, name, since)]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: TrajOptProblem,
        warm_start: torch.Tensor,
        config: TrajOptConfig,
        z0: torch.Tensor,
        prior: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        system: WarpSystem = problem.model.system  # type: ignore[attr-defined]
        types, structs = types_of(system, scalar_type(z0.dtype)), structs_of(system, scalar_type(z0.dtype))
        num_envs, horizon, _ = prior.shape
        inputs = tuple(packed(tensor.to(z0)) for tensor in (z0, prior, *parameters))

        task = structs.problem()
        task.horizon, task.discount, task.prior_weight = horizon, problem.discount, problem.prior_weight
        task.z0, task.prior = view(inputs[0], types.state), view(inputs[1], types.action)
        for name, bound, unbounded in (("low", problem.low, -torch.inf), ("high", problem.high, torch.inf)):
            tensor = torch.full_like(inputs[1], unbounded if bound is None else 0.0)
            setattr(task, name, view(tensor if bound is None else tensor + bound, types.action))
        names = ("physical", "weights", "terminal_weights", "goal", "action_weights")
        kinds = (types.physical, types.output, types.output, types.output, types.action)
        for name, kind, tensor in zip(names, kinds, inputs[2:], strict=True):
            setattr(task, name, view(tensor[None], kind))

        expansion = structs.expansion()
        actions = packed(warm_start)
        expansion.actions = view(actions, types.action)
        expansion.states = view(scratch(z0, num_envs, horizon + 1, types.state), types.state)
        trial_states = scratch(z0, num_envs, horizon + 1, types.state)
        trial_actions = torch.empty_like(actions)
        for name, kind in (
            ("free", types.action),
            ("step_z", types.state_state),
            ("step_a", types.state_action),
            ("inverse", types.action_action),
            ("gain", types.action_state),
            ("offset", types.action),
        ):
            setattr(expansion, name, view(scratch(z0, num_envs, horizon, kind), kind))
        cost, step_norm = z0.new_empty(num_envs), z0.new_empty(num_envs)
        accepted = torch.empty(num_envs, dtype=torch.int64, device=z0.device)
        launch(
            solve_kernel(system, types.scalar),
            z0,
            task,
            config.iterations,
            config.damping,
            config.damping_up,
            config.damping_down,
            config.tolerance,
            view(trial_states, types.state),
            view(trial_actions, types.action),
            expansion,
            view(cost, types.scalar),
            view(step_norm, types.scalar),
            view(accepted),
        )
        ctx.save_for_backward(*inputs, actions, step_norm)
        ctx.system, ctx.types, ctx.task, ctx.expansion = system, types, task, expansion
        ctx.exact = config.hessian == "exact"
        ctx.mark_non_differentiable(cost, step_norm, accepted)
        return actions, cost, step_norm, accepted

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the implicit gradient of a plan can be differentiated once, but a second derivative was asked for "
                "(create_graph=True); use trajopt.solver=gauss_newton trajopt.backward_mode=unroll"
            )
        *inputs, _, step_norm = ctx.saved_tensors
        types, (num_envs, horizon, _) = ctx.types, inputs[1].shape
        kinds = (types.physical, types.output, types.output, types.output, types.action)
        z0_grad, prior_grad = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])
        sizes = [len(tensor) for tensor in inputs[2:]]
        rows = step_norm.new_zeros(num_envs, sum(sizes))
        launch(
            adjoint_kernel(ctx.system, types.scalar, ctx.exact),
            step_norm,
            ctx.task,
            view(step_norm, types.scalar),
            view(packed(grads[0]), types.action),
            ctx.expansion,
            view(scratch(step_norm, num_envs, horizon, types.state), types.state),
            view(z0_grad, types.state),
            view(prior_grad, types.action),
            *(view(part, kind) for part, kind in zip(rows.split(sizes, dim=1), kinds, strict=True)),
        )
        return None, None, None, z0_grad, prior_grad, *rows.sum(dim=0).split(sizes)
