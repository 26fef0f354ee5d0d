"""Model-based reinforcement learning in which the policy is a plan: DiffTORI (arXiv 2402.05421), vectorised."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from difftori_isaac.data import demonstrations
from difftori_isaac.learners.demo_replay import demo_replay, mixed
from difftori_isaac.learners.means import Means
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.observed import observed_groups
from difftori_isaac.learners.optimizer_step import OptimizerStep, StepKind
from difftori_isaac.learners.replay import ReplayBuffer, Replayed
from difftori_isaac.policies.plan_policy import PlanPolicy
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.td import TdWorldModel
from difftori_isaac.world_models.td_config import TdWorldModelConfig

AT_BOUND = 0.95
"""Size of an action from which on it counts as at its bound, which is 1."""

MOST_MADE_UP = 4.0
"""Most optimizer steps of an iteration, in those that its environment steps ask for: a signal waits for all of them."""


class ModelBased:
    """Plans for all environments at once, replays what they answered, and trains the model on it and on the plans.

    It has the surface of rsl_rl's PPO; what an optimizer step is, is :class:`OptimizerStep`'s.
    """

    def __init__(
        self,
        policy: PlanPolicy,
        replay: ReplayBuffer,
        config: ModelBasedConfig,
        *,
        groups: list[str],
        discount: float,
        device: torch.device | str,
    ) -> None:
        """Build the optimizer; see :func:`build_model_based`."""
        self.policy, self.replay, self.config = policy, replay, config
        self.groups, self.discount, self.device = groups, discount, torch.device(device)
        self.learning_rate = config.learning_rate
        self.seed_steps = self._random_until = config.seed_steps_for(replay.num_envs)
        self.env_steps, self.num_updates, self.updates_due = 0, 0, 0.0
        self._means = Means()
        self._step = OptimizerStep(policy, config, discount=discount, means=self._means)
        self._actions = torch.zeros(replay.num_envs, self.world_model.action_dim, device=self.device)
        self._noise = torch.zeros_like(self._actions)
        self._counts = self._count()
        self._demos: ReplayBuffer | None = None
        self._new_episodes = True
        self._follow_schedules()

    @property
    def world_model(self) -> TdWorldModel:
        """The model that plans are made with."""
        return self.policy.world_model

    @property
    def trains_through_plan(self) -> bool:
        """Whether plans have a gradient that reaches the model, and a loss that uses it."""
        trajopt = self.policy.layers[0].config
        return trajopt.train_through_plan and trajopt.solver != "mppi" and self.config.plan_coef > 0

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Actions with exploration noise, uniformly random ones during the seed steps, (num_envs, num_actions).

        The noise is a Gaussian process of order one: what lasts longer than a step takes a robot further.
        """
        obs, policy = self._select(obs), self.policy
        middle, reach = (policy.low + policy.high) / 2.0, (policy.high - policy.low) / 2.0
        new = torch.randn_like(self._noise)
        if self._new_episodes:
            self.replay.restart(obs)
            self._new_episodes, self._noise = False, new
        else:
            correlation = self.config.exploration_correlation
            self._noise = correlation * self._noise + (1.0 - correlation**2) ** 0.5 * new
        if self.env_steps < self._random_until:
            self._actions = middle + reach * torch.erf(self._noise / 2.0**0.5)
        else:
            actions = policy.action(obs)
            at_bound = (actions - middle).abs() > AT_BOUND * reach
            self._means.add(["actions_at_bound"], at_bound.float().mean()[None])
            self._actions = policy.bounded(actions + self._noise_std * self._noise)
        return policy.scale * self._actions

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: Mapping[str, Any]
    ) -> None:
        """Store what the environments answered to the last actions."""
        dones = dones.bool()
        none = torch.zeros_like(dones)
        skip = extras.get("nonfinite", none)
        final_obs = extras.get("final_obs")
        self.replay.add(
            self._actions,
            rewards,
            self._select(obs),
            dones=dones,
            truncated=extras.get("time_outs", none),
            final_obs=None if final_obs is None else self._select(final_obs),
            skip=skip,
        )
        self.env_steps += len(rewards)
        refilling = self.num_updates > 0 and len(self.replay) < self.seed_steps
        if not refilling:  # the steps before a resume have had their updates
            self.updates_due += self.config.update_to_data * len(rewards)
        self._follow_schedules()

    def compute_returns(self, obs: TensorDict) -> None:
        """Nothing: values are learned from replayed steps."""

    def update(self) -> dict[str, float]:
        """Take the optimizer steps that are due; mean losses, gradient norms and solver statistics."""
        count = 0
        if min(self.env_steps, len(self.replay)) >= max(self.seed_steps, 1):
            if self.num_updates == 0:
                self._set_rewards()
            count = self._take_due()
        for _ in range(count):
            self._update_once()
        self._counts = self._count()
        return (
            self._means.pop()
            | {"num_updates": float(self.num_updates), "replay_steps": float(len(self.replay))}
            | {name: getattr(self.world_model, name).item() for name in ("reward_scale", "value_unit")}
            | {"planning_horizon": float(self.policy.horizon)}
            | self.policy.statistics.pop()
        )

    def get_policy(self) -> PlanPolicy:
        """The policy without exploration noise."""
        return self.policy

    def train_mode(self) -> None:
        """Prepare for learning, and read the demonstrations unless that is done.

        Raises:
            ValueError: If they do not fit the environment.
        """
        self.policy.train()
        if self.config.dataset is not None and self._demos is None:
            self._demos = self._read_demonstrations(Path(self.config.dataset))

    def eval_mode(self) -> None:
        """Prepare for acting alone."""
        self.policy.eval()

    def save(self) -> dict[str, Any]:
        """Everything that learning goes on from, without the replay buffer unless ``save_replay``."""
        state = {
            "world_model_state_dict": self.world_model.state_dict(),
            "optimizer_state_dict": self._step.optimizer.state_dict(),
            "discount": self.discount,
            "critic_unit": self.world_model.critic_unit,
        }
        state |= self._counts  # of the last whole iteration
        return state | ({"replay": self.replay.state_dict()} if self.config.save_replay else {})

    def load(self, loaded_dict: Mapping[str, Any], load_cfg: Mapping[str, Any] | None, strict: bool) -> bool:
        """Restore what :meth:`save` gave; ``load_cfg`` may leave out the ``optimizer``. The replay buffer if saved.

        Without it, a learner that has taken no optimizer step yet begins its seed steps anew. Whatever the length of
        episodes is here, the discount stays unless one is given, and what critics give stays in its unit.
        """
        model = dict(loaded_dict["world_model_state_dict"])
        model.setdefault("action_middle", torch.zeros(self.world_model.action_dim))  # a prior used to know no bounds
        model.setdefault("action_reach", torch.ones(self.world_model.action_dim))
        self.world_model.load_state_dict(model, strict=strict)
        self.world_model.critic_unit = loaded_dict.get("critic_unit", self.world_model.critic_unit)
        if self.config.discount is None:
            self.discount = self._step.discount = loaded_dict.get("discount", self.discount)
            self.policy.discount_by(self.discount)
        if load_cfg is None or load_cfg.get("optimizer"):
            self._step.load_state_dict(loaded_dict["optimizer_state_dict"])
        self.env_steps, self.num_updates = loaded_dict["env_steps"], loaded_dict["num_updates"]
        self.updates_due, self._random_until = loaded_dict["updates_due"], self.seed_steps
        if self.config.save_replay and "replay" in loaded_dict:
            self.replay.load_state_dict(loaded_dict["replay"])
        elif self.num_updates == 0:
            self.updates_due, self._random_until = 0.0, self.env_steps + self.seed_steps
        self._counts = self._count()
        self._new_episodes = True
        self._follow_schedules()
        return True

    def _count(self) -> dict[str, float]:
        return {"env_steps": self.env_steps, "num_updates": self.num_updates, "updates_due": self.updates_due}

    def _take_due(self) -> int:
        """Optimizer steps to take now: those of the seed steps are made up for over several iterations."""
        added = self.config.update_to_data * self.config.num_steps_per_env * self.replay.num_envs
        count = int(min(self.updates_due, max(MOST_MADE_UP * added, 1.0)))
        self.updates_due -= count
        return count

    def _select(self, obs: TensorDict | Mapping[str, Any]) -> TensorDict:
        groups = {name: obs[name] for name in self.groups}
        return TensorDict(groups, [self.replay.num_envs]).to(self.device)

    def _follow_schedules(self) -> None:
        """Set exploration noise and planning horizon by the environment steps so far."""
        std = torch.linspace(*self.config.exploration_std(self.env_steps), self.replay.num_envs, device=self.device)
        self._noise_std = std[:, None]
        self.policy.output_std = (self.policy.scale * std.mean()).expand(self.world_model.action_dim)
        self.policy.horizon = self.config.planning_horizon(self.env_steps, len(self.policy.layers))

    def _set_rewards(self) -> None:
        """Tell the model the mean of the rewards so far, and their standard deviation or the given scale."""
        held = [buffer.rewards() for buffer in (self.replay, self._demos) if buffer is not None]
        rewards = torch.cat(held).double()
        mean = rewards.mean().nan_to_num(0.0)  # of no rewards if none was finite
        std = (rewards - mean).square().mean().sqrt()
        scale = torch.where(std > 1e-6, std, 1.0)
        if self.config.reward_scale is not None:
            scale = torch.full_like(scale, self.config.reward_scale)
        self.world_model.set_rewards(mean, scale)

    def _read_demonstrations(self, path: Path) -> ReplayBuffer:
        demos = demonstrations.read(path, self.groups)
        demonstrations.check_layouts(path, demos[0], self.replay.obs_like, self.world_model.action_dim)
        storage = self.replay.storage_device
        return demo_replay(demos, self.config.action_scale, device=self.device, storage_device=storage)

    def _sample(self, batch_size: int, length: int) -> Replayed:
        if self._demos is None:
            return self.replay.sample(batch_size, length)
        num_shown = self.config.num_shown
        return mixed(self.replay.sample(batch_size - num_shown, length), self._demos.sample(num_shown, length))

    def _update_once(self) -> None:
        config = self.config
        batch = self._sample(config.batch_size, config.horizon)
        kind = StepKind(
            self.learning_rate,
            self.policy.horizon,
            through_plan=self.trains_through_plan and self.num_updates % config.plan_interval == 0,
            move_targets=(self.num_updates + 1) % config.target_update_interval == 0,
        )
        td_error = self._step(batch, kind)
        self.num_updates += 1
        if self.replay.priority_alpha > 0:
            self.replay.update_priorities(batch.index, td_error)


