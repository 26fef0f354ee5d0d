"""A learned cost of a whole chunk of actions, given what is observed."""

from __future__ import annotations

import torch
from torch import nn

from difftori_isaac.trajopt.problem import Derivatives
from difftori_isaac.world_models.mlp import LinearizedMLP, mlp
from difftori_isaac.world_models.second_order import SecondOrderMLP


class ChunkCost(nn.Module):
    """``½‖φ(z, a)‖²`` of a condition z and a chunk a: a problem of one step, whose action is the chunk.

    The imitation learner of DiffTORI (arXiv 2402.05421, section 4.2) optimises chunks so, without dynamics. A
    ``StructuredModel`` and a ``SecondOrderModel``.
    """

    def __init__(
        self, condition_dim: int, chunk_dim: int, *, hidden_dims: tuple[int, ...], num_residuals: int, activation: str
    ) -> None:
        """Build φ for conditions and flat chunks of these widths."""
        super().__init__()
        self.residuals = mlp(condition_dim + chunk_dim, hidden_dims, num_residuals, activation)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """The condition, shape (num_envs, condition_dim); nothing comes after a chunk."""
        return z

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """φ, shape (num_envs, num_residuals), of flat chunks, shape (num_envs, chunk_dim)."""
        return self.residuals(torch.cat((z, a), dim=-1))

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """No residuals, shape (num_envs, 0)."""
        return z[..., :0]

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`next`."""
        return Derivatives(
            value=z,
            push=lambda z_rows, a_rows: z_rows,
            pull=lambda rows: (rows, rows.new_zeros(*rows.shape[:2], a.shape[-1])),
        )

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`stage_residual`."""
        phi, sizes = LinearizedMLP(self.residuals, torch.cat((z, a), dim=-1)), (z.shape[-1], a.shape[-1])
        return Derivatives(
            value=phi.value,
            push=lambda z_rows, a_rows: phi.push(torch.cat((z_rows, a_rows), dim=-1)),
            pull=lambda rows: phi.pull(rows).split(sizes, dim=-1),
        )

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`terminal_residual`."""
        return Derivatives(
            value=z[..., :0],
            push=lambda rows: rows[..., :0],
            pull=lambda rows: (rows.new_zeros(*rows.shape[:2], z.shape[-1]),),
        )

    def second_order_weights(self) -> tuple[torch.Tensor, ...]:
        """Parameters of φ."""
        return tuple(self.residuals.parameters())

    def pull_gradient(
        self,
        weights: tuple[torch.Tensor, ...],
        z0: torch.Tensor,
        actions: torch.Tensor,
        direction: torch.Tensor,
        discount: float,
    ) -> tuple[torch.Tensor, ...]:
        """See :class:`~difftori_isaac.trajopt.problem.SecondOrderModel`; of the first step alone."""
        phi = SecondOrderMLP(self.residuals, weights)
        inputs = torch.cat((z0, actions[:, 0]), dim=1)
        tangents = torch.cat((torch.zeros_like(z0), direction[:, 0]), dim=1)
        rows = phi.pull(phi.push(torch.stack((inputs, tangents))).flip(0))
        return rows[0, :, : z0.shape[1]], *phi.grads
