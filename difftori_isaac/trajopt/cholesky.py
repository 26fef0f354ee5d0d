"""Batches of small symmetric positive definite systems."""

from __future__ import annotations

import torch


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
