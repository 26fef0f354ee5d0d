"""Batches of small symmetric positive definite systems."""

from __future__ import annotations

import torch

from difftori_isaac.trajopt.host import readable
from difftori_isaac.trajopt.solution import all_finite


def shifted(matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``A + s I`` of matrices (num_envs, n, n) and numbers (num_envs,)."""
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return torch.addcmul(matrix, shift[:, None, None], identity)


def factor(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factors, shape (num_envs, n, n); without meaning where a matrix is not positive definite."""
    return torch.linalg.cholesky_ex(matrix).L


def solve(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Solutions of ``L Lᵀ x = vector``, shape (num_envs, n).

    On a GPU by two triangular solves: torch's own, by MAGMA, cannot be captured in a graph.
    """
    column = vector[..., None]
    if vector.is_cuda:
        column = torch.linalg.solve_triangular(factor, column, upper=False)
        return torch.linalg.solve_triangular(factor.mT, column, upper=True)[..., 0]
    return torch.cholesky_solve(column, factor)[..., 0]


def solution(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Solutions of ``A x = vector`` for matrices (num_envs, n, n), shape (num_envs, n).

    Where a matrix is not positive definite within its precision, or something is not finite, they have no meaning and
    pass no gradient on, which would be NaN in all that environments share.
    """
    lower, info = torch.linalg.cholesky_ex(matrix)
    found = solve(lower, vector)
    if torch.is_grad_enabled():
        failed = (info > 0) | ~all_finite(lower, found)
        if not readable(failed) or failed.any():
            identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
            lower = factor(torch.where(failed[:, None, None], identity, matrix))
            found = torch.where(failed[:, None], found.detach(), solve(lower, vector))
    return found
