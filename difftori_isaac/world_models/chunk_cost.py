"""A learned cost of a whole chunk of actions, given what is observed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from difftori_isaac.trajopt.problem import Along, Derivatives, WeightGradients
from difftori_isaac.world_models.mlp import LinearizedMLP, mlp


class ChunkCost(nn.Module):
    """``½‖φ(z, a)‖²`` of a condition z and a chunk a: a problem of one step, whose action is the chunk.

    The imitation learner of DiffTORI (arXiv 2402.05421, section 4.2) optimises chunks so, without dynamics. Here
    ``φ(z, a) = a + f(z, a)``: every residual can be written so, and with a new network f the cost is nearly a round
    bowl, whose minimum moves with the weights. Without a, φ is small at first, and so is the gradient of the minimum.

    A ``StructuredModel`` and a ``SecondOrderModel``.
    """

    def __init__(self, condition_dim: int, chunk_dim: int, *, hidden_dims: tuple[int, ...], activation: str) -> None:
        """Build f for conditions and flat chunks of these widths."""
        super().__init__()
        self.net = mlp(condition_dim + chunk_dim, hidden_dims, chunk_dim, activation)

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """The condition, shape (num_envs, condition_dim); nothing comes after a chunk."""
        return z

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """φ, of the shape of the flat chunks, (num_envs, chunk_dim)."""
        return a + self.net(torch.cat((z, a), dim=-1))

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        """No residuals, shape (num_envs, 0)."""
        return z[..., :0]

    def next_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`next`."""
        return Derivatives(
            value=z,
            push=lambda rows: pad(rows, (0, 0, 0, 0, 0, a.shape[-1])),
            pull=lambda rows: (rows, rows.new_zeros(*rows.shape[:2], a.shape[-1])),
            along=lambda grads, z_tangent, a_tangent: Along(z_tangent, lambda rows: rows),
        )

    def stage_derivatives(self, z: torch.Tensor, a: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`stage_residual`."""
        net, sizes = LinearizedMLP(self.net, torch.cat((z, a), dim=-1)), (z.shape[-1], a.shape[-1])

        def push(z_rows: torch.Tensor) -> torch.Tensor:
            rows = net.push_first(z_rows)
            rows[len(z_rows) :] += torch.eye(sizes[1], dtype=rows.dtype, device=rows.device)[:, None]
            return rows

        def pull(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            z_rows, a_rows = net.pull(rows).split(sizes, dim=-1)
            return z_rows, rows + a_rows

        def along(grads: WeightGradients, z_tangent: torch.Tensor, a_tangent: torch.Tensor) -> Along:
            tangent, pull_all = net.along(grads, torch.cat((z_tangent, a_tangent), dim=-1))
            return Along(a_tangent + tangent, lambda rows: pull_all(rows)[..., : sizes[0]])

        return Derivatives(a + net.value, push, pull, along)

    def terminal_derivatives(self, z: torch.Tensor) -> Derivatives:
        """Derivatives of :meth:`terminal_residual`."""
        return Derivatives(
            value=z[..., :0],
            push=lambda rows: rows[..., :0],
            pull=lambda rows: (rows.new_zeros(*rows.shape[:2], z.shape[-1]),),
            along=lambda grads, z_tangent: Along(z_tangent[..., :0], lambda rows: rows.new_zeros(2, *z.shape)),
        )

    def second_order_weights(self) -> tuple[torch.Tensor, ...]:
        """Parameters of f."""
        return tuple(self.net.parameters())
