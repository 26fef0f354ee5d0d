"""Settings of the model-based learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from difftori_isaac.learners.config import check_above_zero, check_at_least, check_from_0_to_1


@dataclass(frozen=True, kw_only=True)
class ModelBasedConfig:
    """Settings of :class:`~difftori_isaac.learners.model_based.ModelBased`.

    What is set in environment steps counts those of all environments together, whatever their number.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    name: Literal["model_based"] = "model_based"
    """Learner: off-policy, from a replay buffer, with a plan as the policy."""
    num_steps_per_env: int = 8
    """Environment steps per environment and iteration."""
    total_env_steps: int = 500_000
    """Environment steps of the whole training."""
    seed_steps: int | None = None
    """Environment steps with uniformly random actions, before the first update; null is 2,500, but at least 50 of each
    environment, whose first rewards alone say little."""
    update_to_data: float = 1.0
    """Optimizer steps per collected environment step, as many as in TD-MPC2; fractions add up."""
    batch_size: int = 128
    """Sub-sequences per optimizer step."""
    plan_interval: int = 4
    """Optimizer steps from one plan loss to the next; the original takes one step through plans per episode."""
    plan_batch_size: int = 64
    """First observations of a batch that are planned for in the plan loss, at most ``batch_size``."""
    horizon: int = 5
    """Length of the sub-sequences on which the model is trained [steps]."""
    rho: float = 0.5
    """Decay of the loss weights along a sub-sequence."""
    discount: float | None = None
    """Discount γ of training and planning; null is 1 − 5/T of episodes of T steps, within 0.95 to 0.995 (TD-MPC2),
    or what a checkpoint was trained with."""
    td_lambda: float = 1.0
    """λ of the values' targets along a sub-sequence: 0 looks one step ahead, 1 to its end, ``horizon`` steps."""
    bootstrap: Literal["observation", "latent"] = "observation"
    """Critics that the targets of those on latent states bootstrap from: the ones on observations, which do not move
    with latent states, or, as in TD-MPC, their own slow copies."""
    reward_scale: float | None = None
    """Reward that counts as 1; null is the standard deviation of the rewards of the seed steps."""
    learning_rate: float = 1e-3
    """Learning rate of all networks."""
    encoder_lr_scale: float = 0.3
    """Factor on the learning rate of the encoder."""
    max_grad_norm: float = 20.0
    """Gradients of the model losses, and those of the plan loss, are each clipped to this norm."""
    tau: float = 0.02
    """Step of the target critics towards the critics."""
    target_update_interval: int = 1
    """Optimizer steps from one step of the target critics to the next."""
    consistency_coef: float = 2.0
    """Weight of ``‖next(z_t, a_t) − sg(encode(o_{t+1}))‖²``."""
    reward_coef: float = 0.5
    """Weight of the reward loss."""
    value_coef: float = 10.0
    """Weight of the temporal-difference loss of the critics on latent states, whose squared errors, in units of
    1/(1 − γ), are small beside the other losses."""
    prior_coef: float = 1.0
    """Weight of ``−Q(z, pi(z))``, which trains the prior alone."""
    plan_coef: float = 0.1
    """Weight of ``−min(Q_s1, Q_s2)(o, a*_0)``, which trains the whole model through the plan."""
    raw_value_coef: float = 1.0
    """Weight of the temporal-difference loss of Q_s, the critics on observations."""
    entropy_coef: float = 1e-4
    """Weight of the entropy of a Gaussian prior."""
    saturation_coef: float = 0.1
    """Weight of the squares of the prior's activations beyond ±2, where tanh is nearly flat."""
    exploration_std_start: float = 0.5
    """Standard deviation of the action noise at the start, of actions within −1 to 1."""
    exploration_std_end: float = 0.05
    """Standard deviation of the action noise from ``exploration_steps`` on, in the calmest environment."""
    exploration_std_end_max: float = 0.5
    """The same in the noisiest environment; the others lie evenly between the two (PQL, arXiv 2307.12983)."""
    exploration_steps: int = 15_000
    """Environment steps over which the action noise falls, linearly, the seed steps first."""
    exploration_correlation: float = 0.9
    """Correlation of the noise, and of the random actions of the seed steps, from one step to the next; 0 is white."""
    horizon_start: int = 1
    """Planning horizon at the start [steps], at most ``trajopt.horizon``."""
    horizon_steps: int = 15_000
    """Environment steps, counted in the same way, over which the planning horizon rises to ``trajopt.horizon``,
    linearly."""
    act_with: Literal["plan", "prior"] = "plan"
    """What acts in the environment: first planned actions, or the prior's."""
    action_scale: float = 1.0
    """What the environment is given for an action of 1, at most what it clips actions to."""
    buffer_capacity: int = 1_000_000
    """Environment steps that the replay buffer holds; on a CPU, memory is taken as it fills."""
    buffer_device: Literal["learner", "cpu"] = "learner"
    """Where the replay buffer lies: on the learner's device, or in host memory."""
    sampling: Literal["uniform", "prioritized"] = "uniform"
    """How sub-sequences are drawn: uniformly, or by their temporal-difference error."""
    priority_alpha: float = 0.6
    """Exponent of the priorities of ``sampling=prioritized``; 0 is uniform."""
    priority_beta: float = 0.4
    """Exponent of the importance weights of ``sampling=prioritized``."""
    dataset: str | None = None
    """HDF5 file of demonstrations, such as `scripts/collect_demos.py` writes, to replay beside what is collected; null
    is none."""
    demo_share: float = 0.5
    """Share of them in a batch (RLPD, arXiv 2302.02948)."""
    demo_coef: float = 10.0
    """Weight of ``‖pi(z) − a‖²``, which teaches the prior demonstrated actions."""
    save_replay: bool = False
    """Whether checkpoints hold the replay buffer; without it a resumed run collects ``seed_steps`` with its policy,
    or anew at random if it has not learned yet."""
    max_nonfinite_share: float = 0.1
    """Share of non-finite environments (observation, reward or plan) in one iteration above which training stops; above
    0, a single one of several never stops it."""
    obs_groups: dict[str, list[str]] | None = None
    """Observation groups of the set ``actor``; null is ``policy``, ``pixels`` and ``point_cloud``, as far as there
    are such."""

    def __post_init__(self) -> None:
        check_at_least(self, "learner", 1, "num_steps_per_env", "total_env_steps", "batch_size", "plan_batch_size")
        check_at_least(self, "learner", 1, "horizon", "target_update_interval", "horizon_start", "buffer_capacity")
        check_at_least(self, "learner", 1, "plan_interval")
        check_at_least(self, "learner", 0, "seed_steps", "exploration_steps", "horizon_steps", "entropy_coef")
        check_at_least(self, "learner", 0, "consistency_coef", "reward_coef", "value_coef", "prior_coef", "plan_coef")
        check_at_least(self, "learner", 0, "raw_value_coef", "saturation_coef", "exploration_std_start")
        check_at_least(self, "learner", 0, "exploration_std_end", "exploration_std_end_max", "encoder_lr_scale")
        check_at_least(self, "learner", 0, "max_nonfinite_share", "priority_alpha", "priority_beta", "demo_coef")
        check_above_zero(self, "learner", "update_to_data", "reward_scale", "learning_rate", "max_grad_norm")
        check_above_zero(self, "learner", "action_scale", "rho")
        check_from_0_to_1(self, "learner", "discount", "tau", "td_lambda")
        if not 0.0 <= self.exploration_correlation < 1.0:
            raise ValueError(
                f"learner.exploration_correlation is {self.exploration_correlation}; allowed: at least 0, below 1"
            )
        if not 0.0 < self.demo_share < 1.0:
            raise ValueError(f"learner.demo_share is {self.demo_share}; allowed: between 0 and 1")
        if self.dataset is not None and not 0 < self.num_shown < self.batch_size:
            raise ValueError(
                f"learner.demo_share is {self.demo_share}, {self.num_shown} of learner.batch_size = {self.batch_size}; "
                "allowed with learner.dataset: at least one and not all"
            )
        if self.dataset is not None and self.sampling == "prioritized":
            raise ValueError("learner.sampling is prioritized; allowed with learner.dataset: uniform")
        if self.plan_batch_size > self.batch_size:
            raise ValueError(
                f"learner.plan_batch_size is {self.plan_batch_size}; allowed: at most "
                f"learner.batch_size = {self.batch_size}"
            )

    @property
    def num_shown(self) -> int:
        """Demonstrated sub-sequences of a batch, the last ones."""
        return 0 if self.dataset is None else round(self.demo_share * self.batch_size)

    def seed_steps_for(self, num_envs: int) -> int:
        """Steps with random actions of all environments together."""
        return max(2_500, 50 * num_envs) if self.seed_steps is None else self.seed_steps

    def discount_for(self, episode_length: float) -> float:
        """The discount γ of episodes of ``episode_length`` steps (TD-MPC2, arXiv 2310.16828, appendix)."""
        if self.discount is not None:
            return self.discount
        return min(max(1.0 - 5.0 / episode_length, 0.95), 0.995)

    def exploration_std(self, env_steps: int) -> tuple[float, float]:
        """Standard deviations of the action noise after ``env_steps``, in the calmest and the noisiest environment."""
        start, done = self.exploration_std_start, min(env_steps / max(self.exploration_steps, 1), 1.0)
        calmest, noisiest = (
            start + done * (end - start) for end in (self.exploration_std_end, self.exploration_std_end_max)
        )
        return calmest, noisiest

    def planning_horizon(self, env_steps: int, horizon: int) -> int:
        """Planning horizon after ``env_steps``, at most ``horizon`` [steps]."""
        start, done = min(self.horizon_start, horizon), min(env_steps / max(self.horizon_steps, 1), 1.0)
        return start + int(done * (horizon - start))
