"""The implicit gradient of a solution: one linear solve and one vector-Jacobian product."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from difftori_isaac.trajopt import cholesky
from difftori_isaac.trajopt.config import HessianName
from difftori_isaac.trajopt.host import readable
from difftori_isaac.trajopt.objectives import ReturnProblem
from difftori_isaac.trajopt.problem import SecondOrderModel, TrajOptProblem
from difftori_isaac.trajopt.trajectory import Trajectory, knows_derivatives, simulate


def implicit_gradient(
    problem: TrajOptProblem,
    actions: torch.Tensor,
    free: torch.Tensor,
    factor: torch.Tensor,
    hessian: HessianName,
    trajectory: Trajectory | None = None,
) -> torch.Tensor:
    """``actions``, carrying the gradient of the optimum with respect to everything the problem depends on.

    At an optimum ``g(a*, θ) = ∂C/∂a = 0`` on the components that no bound holds, hence ``∂a*/∂θ = −H⁻¹ ∂g/∂θ`` there
    and zero elsewhere (implicit function theorem; DiffTORI, arXiv 2402.05421, section 3). The gradient is meaningful
    at converged solutions only.

    Args:
        problem: The solved problem, attached to the autograd graph of its parameters.
        actions: Its solution, shape (num_envs, horizon, action_dim).
        free: Components that no bound holds, bool of the same shape.
        factor: Cholesky factor of the :func:`free_block` of the Gauss-Newton Hessian.
        hessian: ``gauss_newton``, positive definite but exact only where residuals or curvature vanish, or ``exact``;
            an environment whose exact Hessian is not positive definite uses its Gauss-Newton Hessian.
        trajectory: The rollout of ``actions``, if it is known.

    Returns:
        A tensor equal to ``actions``. It can be differentiated once; a second derivative raises a RuntimeError.
    """
    actions = actions.detach()
    if hessian == "exact":
        with torch.no_grad():
            exact, info = torch.linalg.cholesky_ex(free_block(exact_hessian(problem.detached(), actions), free))
            factor = torch.where((info == 0)[:, None, None], exact, factor)
    return actions + _AdjointSolve.apply(_gradient_graph(problem, actions, trajectory), factor, free)


def free_block(hessian: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """A Hessian with the rows and columns of held components replaced by those of the identity."""
    if readable(free) and free.all():
        return hessian
    free = free.flatten(1)
    identity = torch.eye(free.shape[1], dtype=hessian.dtype, device=hessian.device)
    return torch.where(free[:, :, None] & free[:, None, :], hessian, identity)


def exact_hessian(problem: TrajOptProblem, actions: torch.Tensor) -> torch.Tensor:
    """Second derivative of the cost, shape (num_envs, horizon * action_dim, horizon * action_dim).

    Raises:
        ValueError: If the model cannot be asked about one environment alone.
    """
    size = actions[0].numel()

    def cost(flat: torch.Tensor, z0: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        costs = problem.replaced(z0=z0[None], prior=prior[None]).cost(flat.view(1, *actions.shape[1:]))
        if len(costs) != 1:
            raise ValueError(
                f"the model ({type(problem.model).__name__}) gives {len(costs)} costs of 1 environment: it holds "
                "numbers of single environments; allowed: such numbers as components of the state"
            )
        return costs[0]

    rows = torch.func.vmap(torch.func.jacfwd(torch.func.grad(cost)))(actions.flatten(1), problem.z0, problem.prior)
    return rows.view(-1, size, size)


def _gradient_graph(problem: TrajOptProblem, actions: torch.Tensor, trajectory: Trajectory | None) -> torch.Tensor:
    """A tensor that passes gradients on as the cost gradient at ``actions`` does; its value is not that gradient."""
    model = problem.model
    if isinstance(model, SecondOrderModel) and knows_derivatives(model) and not isinstance(problem, ReturnProblem):
        if trajectory is None:
            with torch.no_grad():
                trajectory = simulate(problem, actions)
        with torch.enable_grad():
            weights = dict.fromkeys(model.second_order_weights())  # networks may share some
            residual_gradient = _PullGradient.apply(trajectory, actions, problem.z0, *weights)
            return residual_gradient + problem.action_gradient(actions)
    with torch.enable_grad():
        variables = actions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.cost(variables).sum(), variables, create_graph=True)
        return gradient


class _PullGradient(torch.autograd.Function):
    """Zero in value; pulls back as the gradient of the residuals' cost does."""

    @staticmethod
    def forward(
        ctx: Any, trajectory: Trajectory, actions: torch.Tensor, z0: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(*weights)  # notices where one has changed since
        ctx.trajectory, ctx.weights = trajectory, weights
        return torch.zeros_like(actions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _ = ctx.saved_tensors
        grads = {weight: torch.zeros_like(weight) for weight in ctx.weights}
        return None, None, ctx.trajectory.pull_gradient(direction, grads), *grads.values()


class _AdjointSolve(torch.autograd.Function):
    """Zero in value; pulls the adjoint ``v`` of the solution back to ``−H⁻¹ v`` on the cost gradient."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, factor: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor, free)
        return torch.zeros_like(gradient)

    @staticmethod
    def backward(ctx: Any, adjoint: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the implicit gradient of a plan can be differentiated once, but a second derivative was asked for "
                "(create_graph=True); use trajopt.backward_mode=unroll"
            )
        factor, free = ctx.saved_tensors
        solved = cholesky.solve(factor, (adjoint * free).flatten(1))
        return -(solved.view_as(adjoint) * free), None, None
