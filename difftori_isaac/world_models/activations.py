"""Smooth activations and their first two derivatives in closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sqrt
from typing import Any, NamedTuple

import torch
from rsl_rl.utils import resolve_nn_activation
from torch import nn
from torch.nn import functional as F


class Mish(nn.Module):
    """``x tanh(softplus(x))`` in operations that :mod:`torch.func` maps over a batch, which torch's own is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the shape of ``x``."""
        return x * F.softplus(x).tanh()


def activation_layer(name: str) -> nn.Module:
    """The activation layer of one of rsl_rl's names."""
    return Mish() if name == "mish" else resolve_nn_activation(name)


class Activation(NamedTuple):
    """An elementwise function σ."""

    value_and_slope: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """``x`` to ``σ(x)`` and ``σ'(x)``."""
    curvature: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    """``x``, ``σ(x)`` and ``σ'(x)`` to ``σ''(x)``."""
    settings: Mapping[str, Any] = {}
    """Attributes that its layer has to have."""


def is_known(layer: nn.Module) -> bool:
    """Whether a layer is an activation with derivatives here."""
    activation = _ACTIVATIONS.get(type(layer))
    return activation is not None and all(getattr(layer, key) == value for key, value in activation.settings.items())


def value_and_slope(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``σ(x)`` and ``σ'(x)`` of an activation layer, of the shape of ``x``; differentiable when autograd records."""
    if torch.is_grad_enabled():
        return _ValueAndSlope.apply(x, _ACTIVATIONS[type(layer)])
    return _ACTIVATIONS[type(layer)].value_and_slope(x)


def curvature(layer: nn.Module, x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """``σ''(x)`` of an activation layer, of the shape of ``x``, given ``σ(x)`` and ``σ'(x)``."""
    return _ACTIVATIONS[type(layer)].curvature(x, value, slope)


class _ValueAndSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = activation.value_and_slope(x)
        ctx.save_for_backward(x, value, slope)
        ctx.activation = activation
        return value, slope

    @staticmethod
    def backward(ctx: Any, value_grad: torch.Tensor, slope_grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, value, slope = ctx.saved_tensors
        return torch.addcmul(value_grad * slope, slope_grad, ctx.activation.curvature(x, value, slope)), None


def _swish(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s = torch.sigmoid(x)
    value = x * s
    return value, torch.addcmul(s + value, value, s, value=-1.0)


def _swish_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return torch.addcmul(s, s, s, value=-1.0) * torch.add(x + 2.0, value, alpha=-2.0)


def _elu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = F.elu(x)
    return value, (value + 1.0).clamp_(max=1.0)


def _elu_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0.0, 0.0, slope)


def _gelu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    probability = 0.5 * torch.erfc(x * -sqrt(0.5))
    return x * probability, torch.addcmul(probability, x, _density(x))


def _gelu_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return (2.0 - x * x) * _density(x)


def _density(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * x * x) / sqrt(2.0 * pi)


def _mish(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.tanh(F.softplus(x))
    return x * t, torch.addcmul(t, x, (1.0 - t * t) * torch.sigmoid(x))


def _mish_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    t, s = torch.tanh(F.softplus(x)), torch.sigmoid(x)
    return (1.0 - t * t) * s * (2.0 + x * (1.0 - s - 2.0 * t * s))


def _softplus(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return F.softplus(x), torch.sigmoid(x)


def _softplus_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return slope - slope * slope


def _tanh(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = torch.tanh(x)
    return value, 1.0 - value * value


def _tanh_curvature(x: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return -2.0 * value * slope


_ACTIVATIONS = {
    nn.SiLU: Activation(_swish, _swish_curvature),
    nn.ELU: Activation(_elu, _elu_curvature, {"alpha": 1.0}),
    nn.GELU: Activation(_gelu, _gelu_curvature, {"approximate": "none"}),
    Mish: Activation(_mish, _mish_curvature),
    nn.Softplus: Activation(_softplus, _softplus_curvature, {"beta": 1.0, "threshold": 20.0}),
    nn.Tanh: Activation(_tanh, _tanh_curvature),
}
