"""Residuals of a temporal-difference world model, carrying tangents along for the gradient through a plan."""

from __future__ import annotations

from collections.abc import Callable

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
    """Residual of the smaller critic at the prior's action, of one batch of states; a ``SecondOrder`` too."""

    def __init__(
        self,
        prior: SecondOrderMLP,
        critics: tuple[SecondOrderMLP, SecondOrderMLP],
        action_dim: int,
        smaller: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    ) -> None:
        """Take the networks, and what makes of both critics' outputs the residual, its scale and where the first is it.

        The residual is the scale times the output of that critic, and a last component that is constant.
        """
        self._prior, self._critics, self._action_dim, self._smaller = prior, critics, action_dim, smaller

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        activations = self._prior.push(rows)
        before, self._tangent = activations[..., : self._action_dim]
        self._num_unused = activations.shape[-1] - self._action_dim
        self._action = before.tanh()
        self._slope = 1.0 - self._action.square()
        x = torch.cat((rows, torch.stack((self._action, self._slope * self._tangent))), dim=-1)
        (first, first_tangent), (second, second_tangent) = (critic.push(x) for critic in self._critics)
        value, self._scale, self._chosen = self._smaller(first, second)
        tangent = self._scale * torch.where(self._chosen, first_tangent, second_tangent)
        return torch.stack((value, F.pad(tangent, (0, 1))))

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``SecondOrder``."""
        rows = self._scale * rows[..., :-1]
        first, second = self._critics
        x_rows = first.pull(rows * self._chosen) + second.pull(rows * ~self._chosen)
        z_rows, (value_row, tangent_row) = x_rows.tensor_split((-self._action_dim,), dim=-1)
        tangent_row = self._slope * tangent_row
        bend = -2.0 * self._action * self._tangent
        activation_rows = torch.stack((self._slope * value_row + bend * tangent_row, tangent_row))
        return z_rows + self._prior.pull(F.pad(activation_rows, (0, self._num_unused)))
