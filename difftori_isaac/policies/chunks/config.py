"""Settings of the baselines that sample chunks of actions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Settings of :class:`~difftori_isaac.policies.chunks.diffusion.DiffusionHead`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    training_steps: int = 100
    """Noise levels that the network learns."""
    steps: int = 10
    """Denoising steps of an action, at most ``training_steps``."""
    embedding_dim: int = 32
    """Width of the embedding of the noise level, an even number."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.training_steps:
            raise ValueError(
                f"learner.diffusion.steps is {self.steps} and learner.diffusion.training_steps is "
                f"{self.training_steps}; allowed: integers of at least 1, steps at most training_steps"
            )
        if self.embedding_dim < 4 or self.embedding_dim % 2:
            raise ValueError(
                f"learner.diffusion.embedding_dim is {self.embedding_dim}; allowed: an even integer of at least 4"
            )


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """Settings of :class:`~difftori_isaac.policies.chunks.energy.EnergyHead`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    num_negatives: int = 64
    """Random chunks that each demonstrated one is told apart from."""
    num_samples: int = 512
    """Chunks among which an action is searched."""
    iterations: int = 3
    """Rounds of the search."""
    noise_std: float = 0.33
    """Standard deviation of the noise on the chunks of the second round, of actions within −1 to 1."""
    noise_shrink: float = 0.5
    """Factor on it from one round to the next."""

    def __post_init__(self) -> None:
        for name in ("num_negatives", "num_samples", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.ibc.{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        for name in ("noise_std", "noise_shrink"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"learner.ibc.{name} is {getattr(self, name)}; allowed: above 0")
