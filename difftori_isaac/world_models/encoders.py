"""Encoders of observation groups that are not flat: convolutions over images, a PointNet over point clouds."""

from __future__ import annotations

from itertools import pairwise

import torch
from rsl_rl.modules import CNN
from tensordict import TensorDict, TensorDictBase
from torch import nn

from difftori_isaac.world_models.activations import activation_layer
from difftori_isaac.world_models.encoder_config import EncoderConfig


class ImageEncoder(nn.Module):
    """Convolutions over images, flattened. Channels last: on a CPU that takes less than half of the time."""

    def __init__(self, shape: torch.Size, config: EncoderConfig) -> None:
        """Size the convolutions for images of ``shape`` (channels, height, width).

        Raises:
            ValueError: If the images are too small for the convolutions.
        """
        super().__init__()
        config = config.filled_from({})
        assert config.image_channels and config.image_kernels and config.image_strides and config.image_activation
        channels, height, width = shape
        for kernel, stride in zip(config.image_kernels, config.image_strides, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if min(height, width) < 1:
                raise ValueError(
                    f"images of {shape[1]} × {shape[2]} pixels are too small for convolutions with kernels of "
                    f"{config.image_kernels} and strides of {config.image_strides}; allowed: larger images, smaller "
                    "kernels or strides"
                )
        self.out_dim = config.image_channels[-1] * height * width
        self.cnn = CNN(
            (shape[1], shape[2]),
            channels,
            config.image_channels,
            config.image_kernels,
            config.image_strides,
            activation=config.image_activation,
        )
        self.cnn.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (not in torch's overloads)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features, shape (*batch, out_dim), of images, shape (*batch, channels, height, width); uint8 is scaled."""
        batch, images = images.shape[:-3], images.flatten(0, -4)
        values = images.to(torch.float32, memory_format=torch.channels_last)
        if images.dtype == torch.uint8:
            values = values.div_(255.0).sub_(0.5)
        return self.cnn(values).unflatten(0, batch)


class PointNet(nn.Module):
    """The maximum over a cloud of features of each point, whatever the points' order (arXiv 1612.00593).

    With normalised layers and one behind the maximum it is DP3's encoder (arXiv 2403.03954, section 3.2).
    """

    def __init__(self, point_dim: int, config: EncoderConfig) -> None:
        """Build the network of a point with ``point_dim`` coordinates."""
        super().__init__()
        layers: list[nn.Module] = []
        for in_dim, out_dim in pairwise((point_dim, *config.point_dims)):
            layers += [nn.Linear(in_dim, out_dim)]
            layers += [nn.LayerNorm(out_dim)] if config.point_layer_norm else []
            layers += [activation_layer(config.point_activation)]
        self.net = nn.Sequential(*layers)
        self.out_dim = config.point_out_dim or config.point_dims[-1]
        self.head = nn.Identity()
        if config.point_out_dim:
            self.head = nn.Sequential(nn.Linear(config.point_dims[-1], self.out_dim), nn.LayerNorm(self.out_dim))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Features, shape (*batch, out_dim), of clouds, shape (*batch, num_points, point_dim)."""
        return self.head(self.net(points).amax(dim=-2))


class GroupEncoders(nn.ModuleDict):
    """One encoder for each observation group that is not flat.

    A group's shape says what it is: (num_envs, dim) is flat, (num_envs, num_points, point_dim) a point cloud and
    (num_envs, channels, height, width) an image.
    """

    def __init__(self, obs: TensorDict, groups: list[str], config: EncoderConfig) -> None:
        """Size the encoders of ``groups`` for ``obs``, batch size (num_envs,).

        Raises:
            ValueError: If a group has another shape, or is a dictionary.
        """
        super().__init__()
        self.flat = [name for name in groups if obs[name].ndim == 2]
        """Groups that need no encoder."""
        self.out_dim = 0
        """Width of the features of all other groups together."""
        for name in groups:
            if isinstance(obs[name], TensorDictBase):
                raise ValueError(
                    f"observation group {name} is a dictionary of terms ({', '.join(obs[name].keys())}); allowed: one "
                    "tensor, which the group's concatenate_terms=true makes of them"
                )
            shape = obs[name].shape[1:]
            if len(shape) == 1:
                continue
            if len(shape) == 2:
                encoder = PointNet(shape[-1], config)
            elif len(shape) == 3:
                encoder = ImageEncoder(shape, config)
            else:
                raise ValueError(
                    f"observation group {name} has shape {tuple(shape)}; "
                    "allowed: (dim,), (num_points, point_dim) or (channels, height, width)"
                )
            self[name] = encoder
            self.out_dim += encoder.out_dim

    def forward(self, obs: TensorDict) -> list[torch.Tensor]:
        """Features of each group, shape (*batch_size, features)."""
        return [encoder(obs[name]) for name, encoder in self.items()]


def random_shift(images: torch.Tensor, pad: int) -> torch.Tensor:
    """Images shifted by up to ``pad`` pixels each way, their border repeated (DrQ, arXiv 2004.13649).

    Args:
        images: Shape (batch, time, channels, height, width); all images of a sequence are shifted alike.
        pad: Largest shift [pixels].
    """
    batch, _, _, height, width = images.shape
    shifts = torch.randint(-pad, pad + 1, (2, batch, 1), device=images.device)
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return images[index, :, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 4, 1, 2)
