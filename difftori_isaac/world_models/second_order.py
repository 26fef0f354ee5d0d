"""The derivative of a plan's cost gradient with respect to all that a latent model is made of, without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from difftori_isaac.world_models.activations import curvature, value_and_slope


class SecondOrder(Protocol):
    """A function of states, or of states and actions side by side, that carries tangents along."""

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """Value and tangent of the output, shape (2, num_envs, out_dim), of those of the input."""
        ...

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """Gradients for value and tangent of the last input not yet pulled, from those for its output."""
        ...


def pull_gradient(
    dynamics: SecondOrder,
    phi: SecondOrder,
    psi: SecondOrder,
    z0: torch.Tensor,
    actions: torch.Tensor,
    direction: torch.Tensor,
    discount: float,
) -> torch.Tensor:
    """Gradient of ``d/dε C(actions + ε direction)``, summed over environments, for z0; functions add up that of theirs.

    ``C = ½ Σ_t γ^t ‖φ(z_t, a_t)‖² + ½ γ^H ‖ψ(z_H)‖²``. States and their tangents are rolled out side by side, and both
    are pulled back together: forward over reverse (Pearlmutter, 1994), each layer one matrix product for both, in φ for
    all steps at once.

    Args:
        dynamics: Change of the state, of state and action side by side.
        phi: φ, of the same.
        psi: ψ, of the last state.
        z0: Initial states, shape (num_envs, latent_dim).
        actions: Shape (num_envs, horizon, action_dim).
        direction: Of the shape of ``actions``.
        discount: Discount γ.
    """
    (num_envs, latent_dim), horizon = z0.shape, actions.shape[1]
    moving_actions = torch.stack((actions, direction))
    z, inputs = torch.stack((z0, torch.zeros_like(z0))), []
    for t in range(horizon):
        inputs.append(torch.cat((z, moving_actions[:, :, t]), dim=2))
        z = z + dynamics.push(inputs[-1])
    discounts = discount ** torch.arange(horizon + 1, dtype=z0.dtype, device=z0.device)
    phi_discounts = discounts[:-1].repeat_interleave(num_envs)[:, None]
    # Of φ·δφ: δφ for φ, φ for δφ.
    phi_rows = phi.pull(phi_discounts * phi.push(torch.cat(inputs, dim=1)).flip(0))[:, :, :latent_dim]
    rows = psi.pull(discounts[-1] * psi.push(z).flip(0))
    for phi_row in reversed(phi_rows.split(num_envs, dim=1)):
        rows = rows + phi_row + dynamics.pull(rows)[:, :, :latent_dim]
    return rows[0]


class SecondOrderMLP:
    """An MLP applied to values and their tangents; a :class:`SecondOrder`."""

    def __init__(self, network: nn.Sequential, weights: Sequence[torch.Tensor]) -> None:
        """Take linear layers with activations between them, and their parameters."""
        self.grads = [torch.zeros_like(weight) for weight in weights]
        """Gradients for the parameters, added up over calls of :meth:`pull`."""
        self._linears = list(zip(weights[::2], weights[1::2], self.grads[::2], self.grads[1::2], strict=True))
        self._activations = [layer for layer in network if not isinstance(layer, nn.Linear)]
        self._calls: list[tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]] = []

    @classmethod
    def of_all(cls, networks: Sequence[nn.Sequential], weights: Sequence[torch.Tensor]) -> list[SecondOrderMLP]:
        """One for each network; ``weights`` are their parameters, one network after the other."""
        remaining = iter(weights)
        return [cls(network, [next(remaining) for _ in network.parameters()]) for network in networks]

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        inputs, bends = [], []
        for i, (weight, bias, _, _) in enumerate(self._linears):
            inputs.append(rows)
            rows = rows @ weight.T
            rows[0] += bias
            if i < len(self._activations):
                (x, tangent), activation = rows, self._activations[i]
                value, slope = value_and_slope(activation, x)
                bends.append((slope, tangent * curvature(activation, x, value, slope)))
                x.copy_(value)
                tangent *= slope
        self._calls.append((inputs, bends))
        return rows

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        inputs, bends = self._calls.pop()
        for i in reversed(range(len(self._linears))):
            weight, _, weight_grad, bias_grad = self._linears[i]
            if i < len(bends):
                slope, bend = bends[i]
                rows[0].mul_(slope).addcmul_(rows[1], bend)
                rows[1].mul_(slope)
            weight_grad.addmm_(rows.flatten(0, 1).T, inputs[i].flatten(0, 1))
            bias_grad += rows[0].sum(dim=0)
            rows = rows @ weight
        return rows
