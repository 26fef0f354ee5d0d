"""Parts of a temporal-difference world model: encoders and heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from tensordict import TensorDict
from torch import nn
from torch.nn import functional as F

from difftori_isaac.world_models.activations import activation_layer
from difftori_isaac.world_models.encoder_config import EncoderConfig
from difftori_isaac.world_models.encoders import GroupEncoders, ImageEncoder, PointNet
from difftori_isaac.world_models.td_config import HeadName, TdWorldModelConfig

ROOM = 2.0
"""What a residual head can predict above where it starts, in its unit."""


def network(in_dim: int, hidden_dims: Iterable[int], out_dim: int, config: TdWorldModelConfig) -> nn.Sequential:
    """Linear layers with, between them, the layer normalisation and the activation of ``config``."""
    layers: list[nn.Module] = []
    for width in hidden_dims:
        layers.append(nn.Linear(in_dim, width))
        if config.layer_norm:
            layers.append(nn.LayerNorm(width))
        layers.append(activation_layer(config.activation))
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


class Features(nn.Module):
    """Observation groups as one vector: flat groups as they are, then the features of images and point clouds.

    Those of images come through a trunk, as in DrQ (arXiv 2004.13649). Convolutions start from Kaiming's weights and
    without biases: with torch's, features of four layers are all but the same for every image.
    """

    def __init__(self, obs: TensorDict, groups: list[str], config: TdWorldModelConfig) -> None:
        """Size the encoders for ``obs``, batch size (num_envs,)."""
        super().__init__()
        images = EncoderConfig(
            image_channels=(config.pixel_channels,) * len(config.pixel_kernels),
            image_kernels=config.pixel_kernels,
            image_strides=config.pixel_strides,
        )
        self.encoders = GroupEncoders(obs, groups, images)
        self.trunks = nn.ModuleDict()
        widths = [obs[name].shape[1] for name in self.encoders.flat]
        for name, encoder in self.encoders.items():
            if isinstance(encoder, ImageEncoder):
                encoder.cnn.init_weights()
                linear, norm = nn.Linear(encoder.out_dim, config.pixel_dim), nn.LayerNorm(config.pixel_dim)
                self.trunks[name] = nn.Sequential(linear, norm, nn.Tanh())
                widths.append(config.pixel_dim)
            else:
                self.trunks[name] = nn.Identity()
                widths.append(cast("PointNet", encoder).out_dim)
        self.out_dim = sum(widths)

    def forward(self, obs: TensorDict) -> torch.Tensor:
        """Shape (*batch_size, out_dim)."""
        encoded = zip(self.trunks.values(), self.encoders(obs), strict=True)
        return torch.cat([*(obs[name] for name in self.encoders.flat), *(trunk(x) for trunk, x in encoded)], dim=-1)


def symlog(x: torch.Tensor) -> torch.Tensor:
    """Symmetric logarithm ``sign(x) log(1 + |x|)``."""
    return x.sign() * x.abs().log1p()


def symexp(x: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(x: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Probabilities, shape (*x.shape, num_bins), on the two bins around ``symlog(x)``, whose mean it is."""
    width = bins[1] - bins[0]
    place = ((symlog(x).clamp(bins[0], bins[-1]) - bins[0]) / width)[..., None]
    return (1.0 - (place - torch.arange(len(bins), dtype=x.dtype, device=x.device)).abs()).clamp(min=0.0)


