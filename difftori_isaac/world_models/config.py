"""Settings of a latent world model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

SMOOTH_ACTIVATIONS = ("swish", "elu", "gelu", "mish", "softplus", "tanh")
"""Activations with the second derivatives that the gradient through a plan needs; swish is the fastest on a CPU."""


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Settings of a :class:`~difftori_isaac.world_models.latent.LatentWorldModel`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["latent"] = "latent"
    """World model whose reward and value are squared residuals, trained on rollouts."""
    encoder_dims: tuple[int, ...] | None = None
    """Widths of the encoder's layers, the last one being the latent state z; null is those of the task's PPO-MLP."""
    encoder_activation: str | None = None
    """Activation after each of the encoder's layers; null is that of the task's PPO-MLP."""
    prior_hidden_dims: tuple[int, ...] = ()
    """Hidden widths of the policy prior; empty is linear, so that encoder and prior together are the PPO-MLP."""
    hidden_dims: tuple[int, ...] | None = None
    """Hidden widths of the dynamics; null is one layer as wide as the latent state."""
    head_hidden_dims: tuple[int, ...] | None = ()
    """Hidden widths of reward and value heads; empty makes residuals linear, the cost quadratic; null: hidden_dims."""
    num_residuals: int = 4
    """Residuals of the reward head and of the terminal-value head."""
    activation: str = "swish"
    """Activation of dynamics, reward and value heads: swish, elu, gelu, mish, softplus or tanh."""
    head_scale: float = 0.1
    """Factor on the last layers of dynamics, reward and value heads at the start: first plans are near the prior."""

    def __post_init__(self) -> None:
        if self.num_residuals < 1:
            raise ValueError(f"world_model.num_residuals is {self.num_residuals}; allowed: an integer of at least 1")
        for name in ("encoder_dims", "prior_hidden_dims", "hidden_dims", "head_hidden_dims"):
            if any(width < 1 for width in getattr(self, name) or ()):
                raise ValueError(f"world_model.{name} is {getattr(self, name)}; allowed: widths of at least 1")
        if self.encoder_dims == ():
            raise ValueError("world_model.encoder_dims is (); allowed: one or more widths, or null")
        for name in ("encoder_activation", "activation"):
            if getattr(self, name) not in (*SMOOTH_ACTIVATIONS, None):
                raise ValueError(
                    f"world_model.{name} is {getattr(self, name)!r}; allowed: {', '.join(SMOOTH_ACTIVATIONS)} "
                    "(the gradient through a plan needs second derivatives)"
                )
        if not self.head_scale > 0.0:
            raise ValueError(
                f"world_model.head_scale is {self.head_scale}; allowed: above 0 (at 0 the heads never learn)"
            )

    def filled_from(self, hidden_dims: tuple[int, ...], activation: str) -> WorldModelConfig:
        """This configuration with ``None`` replaced by the layers of a PPO-MLP.

        An activation without second derivatives is replaced by swish.
        """
        encoder_dims = self.encoder_dims or tuple(hidden_dims)
        dynamics_dims = encoder_dims[-1:] if self.hidden_dims is None else self.hidden_dims
        return replace(
            self,
            encoder_dims=encoder_dims,
            encoder_activation=self.encoder_activation or (activation if activation in SMOOTH_ACTIVATIONS else "swish"),
            hidden_dims=dynamics_dims,
            head_hidden_dims=dynamics_dims if self.head_hidden_dims is None else self.head_hidden_dims,
        )
