"""Settings of the encoders of images and point clouds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

ACTIVATIONS = (
    "elu",
    "selu",
    "relu",
    "crelu",
    "lrelu",
    "tanh",
    "sigmoid",
    "softplus",
    "gelu",
    "swish",
    "mish",
    "identity",
)
"""Activations in rsl_rl's names, which it takes in upper case too."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of :class:`~difftori_isaac.world_models.encoders.GroupEncoders`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    image_channels: tuple[int, ...] | None = None
    """Channels of the convolutions over images; null is those of the task's own CNN, or 16, 32 and 32."""
    image_kernels: tuple[int, ...] | None = None
    """Widths of their kernels [pixels]; null is those of the task's own CNN, or 5, 3 and 3."""
    image_strides: tuple[int, ...] | None = None
    """Their strides [pixels]; null is those of the task's own CNN, or 2 each."""
    image_activation: str | None = None
    """Activation after each of them, in rsl_rl's names; null is that of the task's own CNN, or relu."""
    point_dims: tuple[int, ...] = (32, 64)
    """Widths of the layers that the points of a cloud share; the maximum over the points is taken of the last."""
    point_activation: str = "elu"
    """Activation after each of them, in rsl_rl's names."""
    point_layer_norm: bool = False
    """Whether each of them is normalised before its activation."""
    point_out_dim: int | None = None
    """Width of a linear layer and its normalisation behind the maximum; null is neither."""

    def __post_init__(self) -> None:
        for name in ("image_channels", "image_kernels", "image_strides", "point_dims"):
            value = getattr(self, name)
            if value is not None and (not value or min(value) < 1):
                raise ValueError(f"encoders.{name} is {value}; allowed: one or more integers of at least 1")
        check_activations(self, "encoders", "image_activation", "point_activation")
        if self.point_out_dim is not None and self.point_out_dim < 1:
            raise ValueError(
                f"encoders.point_out_dim is {self.point_out_dim}; allowed: an integer of at least 1, or null"
            )
        lengths = {
            name: len(getattr(self, name) or ()) for name in ("image_channels", "image_kernels", "image_strides")
        }
        if len(set(lengths.values()) - {0}) > 1:
            given = ", ".join(f"encoders.{name} has {length}" for name, length in lengths.items() if length)
            raise ValueError(f"{given} entries; allowed: as many of each")

    def filled_from(self, cnn: Mapping[str, Any]) -> EncoderConfig:
        """This configuration with ``None`` replaced by the settings of an rsl_rl CNN, which may be empty."""
        channels = self.image_channels or tuple(cnn.get("output_channels") or (16, 32, 32))

        def per_layer(value: int | list[int]) -> tuple[int, ...]:
            return (value,) * len(channels) if isinstance(value, int) else tuple(value)

        default_kernels = [5] + [3] * (len(channels) - 1)
        return replace(
            self,
            image_channels=channels,
            image_kernels=self.image_kernels or per_layer(cnn.get("kernel_size") or default_kernels),
            image_strides=self.image_strides or per_layer(cnn.get("stride") or 2),
            image_activation=self.image_activation or cnn.get("activation") or "relu",
        )


def check_activations(config: object, section: str, *names: str) -> None:
    """Raise a ValueError if a setting is no activation of rsl_rl's."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value.lower() not in ACTIVATIONS:
            raise ValueError(f"{section}.{name} is {value!r}; allowed: {', '.join(ACTIVATIONS)}")
