"""Multi-layer perceptrons and their derivatives along many directions at once, by plain matrix products."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from difftori_isaac.world_models.activations import activation_layer, value_and_slope


def mlp(in_dim: int, hidden_dims: Iterable[int], out_dim: int, activation: str) -> nn.Sequential:
    """Linear layers with an activation of rsl_rl's names between them; without hidden layers, one linear layer."""
    dims = [in_dim, *hidden_dims, out_dim]
    layers: list[nn.Module] = []
    for i in range(len(dims) - 1):
        layers += [nn.Linear(dims[i], dims[i + 1]), activation_layer(activation)]
    return nn.Sequential(*layers[:-1])


class LinearizedMLP:
    """An MLP at some inputs: its value, and its Jacobian as products with stacks of vectors.

    Automatic differentiation gives the same numbers several times slower, because it maps every operation over the
    stack; here a layer is one matrix product for the whole stack. Differentiable when autograd records.
    """

    def __init__(self, mlp: nn.Sequential, inputs: torch.Tensor) -> None:
        """Evaluate ``mlp``, linear layers and elementwise activations, at ``inputs``, shape (num_envs, in_dim)."""
        self._layers: list[tuple[nn.Linear | None, torch.Tensor | None]] = []
        for layer in mlp:
            if isinstance(layer, nn.Linear):
                inputs = layer(inputs)
                self._layers.append((layer, None))
            else:
                inputs, slope = value_and_slope(layer, inputs)
                self._layers.append((None, slope))
        self.value = inputs
        """Output, shape (num_envs, out_dim)."""

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """``J t`` of each of k tangents, shape (k, num_envs, in_dim) to (k, num_envs, out_dim)."""
        for linear, slope in self._layers:
            tangents = tangents @ linear.weight.T if linear is not None else _scale(tangents, slope)
        return tangents

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """``Jᵀ c`` of each of k cotangents, shape (k, num_envs, out_dim) to (k, num_envs, in_dim)."""
        for linear, slope in reversed(self._layers):
            cotangents = cotangents @ linear.weight if linear is not None else _scale(cotangents, slope)
        return cotangents


def _scale(rows: torch.Tensor, slope: torch.Tensor | None) -> torch.Tensor:
    """``rows * slope``, in the memory of ``rows``, a fresh matrix product, where autograd does not need it."""
    assert slope is not None
    return rows * slope if torch.is_grad_enabled() else rows.mul_(slope)
