"""Settings of the world model of the model-based learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from difftori_isaac.world_models.config import SMOOTH_ACTIVATIONS

HeadName = Literal["scalar", "two_hot", "residual"]


@dataclass(frozen=True, kw_only=True)
class TdWorldModelConfig:
    """Settings of a :class:`~difftori_isaac.world_models.td.TdWorldModel`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["td"] = "td"
    """World model trained by temporal differences."""
    latent_dim: int = 32
    """Width of the latent state z."""
    encoder_dims: tuple[int, ...] = (64,)
    """Hidden widths of the encoder of flat observations."""
    hidden_dims: tuple[int, ...] = (64, 64)
    """Hidden widths of dynamics, reward, critics and prior."""
    activation: str = "swish"
    """Activation of all networks: swish, elu, gelu, mish, softplus or tanh."""
    layer_norm: bool = False
    """Whether activations come after a layer normalisation, as in TD-MPC2."""
    latent_norm: Literal["none", "simnorm"] = "none"
    """Normalisation of latent states: none, or a softmax over each group of ``simnorm_dim`` components."""
    simnorm_dim: int = 8
    """Components of a group of ``latent_norm=simnorm``."""
    raw_critic_dims: tuple[int, ...] | None = None
    """Hidden widths of the critics on observations, which no plan passes through; if not given, ``hidden_dims``."""
    raw_critic_layer_norm: bool | None = None
    """Whether these have layer normalisations; if not given, as ``layer_norm``."""
    num_q: int = 2
    """Critics Q(z, a): plans and prior follow the first two, targets of ``learner.bootstrap=latent`` any two."""
    reward_head: HeadName = "residual"
    """How the reward is predicted: a number, a distribution over ``num_bins``, or ``r_max − ½‖φ‖²``."""
    value_head: HeadName = "residual"
    """How Q(z, a) is predicted: a number, a distribution over ``num_bins``, or ``q_max − ½‖ψ‖²``."""
    num_residuals: int = 4
    """Residuals of a ``residual`` head."""
    num_bins: int = 101
    """Bins of a ``two_hot`` head."""
    vmin: float = -10.0
    """Value of the first bin, in symmetric logarithms."""
    vmax: float = 10.0
    """Value of the last bin, in symmetric logarithms."""
    head_scale: float = 0.1
    """Factor on the last layers of the reward head and the critics at the start: first plans are near the prior."""
    prior: Literal["deterministic", "gaussian"] = "deterministic"
    """Policy prior: an action, or a squashed Gaussian of maximum entropy."""
    log_std_min: float = -10.0
    """Smallest logarithm of the standard deviation of a Gaussian prior."""
    log_std_max: float = 2.0
    """Largest logarithm of the standard deviation of a Gaussian prior."""
    value_scale: Literal["percentile", "none"] = "percentile"
    """Unit of the planner's cost: the range from the 5th to the 95th percentile of Q (at least 1), or 1."""
    pixel_channels: int = 32
    """Channels of the convolutions over images, such as the observation group ``pixels``."""
    pixel_kernels: tuple[int, ...] = (8, 4, 3)
    """Widths of their kernels [pixels]; those of TD-MPC, 7, 5, 3 and 3 with strides of 2, take 2.6 times as long."""
    pixel_strides: tuple[int, ...] = (4, 2, 2)
    """Their strides [pixels]."""
    pixel_dim: int = 50
    """Features of an image, behind the convolutions and a layer normalisation."""
    pixel_shift: int = 4
    """Largest random shift of the images of an update [pixels]."""

    def __post_init__(self) -> None:
        for name in ("latent_dim", "simnorm_dim", "num_residuals", "pixel_channels", "pixel_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"world_model.{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        for name in ("num_q", "num_bins"):
            if getattr(self, name) < 2:
                raise ValueError(f"world_model.{name} is {getattr(self, name)}; allowed: an integer of at least 2")
        if self.pixel_shift < 0:
            raise ValueError(f"world_model.pixel_shift is {self.pixel_shift}; allowed: an integer of at least 0")
        for name in ("encoder_dims", "hidden_dims", "raw_critic_dims", "pixel_kernels", "pixel_strides"):
            if any(width < 1 for width in getattr(self, name) or ()):
                raise ValueError(f"world_model.{name} is {getattr(self, name)}; allowed: integers of at least 1")
        if not self.pixel_kernels or len(self.pixel_kernels) != len(self.pixel_strides):
            raise ValueError(
                f"world_model.pixel_kernels is {self.pixel_kernels} and world_model.pixel_strides is "
                f"{self.pixel_strides}; allowed: as many of each, at least one"
            )
        for name in ("reward_head", "value_head"):
            if getattr(self, name) not in get_args(HeadName):
                allowed = ", ".join(get_args(HeadName))
                raise ValueError(f"world_model.{name} is {getattr(self, name)!r}; allowed: {allowed}")
        if self.activation not in SMOOTH_ACTIVATIONS:
            raise ValueError(
                f"world_model.activation is {self.activation!r}; allowed: {', '.join(SMOOTH_ACTIVATIONS)} "
                "(the gradient through a plan needs second derivatives)"
            )
        if self.latent_norm == "simnorm" and self.latent_dim % self.simnorm_dim:
            raise ValueError(
                f"world_model.latent_dim is {self.latent_dim}; allowed with latent_norm=simnorm: a multiple of "
                f"world_model.simnorm_dim = {self.simnorm_dim}"
            )
        for low, high in (("vmin", "vmax"), ("log_std_min", "log_std_max")):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f"world_model.{low} is {getattr(self, low)} and world_model.{high} is {getattr(self, high)}; "
                    f"allowed: {low} below {high}"
                )
        if not self.head_scale > 0.0:
            raise ValueError(
                f"world_model.head_scale is {self.head_scale}; allowed: above 0 (at 0 residual heads never learn)"
            )
