"""Settings of the PPO learner. What is ``None`` is taken from the task's own rsl_rl configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from difftori_isaac.world_models.encoder_config import EncoderConfig, check_activations

_COEFS = ("consistency_coef", "reward_coef", "value_coef", "prior_coef")


@dataclass(frozen=True, kw_only=True)
class ModelLossConfig:
    """Weights and schedule of the world-model losses of :class:`~difftori_isaac.learners.ppo.TrajOptPPO`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    horizon: int = 3
    """Length of the sub-sequences on which the model is trained [steps]."""
    num_updates: int = 10
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
    """Weight of ``‖pi(z_0) − sg(a*_0)‖²``, which distils plans into the prior; above 0 it costs a solve per update."""
    train_encoder: bool = False
    """Whether these losses train the encoder too, or leave it to PPO's surrogate."""
    rho: float = 0.9
    """Decay of the loss weights along the sub-sequence."""

    def __post_init__(self) -> None:
        check_at_least(self, "learner.model_losses", 1, "horizon", "batch_size")
        check_at_least(self, "learner.model_losses", 0, "num_updates", *_COEFS)
        check_above_zero(self, "learner.model_losses", "learning_rate", "rho")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of PPO, in rsl_rl's names.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["ppo"] = "ppo"
    """Learner: on-policy, with rsl_rl's PPO."""
    num_steps_per_env: int | None = None
    """Environment steps per environment and iteration."""
    num_learning_epochs: int | None = None
    """Passes over the rollout per iteration."""
    num_mini_batches: int | None = None
    """Mini-batches of a pass."""
    clip_param: float | None = None
    """Clipping of the probability ratio, and of the value's change."""
    gamma: float | None = None
    """Discount of the return."""
    lam: float | None = None
    """λ of the generalised advantage estimate."""
    value_loss_coef: float | None = None
    """Weight of the critic's loss."""
    use_clipped_value_loss: bool | None = None
    """Whether the critic's loss is clipped."""
    entropy_coef: float | None = None
    """Weight of the entropy bonus."""
    learning_rate: float | None = None
    """Learning rate, at the start if the schedule is adaptive."""
    schedule: Literal["adaptive", "fixed"] | None = None
    """Whether the learning rate follows the KL divergence of an update."""
    desired_kl: float | None = None
    """KL divergence that the adaptive schedule aims at."""
    max_grad_norm: float | None = None
    """Gradients of actor and critic are clipped to this norm."""
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
    obs_groups: dict[str, list[str]] | None = None
    """Observation groups of the sets ``actor`` and ``critic``."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    """Encoders of images and point clouds, for the actor and, if it observes any, the critic."""
    max_nonfinite_share: float = 0.1
    """Share of non-finite environments (observation, reward or plan) in one iteration above which training stops; above
    0, a single one of several never stops it."""
    plan_lr_scale: float = 0.1
    """Factor on PPO's learning rate for dynamics, reward and value heads of ``policy=trajopt``."""
    model_losses: ModelLossConfig = field(default_factory=ModelLossConfig)
    """World-model losses of ``policy=trajopt``."""

    def __post_init__(self) -> None:
        check_at_least(self, "learner", 1, "num_steps_per_env", "num_learning_epochs", "num_mini_batches")
        check_at_least(self, "learner", 0, "value_loss_coef", "entropy_coef", "max_nonfinite_share", "plan_lr_scale")
        check_above_zero(self, "learner", "clip_param", "learning_rate", "desired_kl", "max_grad_norm", "init_std")
        check_from_0_to_1(self, "learner", "gamma", "lam")
        check_activations(self, "learner", "activation")
        for name in ("actor_hidden_dims", "critic_hidden_dims"):
            if (dims := getattr(self, name)) is not None and min(dims, default=0) < 1:
                raise ValueError(f"learner.{name} is {list(dims)}; allowed: widths of at least 1")

    def filled_from(self, settings: dict[str, Any]) -> PPOConfig:
        """This configuration with every ``None`` replaced by the task's setting or, where it has none, by a default.

        Args:
            settings: An rsl_rl runner configuration as a dictionary; may be empty.
        """
        actor, critic = settings.get("actor", {}), settings.get("critic", {})
        sets = settings.get("obs_groups") or {}  # a task may have more, for other algorithms of rsl_rl
        task = {
            "num_steps_per_env": settings.get("num_steps_per_env"),
            "obs_groups": {name: sets[name] for name in OBS_SETS if name in sets} or None,
            "init_std": actor.get("distribution_cfg", {}).get("init_std"),
            "actor_hidden_dims": actor.get("hidden_dims"),
            "critic_hidden_dims": critic.get("hidden_dims"),
            "activation": actor.get("activation"),
            "obs_normalization": actor.get("obs_normalization"),
        } | {name: settings.get("algorithm", {}).get(name) for name in ALGORITHM_SETTINGS}
        filled: dict[str, Any] = {}
        for name in task:
            if getattr(self, name) is None:
                value = task[name] if task[name] is not None else _DEFAULTS.get(name)
                filled[name] = tuple(value or ()) if name.endswith("hidden_dims") else value
        return replace(self, encoders=self.encoders.filled_from(actor.get("cnn_cfg") or {}), **filled)


def check_at_least(config: object, section: str, low: int, *names: str) -> None:
    """Raise a ValueError if a setting is below ``low``."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ValueError(f"{section}.{name} is {value}; allowed: at least {low}")


def check_from_0_to_1(config: object, section: str, *names: str) -> None:
    """Raise a ValueError if a setting is not within 0 to 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{section}.{name} is {value}; allowed: a number from 0 to 1")


def check_above_zero(config: object, section: str, *names: str) -> None:
    """Raise a ValueError if a setting is not above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{section}.{name} is {value}; allowed: above 0")


_DEFAULTS: dict[str, Any] = {
    "num_steps_per_env": 24,
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "clip_param": 0.2,
    "gamma": 0.99,
    "lam": 0.95,
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "entropy_coef": 0.005,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "desired_kl": 0.01,
    "max_grad_norm": 1.0,
    "init_std": 1.0,
    "actor_hidden_dims": (256, 128, 64),
    "critic_hidden_dims": (256, 128, 64),
    "activation": "elu",
    "obs_normalization": False,
}

OBS_SETS = ("actor", "critic")
"""Sets of observation groups: what acts, and what PPO's critic sees."""

ALGORITHM_SETTINGS = (
    "num_learning_epochs",
    "num_mini_batches",
    "clip_param",
    "gamma",
    "lam",
    "value_loss_coef",
    "use_clipped_value_loss",
    "entropy_coef",
    "learning_rate",
    "schedule",
    "desired_kl",
    "max_grad_norm",
)
"""Settings that rsl_rl's PPO takes as arguments of these names."""
