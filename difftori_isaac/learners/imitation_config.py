"""Settings of the imitation learner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from difftori_isaac.learners.config import check_above_zero, check_at_least
from difftori_isaac.policies.chunks.config import DiffusionConfig, EnergyConfig


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """Settings of :class:`~difftori_isaac.learners.imitation.Imitation`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["imitation"] = "imitation"
    """Learner: from demonstrations alone; what the environment answers is measured and not learned from."""
    dataset: str | None = None
    """HDF5 file of demonstrations, of robomimic's layout; `scripts/collect_demos.py` writes one."""
    num_demos: int | None = None
    """Demonstrations to learn from, the first ones of the file; null is all."""
    validation_share: float = 0.1
    """Share of the demonstrations, the last ones, that are held back to measure ``validation_error``; 0 is none."""
    num_steps_per_env: int = 8
    """Environment steps per environment and iteration, to measure the return."""
    total_updates: int = 5_000
    """Optimizer steps of the whole training."""
    num_updates: int = 200
    """Optimizer steps per iteration."""
    batch_size: int = 128
    """Chunks per optimizer step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls to 0 along a cosine over ``total_updates``."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm."""
    base_coef: float = 1.0
    """Weight of the loss of the prior plan of ``policy=trajopt``; 0 leaves its head and the encoders as they are."""
    base_checkpoint: str | None = None
    """Checkpoint, or run directory, of a ``policy=mlp`` or ``diffusion`` whose chunk the prior plan of
    ``policy=trajopt`` starts as, with its encoders and units; null learns it anew."""
    denoising_coef: float = 1.0
    """Weight of the error of the residuals of ``policy=trajopt`` at noisy chunks."""
    divergence_coef: float = 0.03
    """Weight of the divergence of the latent variable of ``policy=trajopt`` from its prior; the original's is 0.003."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Settings of ``policy=diffusion``."""
    ibc: EnergyConfig = field(default_factory=EnergyConfig)
    """Settings of ``policy=ibc``."""
    max_nonfinite_share: float = 0.1
    """Share of non-finite environments (observation, reward or plan) in one iteration above which training stops; above
    0, a single one of several never stops it."""
    obs_groups: dict[str, list[str]] | None = None
    """Observation groups of the set ``actor``; null is ``policy``, ``pixels`` and ``point_cloud``, as far as there
    are such."""

    def __post_init__(self) -> None:
        for name, settings in (("diffusion", DiffusionConfig), ("ibc", EnergyConfig)):
            if isinstance(value := getattr(self, name), dict):
                object.__setattr__(self, name, settings(**value))
        check_at_least(self, "learner", 1, "num_demos", "num_steps_per_env", "total_updates", "num_updates")
        check_at_least(self, "learner", 1, "batch_size")
        check_at_least(self, "learner", 0, "base_coef", "denoising_coef", "divergence_coef", "max_nonfinite_share")
        check_above_zero(self, "learner", "learning_rate", "max_grad_norm")
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(f"learner.validation_share is {self.validation_share}; allowed: at least 0, below 1")
