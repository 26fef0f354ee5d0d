"""Settings of the PPO learner. What is ``None`` is taken from the task's own rsl_rl configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelLossConfig:
    """Weights and schedule of the world-model losses of :class:`~difftori_isaac.learners.ppo.TrajOptPPO`."""

    horizon: int = 3
    """Length of the sub-sequences on which the model is trained [steps]."""
    num_updates: int = 0
    """Optimizer steps on the model losses per iteration; 0 trains the model through the plan alone."""
    batch_size: int = 1024
    """Sub-sequences per optimizer step."""
    learning_rate: float = 3e-4
    """Learning rate of the model losses."""
    consistency_coef: float = 1.0
    """Weight of ``‖next(z_t, a_t) − sg(encode(o_{t+1}))‖²``."""
    reward_coef: float = 1.0
    """Weight of the reward loss."""
    value_coef: float = 1.0
    """Weight of the terminal-value loss on the λ-returns."""
    prior_coef: float = 0.0
    """Weight of the distillation of the plan's first action into the prior."""
    rho: float = 0.9
    """Decay of the loss weights along the sub-sequence."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of PPO, in rsl_rl's names."""

    num_steps_per_env: int | None = None
    """Environment steps per environment and iteration."""
    num_learning_epochs: int | None = None
    num_mini_batches: int | None = None
    clip_param: float | None = None
    gamma: float | None = None
    lam: float | None = None
    value_loss_coef: float | None = None
    use_clipped_value_loss: bool | None = None
    entropy_coef: float | None = None
    learning_rate: float | None = None
    schedule: Literal["adaptive", "fixed"] | None = None
    desired_kl: float | None = None
    max_grad_norm: float | None = None
    init_std: float | None = None
    """Standard deviation of the action noise at the start, in the units of the action."""
    actor_hidden_dims: tuple[int, ...] | None = None
    """Hidden widths of the actor of ``policy=mlp``."""
    critic_hidden_dims: tuple[int, ...] | None = None
    """Hidden widths of the critic."""
    activation: str | None = None
    """Activation of the critic and of the actor of ``policy=mlp``."""
    obs_normalization: bool | None = None
    """Whether observations are normalised by their running mean and standard deviation."""
    max_nonfinite_share: float = 0.1
    """Share of environments with a non-finite observation, reward or plan in one iteration above which training stops."""
    model_losses: ModelLossConfig = field(default_factory=ModelLossConfig)
    """World-model losses of ``policy=trajopt``."""
