"""Settings of the networks of imitation policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from difftori_isaac.world_models.config import SMOOTH_ACTIVATIONS
from difftori_isaac.world_models.encoder_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class ChunkModelConfig:
    """Settings of the networks of :mod:`~difftori_isaac.policies.chunks`, and of what its plans are optimised against.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["chunk"] = "chunk"
    """A learned cost of whole chunks of actions, without dynamics; trained on demonstrations."""
    hidden_dims: tuple[int, ...] = (256, 256)
    """Hidden widths of all networks."""
    activation: str = "swish"
    """Activation of all networks: swish, elu, gelu, mish, softplus or tanh."""
    latent_dim: int = 0
    """Width of the latent variable of ``policy=trajopt``, which tells demonstrations apart that do different things in
    the same state (a conditional VAE); 0 is none."""
    denoising_std: float = 0.5
    """Standard deviation of the noise on demonstrated chunks, of actions within ±1, that residuals there are to be."""
    base: Literal["zero", "regression", "diffusion"] = "regression"
    """Prior plan of ``policy=trajopt``: zeros, or the chunk of another head on the same features, as ``policy=mlp`` or
    ``policy=diffusion`` has it."""
    encoders: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(
            point_dims=(64, 128), point_activation="relu", point_layer_norm=True, point_out_dim=64
        )
    )
    """Encoders of images and point clouds; the latter is DP3's with fewer units (arXiv 2403.03954)."""
    pixel_shift: int = 4
    """Largest random shift of the images of an update [pixels]."""

    def __post_init__(self) -> None:
        if isinstance(self.encoders, dict):
            object.__setattr__(self, "encoders", EncoderConfig(**self.encoders))
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(f"world_model.hidden_dims is {self.hidden_dims}; allowed: widths of at least 1")
        if self.activation not in SMOOTH_ACTIVATIONS:
            raise ValueError(
                f"world_model.activation is {self.activation!r}; allowed: {', '.join(SMOOTH_ACTIVATIONS)} "
                "(the gradient through a plan needs second derivatives)"
            )
        if self.denoising_std < 0:
            raise ValueError(f"world_model.denoising_std is {self.denoising_std}; allowed: at least 0")
        if self.pixel_shift < 0:
            raise ValueError(f"world_model.pixel_shift is {self.pixel_shift}; allowed: an integer of at least 0")
        if self.latent_dim < 0:
            raise ValueError(f"world_model.latent_dim is {self.latent_dim}; allowed: an integer of at least 0")
