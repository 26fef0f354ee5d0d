"""Multi-layer perceptrons, and derivatives of networks along many directions at once, by plain matrix products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from difftori_isaac.trajopt.problem import Along, Derivatives, WeightGradients
from difftori_isaac.world_models.activations import activation_layer, curvature, is_known, value_and_slope
from difftori_isaac.world_models.normalization import LayerNormAt, SimNorm, SimNormAt


def mlp(in_dim: int, hidden_dims: Iterable[int], out_dim: int, activation: str) -> nn.Sequential:
    """Linear layers with an activation of rsl_rl's names between them; without hidden layers, one linear layer."""
    dims = [in_dim, *hidden_dims, out_dim]
    layers: list[nn.Module] = []
    for i in range(len(dims) - 1):
        layers += [nn.Linear(dims[i], dims[i + 1]), activation_layer(activation)]
    return nn.Sequential(*layers[:-1])


class LinearizedMLP:
    """A network at some inputs: its value, and its Jacobian as products with stacks of vectors.

    Automatic differentiation gives the same numbers several times slower, because it maps every operation over the
    stack; here a layer is one matrix product for the whole stack. Differentiable when autograd records.
    """

    def __init__(self, network: nn.Sequential, inputs: torch.Tensor) -> None:
        """Evaluate linear layers, activations and normalisations at ``inputs``, shape (num_envs, in_dim)."""
        self._layers: list[_LayerAt] = []
        if network._forward_hooks or network._forward_pre_hooks:
            raise _unknown(network)
        for layer in network:
            self._layers.append(_at(layer, inputs))
            inputs = self._layers[-1].value
        self.value = inputs
        """Output, shape (num_envs, out_dim)."""

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """``J t`` of each of k tangents, shape (k, num_envs, in_dim) to (k, num_envs, out_dim)."""
        for layer in self._layers:
            tangents = layer.push(tangents)
        return tangents

    def push_first(self, tangents: torch.Tensor) -> torch.Tensor:
        """``J t`` of k tangents of the first inputs, shape (k, num_envs, d), then of a unit one of each other input.

        The first layer has to be linear: unit tangents are columns of its weight there. The shape of the result is
        (k + in_dim - d, num_envs, out_dim).
        """
        first, *layers = self._layers
        of_first, of_rest = cast("_LinearAt", first).weight.T.tensor_split((tangents.shape[2],))
        tangents = torch.cat((tangents @ of_first, of_rest[:, None].expand(-1, tangents.shape[1], -1)))
        for layer in layers:
            tangents = layer.push(tangents)
        return tangents

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """``Jᵀ c`` of each of k cotangents, shape (k, num_envs, out_dim) to (k, num_envs, in_dim)."""
        for layer in reversed(self._layers):
            cotangents = layer.pull(cotangents)
        return cotangents

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along:
        """See :class:`~difftori_isaac.trajopt.problem.Derivatives`; pulls back to all inputs."""
        pulls = []
        for layer in self._layers:
            tangent, pull = layer.along(grads, tangent)
            pulls.append(pull)

        def pull_all(rows: torch.Tensor) -> torch.Tensor:
            for pull in reversed(pulls):
                rows = pull(rows)
            return rows

        return Along(tangent, pull_all)


def step_derivatives(network: nn.Sequential, z: torch.Tensor, a: torch.Tensor, *, residual: bool) -> Derivatives:
    """Derivatives of ``network(z, a)``, to which z is added if ``residual``, by states and actions."""
    net, sizes = LinearizedMLP(network, torch.cat((z, a), dim=-1)), (z.shape[-1], a.shape[-1])

    def push(z_rows: torch.Tensor) -> torch.Tensor:
        rows = net.push_first(z_rows)
        if residual:
            rows[: len(z_rows)] += z_rows
        return rows

    def pull(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z_rows, a_rows = net.pull(rows).split(sizes, dim=-1)
        return rows + z_rows if residual else z_rows, a_rows

    def along(grads: WeightGradients, z_tangent: torch.Tensor, a_tangent: torch.Tensor) -> Along:
        tangent, pull_all = net.along(grads, torch.cat((z_tangent, a_tangent), dim=-1))

        def pull_z(rows: torch.Tensor) -> torch.Tensor:
            z_rows = pull_all(rows)[..., : sizes[0]]
            return rows + z_rows if residual else z_rows

        return Along(z_tangent + tangent if residual else tangent, pull_z)

    return Derivatives(z + net.value if residual else net.value, push, pull, along)


class _LayerAt(Protocol):
    value: torch.Tensor

    def push(self, tangents: torch.Tensor) -> torch.Tensor: ...

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor: ...

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along: ...


class _LinearAt:
    def __init__(self, x: torch.Tensor, layer: nn.Linear) -> None:
        self.value, self._x = F.linear(x, layer.weight, layer.bias), x
        self.weight, self._bias = layer.weight, layer.bias

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        return tangents @ self.weight.T

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        return cotangents @ self.weight

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along:
        def pull(rows: torch.Tensor) -> torch.Tensor:
            grads[self.weight].addmm_(rows[0].T, self._x).addmm_(rows[1].T, tangent)
            if self._bias is not None:
                grads[self._bias].add_(rows[0].sum(dim=0))
            return rows @ self.weight

        return Along(tangent @ self.weight.T, pull)


class _ActivationAt:
    def __init__(self, x: torch.Tensor, layer: nn.Module) -> None:
        self.value, self._slope = value_and_slope(layer, x)
        self._layer, self._x = layer, x

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """In the memory of ``tangents``, which the layer beside it has made, where autograd does not need them."""
        return tangents * self._slope if torch.is_grad_enabled() else tangents.mul_(self._slope)

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        return self.push(cotangents)

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along:
        """In the memory of ``tangent`` and of what is pulled."""
        bend = tangent * curvature(self._layer, self._x, self.value, self._slope)

        def pull(rows: torch.Tensor) -> torch.Tensor:
            rows[0].mul_(self._slope).addcmul_(rows[1], bend)
            rows[1].mul_(self._slope)
            return rows

        return Along(tangent.mul_(self._slope), pull)


def _at(layer: nn.Module, x: torch.Tensor) -> _LayerAt:
    """The layer at ``x``; of exactly these kinds, as computed weights and hooks make another one of it."""
    if not (layer._forward_hooks or layer._forward_pre_hooks):
        if type(layer) is nn.Linear:
            return _LinearAt(x, layer)
        if type(layer) is nn.LayerNorm and layer.bias is not None:
            return LayerNormAt(x, layer.weight, layer.bias, layer.eps)
        if type(layer) is SimNorm:
            return SimNormAt(x, layer.dim)
        if is_known(layer):
            return _ActivationAt(x, layer)
    raise _unknown(layer)


def _unknown(layer: nn.Module) -> ValueError:
    return ValueError(
        f"the model has a layer {str(layer).splitlines()[0]}, whose derivatives are not known; allowed: nn.Linear, "
        "nn.LayerNorm, SimNorm, nn.SiLU, nn.ELU, nn.GELU, Mish, nn.Softplus and nn.Tanh with default settings and no "
        "hooks, or a model with next, stage_residual and terminal_residual alone, which is differentiated automatically"
    )