def build_model_based(
    env: VecEnv,
    *,
    policy: str,
    trajopt: TrajOptConfig,
    world_model: TdWorldModelConfig,
    learner: ModelBasedConfig,
    device: str,
) -> ModelBased:
    """Build the model-based learner.

    Args:
        env: The environments, in rsl_rl's interface.
        policy: ``trajopt``.
        trajopt: Settings of the planner; it plans within −1 to 1 unless bounded.
        world_model: Settings of the model.
        learner: Settings of the learner.
        device: Device of the learner.

    Raises:
        ValueError: If a setting does not fit the others or the environment.
    """
    if policy != "trajopt":
        raise ValueError(f"policy is {policy!r}; allowed with learner=model_based: trajopt")
    obs = env.get_observations().to(device)
    groups = observed_groups(obs, learner.obs_groups)
    discount = learner.discount_for(float(env.max_episode_length))
    obs = obs.select(*groups)
    model = TdWorldModel(obs, groups, env.num_actions, world_model, return_unit=1.0 / (1.0 - min(discount, 0.995)))
    planner = PlanPolicy(model, trajopt, discount=discount, act_with=learner.act_with, scale=learner.action_scale)
    replay = ReplayBuffer(
        obs,
        env.num_actions,
        capacity=learner.buffer_capacity,
        device=device,
        storage_device="cpu" if learner.buffer_device == "cpu" else device,
        priority_alpha=learner.priority_alpha if learner.sampling == "prioritized" else 0.0,
        priority_beta=learner.priority_beta,
    )
    if (seed_steps := learner.seed_steps_for(env.num_envs)) > replay.num_rows * replay.num_envs:
        raise ValueError(
            f"learner.buffer_capacity is {learner.buffer_capacity}; allowed: at least learner.seed_steps, "
            f"here {seed_steps}, or nothing would ever be learned"
        )
    return ModelBased(planner.to(device), replay, learner, groups=groups, discount=discount, device=device)


def check_learnable(learner: ModelBasedConfig, env: VecEnv) -> None:
    """Look whether the learner can learn from what the environment gives.

    Raises:
        ValueError: If what is replayed would not be what was executed, or there is nothing to replay.
    """
    if learner.action_scale > (largest := getattr(env, "clip_actions", None) or inf):
        raise ValueError(
            f"learner.action_scale is {learner.action_scale}; allowed: at most {largest}, at which the environment "
            "clips actions, or what is replayed would not be what was executed"
        )
    if learner.horizon > env.max_episode_length:
        raise ValueError(
            f"learner.horizon is {learner.horizon}; allowed: at most {int(env.max_episode_length)}, the steps of an "
            "episode, or no sub-sequence would be as long"
        )
