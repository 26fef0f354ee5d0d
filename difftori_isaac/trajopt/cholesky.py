"""Batches of small symmetric positive definite systems."""

from __future__ import annotations

import torch


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