class Head(nn.Module):
    """A network that predicts a number: as it is, as a distribution over bins, or as a maximum less squares.

    What is predicted is ``unit`` times a number of order one, except from bins, whose range is logarithmic.
    """

    bins: torch.Tensor

    def __init__(self, in_dim: int, kind: HeadName, config: TdWorldModelConfig, *, unit: float) -> None:
        """Build the network for inputs of width ``in_dim``."""
        super().__init__()
        self.kind, self.unit = kind, 1.0 if kind == "two_hot" else unit
        out_dim = {"scalar": 1, "two_hot": config.num_bins, "residual": config.num_residuals}[kind]
        self.net = network(in_dim, config.hidden_dims, out_dim, config)
        self.maximum = nn.Parameter(torch.zeros(())) if kind == "residual" else None
        self.register_buffer("bins", torch.linspace(config.vmin, config.vmax, config.num_bins), persistent=False)
        with torch.no_grad():
            for parameter in self.net[-1].parameters():
                parameter.mul_(config.head_scale)

    @torch.no_grad()
    def start_at(self, value: torch.Tensor) -> None:
        """Predict ``value``, in this head's unit, from a network that has learned nothing yet.

        Residuals start so that their maximum is ``ROOM`` above. Where it would start below what there is to predict,
        residuals would first shrink to zero, where they have no gradient, and the encoder would learn nothing. Bins,
        whose range is logarithmic, stay as they are.
        """
        bias = cast("nn.Linear", self.net[-1]).bias
        if self.kind == "scalar":
            bias.fill_(value)
        if self.maximum is not None:
            self.maximum.copy_(value + ROOM)
            bias.fill_((2.0 * ROOM / len(bias)) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network gives: a number, logits or residuals, shape (*batch, out_dim)."""
        return self.net(x)

    def normalized(self, output: torch.Tensor) -> torch.Tensor:
        """Prediction of ``output`` in this head's unit, shape (*batch,)."""
        if self.kind == "two_hot":
            return symexp((output.softmax(dim=-1) * self.bins).sum(dim=-1))
        if self.maximum is None:
            return output[..., 0]
        return self.maximum - 0.5 * output.square().sum(dim=-1)

    def value(self, output: torch.Tensor) -> torch.Tensor:
        """Prediction of ``output``, shape (*batch,)."""
        return self.unit * self.normalized(output)

    def loss(self, output: torch.Tensor, target: torch.Tensor, *, robust: bool = False) -> torch.Tensor:
        """Squared error in this head's unit, or cross entropy, of the shape of ``target``.

        A ``robust`` error is linear beyond one unit (twice Huber's loss, 1964), so that rare large targets do not rule.
        """
        if self.kind == "two_hot":
            return -(two_hot(target, self.bins) * output.log_softmax(dim=-1)).sum(dim=-1)
        predicted, target = self.normalized(output), target / self.unit
        return 2.0 * F.huber_loss(predicted, target, reduction="none") if robust else (predicted - target).square()


class RawCritics(nn.Module):
    """Twin critics Q_s on observations instead of latent states, which judge plans without trusting the model.

    Images they see through the features that the encoder sees them through too, as in DrQ (arXiv 2004.13649).
    """

    def __init__(self, in_dim: int, config: TdWorldModelConfig, *, return_unit: float) -> None:
        """Build the networks for features and actions of width ``in_dim`` together."""
        super().__init__()
        dims, layer_norm = config.raw_critic_dims, config.raw_critic_layer_norm
        config = replace(
            config,
            hidden_dims=config.hidden_dims if dims is None else dims,
            layer_norm=config.layer_norm if layer_norm is None else layer_norm,
        )
        self.heads = nn.ModuleList(Head(in_dim, config.value_head, config, unit=return_unit) for _ in range(2))

    @property
    def twins(self) -> list[Head]:
        """The two critics."""
        return cast("list[Head]", list(self.heads))

    def outputs(self, features: torch.Tensor, a: torch.Tensor) -> list[tuple[Head, torch.Tensor]]:
        """Both heads and what they give, shape (*batch, out_dim)."""
        x = torch.cat((features, a), dim=-1)
        return [(head, head(x)) for head in self.twins]

    def forward(self, features: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """The smaller value, shape (*batch,)."""
        first, second = (head.value(output) for head, output in self.outputs(features, a))
        return torch.minimum(first, second)
