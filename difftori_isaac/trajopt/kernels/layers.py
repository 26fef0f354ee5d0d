"""Torch networks as kernels see them: pointers to parameters, which are not copied, and to intermediate values."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from difftori_isaac.trajopt.kernels.network import ACTIVATIONS, MAX_LAYERS

_ACTIVATIONS = [str(getattr(nn, name)()) for name in ACTIVATIONS]


class Layers(NamedTuple):
    """Linear layers with one activation between them."""

    parameters: tuple[torch.Tensor, ...]
    """Weight and bias of each linear layer in turn."""
    activation: int
    """Index of the activation in ``network.ACTIVATIONS``; that of a single layer has no meaning."""

    @property
    def widths(self) -> list[int]:
        """Width of the inputs and of every layer's output."""
        weights = self.parameters[::2]
        return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]

    def tape(self, inputs: torch.Tensor, outputs_grad: torch.Tensor, keep: bool) -> Tape:
        """Memory for an evaluation at ``inputs``, shape (times, num_envs, at least widths[0]).

        Args:
            inputs: What is evaluated, row by row.
            outputs_grad: Where the gradient for the outputs will be, shape (times, num_envs, widths[-1]).
            keep: Whether there will be a gradient; otherwise the times share their memory.
        """
        shape = (len(inputs) if keep else 1, inputs.shape[1])
        hidden = [inputs.new_empty(*shape, width) for width in self.widths[1:-1]]
        slopes = [torch.empty_like(values) for values in hidden] if keep else []
        grads = [torch.empty_like(values) for values in hidden] if keep else []
        return Tape(self, [inputs, *hidden], slopes, [*grads, outputs_grad])


class Tape(NamedTuple):
    """Intermediate values of a network at every time, shape (times, num_envs, width) each."""

    layers: Layers
    """The network."""
    values: list[torch.Tensor]
    """Inputs, then what every hidden layer's activation returns."""
    slopes: list[torch.Tensor]
    """Derivatives of the activations."""
    grads: list[torch.Tensor]
    """Gradient for the output of every linear layer."""

    def fill(self, network: Any) -> Any:
        """The structure of :mod:`~difftori_isaac.trajopt.kernels.network`, filled."""
        weights, biases = self.layers.parameters[::2], self.layers.parameters[1::2]
        network.num_layers = len(weights)
        network.num_envs = self.values[0].shape[1]
        network.activation = self.layers.activation
        network.widths = _padded(self.layers.widths)
        network.strides = _padded([*(values.stride(1) for values in self.values), self.grads[-1].stride(1)])
        network.weights = _pointers(weights)
        network.biases = _pointers(biases)
        network.values = _pointers(self.values)
        network.slopes = _pointers(self.slopes, first=1)
        network.grads = _pointers(self.grads, first=1 + len(weights) - len(self.grads))
        return network

    def parameter_grads(self) -> list[torch.Tensor]:
        """Gradients of ``layers.parameters``, each the product of two matrices over all times and environments."""
        result = []
        for values, grad, width in zip(self.values, self.grads, self.layers.widths, strict=False):
            grad = grad.flatten(0, 1)
            result += [grad.T @ values[..., :width].flatten(0, 1), grad.sum(dim=0)]
        return result


def layers_of(model: Any, name: str, like: torch.Tensor) -> Layers:
    """The network ``name`` of a model.

    Raises:
        ValueError: If it has other layers than the kernels know, or another type or device than ``like``.
    """
    network = getattr(model, name, None)
    modules = list(network) if isinstance(network, nn.Sequential) else [network]
    linear = [module for module in modules[::2] if type(module) is nn.Linear and module.bias is not None]
    activations = {str(module) for module in modules[1::2]}
    if (
        not isinstance(network, nn.Sequential)
        or len(modules) != 2 * len(linear) - 1
        or not 1 <= len(linear) <= MAX_LAYERS
        or len(activations) > 1
        or not activations <= set(_ACTIVATIONS)
    ):
        raise ValueError(
            f"{name} of the model ({type(model).__name__}) is {', '.join(map(str, modules))}; "
            f"allowed with trajopt.latent_kernel=warp: 1 to {MAX_LAYERS} Linear with bias, between them one of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    parameters = tuple(tensor.contiguous() for module in linear for tensor in (module.weight, module.bias))
    for tensor in parameters:
        if (tensor.dtype, tensor.device) != (like.dtype, like.device):
            raise ValueError(
                f"{name} of the model has parameters of type {tensor.dtype} on {tensor.device}; "
                f"allowed: {like.dtype} on {like.device}, as the states"
            )
    return Layers(parameters, _ACTIVATIONS.index(activations.pop()) if activations else 0)


def _padded(numbers: list[int]) -> list[int]:
    return numbers + [0] * (MAX_LAYERS + 1 - len(numbers))


def _pointers(tensors: Any, first: int = 0) -> list[int]:
    """Addresses of tensors from the index ``first`` on."""
    return _padded([0] * first + [tensor.data_ptr() for tensor in tensors])
