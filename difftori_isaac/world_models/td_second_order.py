"""Residuals of a temporal-difference world model, carrying tangents along for the gradient through a plan."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from difftori_isaac.world_models.second_order import SecondOrderMLP


class SecondOrderReward:
    """A network times a constant; a :class:`~difftori_isaac.world_models.second_order.SecondOrder`."""

    def __init__(self, net: SecondOrderMLP, scale: torch.Tensor) -> None:
        """Take the network and the constant, a scalar."""
        self._net, self._scale = net, scale

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        return self._scale * self._net.push(rows)

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        return self._net.pull(self._scale * rows)


class SecondOrderValue:
    """Residual of two critics at the prior's action, of one batch of states; a ``SecondOrder`` too."""

    def __init__(
        self,
        prior: SecondOrderMLP,
        critics: tuple[SecondOrderMLP, SecondOrderMLP],
        action_dim: int,
        scale: torch.Tensor,
    ) -> None:
        """Take the networks, and the scalar that the critics' outputs are multiplied with."""
        self._prior, self._critics, self._action_dim, self._scale = prior, critics, action_dim, scale

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        activations = self._prior.push(rows)
        before, self._tangent = activations[..., : self._action_dim]
        self._num_unused = activations.shape[-1] - self._action_dim
        self._action = before.tanh()
        self._slope = 1.0 - self._action.square()
        x = torch.cat((rows, torch.stack((self._action, self._slope * self._tangent))), dim=-1)
        return self._scale * torch.cat([critic.push(x) for critic in self._critics], dim=-1)

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        first, second = self._critics
        of_first, of_second = (self._scale * rows).chunk(2, dim=-1)
        x_rows = first.pull(of_first) + second.pull(of_second)
        z_rows, (value_row, tangent_row) = x_rows.tensor_split((-self._action_dim,), dim=-1)
        tangent_row = self._slope * tangent_row
        bend = -2.0 * self._action * self._tangent
        activation_rows = torch.stack((self._slope * value_row + bend * tangent_row, tangent_row))
        return z_rows + self._prior.pull(F.pad(activation_rows, (0, self._num_unused)))
