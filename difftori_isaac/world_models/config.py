"""Settings of a latent world model."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTH_ACTIVATIONS = ("swish", "elu", "gelu", "mish", "softplus", "tanh")


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Settings of a :class:`~difftori_isaac.world_models.latent.LatentWorldModel`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    latent_dim: int = 32
    """Width of the latent state z."""
    encoder_hidden_dims: tuple[int, ...] = (64,)
    """Hidden widths of the encoder."""
    hidden_dims: tuple[int, ...] = (64,)
    """Hidden widths of dynamics, reward and value heads."""
    prior_hidden_dims: tuple[int, ...] = (64,)
    """Hidden widths of the policy prior."""
    num_residuals: int = 4
    """Residuals of the reward head and of the terminal-value head."""
    activation: str = "swish"
    """Activation of every network: swish (the fastest on a CPU), elu, gelu, mish, softplus or tanh."""
    head_scale: float = 0.1
    """Factor on the last layers of dynamics, reward and value heads at the start: first plans are near the prior."""

    def __post_init__(self) -> None:
        for name in ("latent_dim", "num_residuals"):
            if getattr(self, name) < 1:
                raise ValueError(f"world_model.{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        for name in ("encoder_hidden_dims", "hidden_dims", "prior_hidden_dims"):
            if not getattr(self, name) or any(width < 1 for width in getattr(self, name)):
                raise ValueError(
                    f"world_model.{name} is {getattr(self, name)}; allowed: one or more widths of at least 1"
                )
        if self.activation not in SMOOTH_ACTIVATIONS:
            raise ValueError(
                f"world_model.activation is {self.activation!r}; allowed: {', '.join(SMOOTH_ACTIVATIONS)} "
                "(the gradient through a plan needs second derivatives)"
            )
        if not self.head_scale > 0.0:
            raise ValueError(
                f"world_model.head_scale is {self.head_scale}; allowed: above 0 (at 0 the heads never learn)"
            )
