"""Cost, gradient and a positive definite Hessian of any twice differentiable cost."""

from __future__ import annotations

import torch
from torch.func import vjp

from difftori_isaac.trajopt.gradients import exact_hessian
from difftori_isaac.trajopt.problem import TrajOptProblem

_NEWTON_SCHULZ_ITERATIONS = 12


def derivatives(
    problem: TrajOptProblem, actions: torch.Tensor, hessian: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cost (num_envs,), gradient (num_envs, n) and Hessian (num_envs, n, n) at ``actions``, n numbers per environment.

    The Hessian is the exact one where that is positive definite. Elsewhere its part that comes from the model is
    replaced by its modulus, as in saddle-free Newton (Dauphin et al., 2014): directions of negative curvature are
    descended by a step of the length that positive curvature of the same size would give. ``hessian``, if given, is
    kept instead.
    """
    cost, pull, *_ = vjp(problem.cost, actions)
    (gradient,) = pull(torch.ones_like(cost))
    if hessian is None:
        hessian = exact_hessian(problem, actions)
        floor = problem.action_hessian(actions)
        convex = torch.linalg.cholesky_ex(hessian.detach()).info == 0
        hessian = torch.where(convex[:, None, None], hessian, modulus(hessian - floor) + floor).contiguous()
    return cost, gradient.flatten(1), hessian


def modulus(matrix: torch.Tensor) -> torch.Tensor:
    """``|A| = A sign(A)`` of symmetric matrices (num_envs, n, n): eigenvalues replaced by their magnitudes.

    The matrix sign is that of Newton-Schulz iterations (Higham, Functions of Matrices, 2008, chapter 5): products
    alone, which no eigenvalue solver's failure or host synchronisation interrupts. Magnitudes below a hundredth of the
    norm come out smaller, and never negative.
    """
    norm = torch.linalg.matrix_norm(matrix.detach(), keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
    sign = matrix / norm
    for _ in range(_NEWTON_SCHULZ_ITERATIONS):
        sign = 1.5 * sign - 0.5 * sign @ sign @ sign
    product = matrix @ sign
    return 0.5 * (product + product.mT)
