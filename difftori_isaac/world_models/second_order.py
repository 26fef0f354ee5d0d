"""The derivative of a plan's cost gradient with respect to all that a latent model is made of, without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from difftori_isaac.world_models.activations import curvature, value_and_slope
from difftori_isaac.world_models.normalization import LayerNormAt, SimNorm, SimNormAt


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
        dynamics: Next state, of state and action side by side.
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
        z = dynamics.push(inputs[-1])
    discounts = discount ** torch.arange(horizon + 1, dtype=z0.dtype, device=z0.device)
    phi_discounts = discounts[:-1].repeat_interleave(num_envs)[:, None]
    # Of φ·δφ: δφ for φ, φ for δφ.
    phi_rows = phi.pull(phi_discounts * phi.push(torch.cat(inputs, dim=1)).flip(0))[:, :, :latent_dim]
    rows = psi.pull(discounts[-1] * psi.push(z).flip(0))
    for phi_row in reversed(phi_rows.split(num_envs, dim=1)):
        rows = phi_row + dynamics.pull(rows)[:, :, :latent_dim]
    return rows[0]


class SecondOrderMLP:
    """A network applied to values and their tangents; a :class:`SecondOrder`."""

    def __init__(self, network: nn.Sequential, weights: Sequence[torch.Tensor]) -> None:
        """Take linear layers, activations and normalisations, and their parameters."""
        self.grads = [torch.zeros_like(weight) for weight in weights]
        """Gradients for the parameters, added up over calls of :meth:`pull`."""
        pairs = zip(weights, self.grads, strict=True)
        self._layers = [_layer(module, [next(pairs) for _ in module.parameters()]) for module in network]
        self._calls: list[list[Any]] = []

    @classmethod
    def of_all(cls, networks: Sequence[nn.Sequential], weights: Sequence[torch.Tensor]) -> list[SecondOrderMLP]:
        """One for each network; ``weights`` are their parameters, one network after the other."""
        remaining = iter(weights)
        return [cls(network, [next(remaining) for _ in network.parameters()]) for network in networks]

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        kept = []
        for layer in self._layers:
            rows, needed = layer.push(rows)
            kept.append(needed)
        self._calls.append(kept)
        return rows

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        for layer, needed in zip(reversed(self._layers), reversed(self._calls.pop()), strict=True):
            rows = layer.pull(rows, needed)
        return rows


class SecondOrderResidual:
    """``z + f(z, a)`` of a network f; a :class:`SecondOrder`."""

    def __init__(self, net: SecondOrderMLP, latent_dim: int) -> None:
        """Take the network and the width of z."""
        self._net, self._latent_dim = net, latent_dim

    def push(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        return rows[..., : self._latent_dim] + self._net.push(rows)

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """See :class:`SecondOrder`."""
        pulled = self._net.pull(rows)
        pulled[..., : self._latent_dim] += rows
        return pulled


class _Layer(Protocol):
    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Value and tangent of the output, and what :meth:`pull` needs."""
        ...

    def pull(self, rows: torch.Tensor, needed: Any) -> torch.Tensor: ...


class _Linear:
    def __init__(self, weight: _Parameter, bias: _Parameter) -> None:
        (self._weight, self._weight_grad), (self._bias, self._bias_grad) = weight, bias

    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        output = rows @ self._weight.T
        output[0] += self._bias
        return output, rows

    def pull(self, rows: torch.Tensor, needed: torch.Tensor) -> torch.Tensor:
        self._weight_grad.addmm_(rows.flatten(0, 1).T, needed.flatten(0, 1))
        self._bias_grad += rows[0].sum(dim=0)
        return rows @ self._weight


class _Activation:
    """In the memory of the rows, which are those of the layer beside it."""

    def __init__(self, activation: nn.Module) -> None:
        self._activation = activation

    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        x, tangent = rows
        value, slope = value_and_slope(self._activation, x)
        bend = tangent * curvature(self._activation, x, value, slope)
        x.copy_(value)
        tangent *= slope
        return rows, (slope, bend)

    def pull(self, rows: torch.Tensor, needed: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        slope, bend = needed
        rows[0].mul_(slope).addcmul_(rows[1], bend)
        rows[1].mul_(slope)
        return rows


class _LayerNorm:
    def __init__(self, weight: _Parameter, bias: _Parameter, eps: float) -> None:
        (self._weight, self._weight_grad), (self._bias, self._bias_grad), self._eps = weight, bias, eps

    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        x, tangent = rows
        norm = LayerNormAt(x, self._weight, self._bias, self._eps)
        return torch.stack((norm.value, norm.push(tangent))), (norm, tangent)

    def pull(self, rows: torch.Tensor, needed: tuple[LayerNormAt, torch.Tensor]) -> torch.Tensor:
        norm, tangent = needed
        self._weight_grad += (rows * torch.stack((norm.normalized, norm.project(tangent)))).sum(dim=(0, 1))
        self._bias_grad += rows[0].sum(dim=0)
        pulled = norm.pull(rows)
        pulled[0] += norm.bend(rows[1] * self._weight, tangent)
        return pulled


class _SimNorm:
    def __init__(self, dim: int) -> None:
        self._dim = dim

    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, Any]:
        x, tangent = rows
        norm = SimNormAt(x, self._dim)
        return torch.stack((norm.value, norm.push(tangent))), (norm, tangent)

    def pull(self, rows: torch.Tensor, needed: tuple[SimNormAt, torch.Tensor]) -> torch.Tensor:
        norm, tangent = needed
        pulled = norm.pull(rows)
        pulled[0] += norm.bend(rows[1], tangent)
        return pulled


_Parameter = tuple[torch.Tensor, torch.Tensor]
"""A parameter, and where its gradient is added up."""


def _layer(module: nn.Module, parameters: list[_Parameter]) -> _Layer:
    if isinstance(module, nn.Linear):
        return _Linear(*parameters)
    if isinstance(module, nn.LayerNorm):
        weight, bias = parameters
        return _LayerNorm(weight, bias, module.eps)
    if isinstance(module, SimNorm):
        return _SimNorm(module.dim)
    return _Activation(module)
