"""What scripts that only act share: a policy from a checkpoint, or one that needs none, in an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run import build, locate
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.checkpoint import Checkpoint
from difftori_isaac.run.compose import Overrides, compose, compose_before_checkpoint
from difftori_isaac.run.config import VARIANTS, PlayConfig, RolloutConfig, shared_keys
from difftori_isaac.run.errors import ConfigError

if TYPE_CHECKING:
    from tensordict import TensorDict

    from difftori_isaac.envs.vec_env import VecEnv

Policy = Callable[["TensorDict"], torch.Tensor]

OWN = ("num_envs", "device", "seed", "run_dir")
"""Keys that a script does not take from the training."""

WITHOUT_CHECKPOINT = ("random", "zero", "expert")
"""Policies that are not learned."""

OF_CHECKPOINT = ("checkpoint", "run_dir", "trajopt", *VARIANTS)
"""Keys, and sections of keys, that say nothing about such policies."""

MAX_NUM_ENVS = 4096
"""Environments on CUDA unless asked otherwise."""


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from."""

    checkpoint: Checkpoint
    path: Path

    @property
    def run_dir(self) -> Path | None:
        """Run directory of the checkpoint, if it lies in one."""
        return locate.run_dir_of(self.path)


def configure[C: RolloutConfig](schema: type[C], overrides: Overrides) -> tuple[C, Origin | None]:
    """The configuration of a script, and the checkpoint of its policy: None for those that are not learned.

    What the policy was trained with is taken from the checkpoint, then what the user gave.

    Raises:
        ConfigError: If a setting, or two together, cannot be; or if there is no such checkpoint.
    """
    compose_before_checkpoint(schema, overrides)  # refuses bad values before anything is looked for
    policy = overrides.get("policy") or schema.policy
    if policy in WITHOUT_CHECKPOINT:
        for key in overrides.values:
            if key.partition(".")[0] in OF_CHECKPOINT and overrides.get(key) is not None:
                file = "video_path" if issubclass(schema, PlayConfig) else "output"
                hint = f"; {file}=<file> says where to write" if key == "run_dir" else ""
                raise ConfigError(f"policy={policy} has no checkpoint; leave {key}= out{hint}")
        return _resolved(compose(schema, overrides)), None
    task = overrides.get("task")
    task = None if task is None else build.resolve_task_name(task)
    path = locate.find_checkpoint(
        overrides.get("checkpoint") or schema.checkpoint,
        run_dir=overrides.get("run_dir"),
        task=task,
        policy=policy,
        key="checkpoint",
    )
    checkpoint = checkpoints.load(path)
    saved = {key: value for key, value in shared_keys(checkpoint.config, schema).items() if key not in OWN}
    for key, asked in (("task", task), ("policy", overrides.get("policy"))):
        if asked is not None and asked != saved[key]:
            raise ConfigError(f"{key} is {asked}, but {path} was trained with {saved[key]}; leave {key}= out")
    return _resolved(compose(schema, overrides, saved)), Origin(checkpoint, path)


def with_num_envs[C: RolloutConfig](config: C, num_episodes: int) -> C:
    """With one environment for each episode, at most the default of training, unless their number is given."""
    most = build.default_num_envs(config.task, config.device) or MAX_NUM_ENVS
    return replace(config, num_envs=config.num_envs or min(num_episodes, most))


def episodes_per_env(num_episodes: int, num_envs: int) -> list[int]:
    """How many episodes of each environment count: the same number up to one, as short ones would count more."""
    share, rest = divmod(num_episodes, num_envs)
    return [share + (index < rest) for index in range(num_envs)]


def _resolved[C: RolloutConfig](config: C) -> C:
    return replace(config, task=build.resolve_task_name(config.task), device=build.resolve_device(config.device))


def make_policy(config: RolloutConfig, env: VecEnv, origin: Origin | None) -> Policy:
    """The deterministic policy of a checkpoint; uniform actions in [-1, 1]; zeros; or the task's expert.

    Raises:
        ConfigError: If the policy does not fit the environment.
    """
    shape = (env.num_envs, env.num_actions)
    if origin is None:
        if config.policy == "expert":
            expert = env.expert
            if expert is None:
                raise ConfigError(
                    f"policy is expert, but {config.task} has none; allowed: Lift, LiftPointCloud, tasks of MetaWorld "
                    "and those with a difftori_expert_entry_point"
                )
            return expert
        if config.policy == "zero":
            return lambda obs: torch.zeros(shape, device=config.device)
        return lambda obs: 2 * torch.rand(shape, device=config.device) - 1
    if isinstance(config.learner, ModelBasedConfig):  # nothing is replayed where nobody learns
        small = {"seed_steps": 0, "buffer_capacity": 4 * env.num_envs, "buffer_device": "learner", "save_replay": False}
        if config.trajopt.horizon != origin.checkpoint.config["trajopt"]["horizon"]:
            small["horizon_steps"] = 0  # what was asked for, and not what the schedule has arrived at
        config = replace(config, learner=replace(config.learner, **small))
    alg = build.make_learner(config, env)
    build.load_learner(alg, origin.checkpoint.learner, origin.checkpoint.learning_rate, origin.path)
    env.load_state_dict(origin.checkpoint.env)
    alg.eval_mode()
    return alg.get_policy()


def reset(config: RolloutConfig, env: VecEnv) -> TensorDict:
    """Resets all environments, to the same start for every policy with the same seed, and holds their curricula."""
    build.seed_everything(config.seed)
    env.hold_curricula()
    obs, _ = env.reset()
    return obs
