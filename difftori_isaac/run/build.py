"""From a configuration to what it names: device, environment, learner."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from difftori_isaac.run.config import RunConfig
from difftori_isaac.run.errors import ConfigError

if TYPE_CHECKING:
    from rsl_rl.algorithms import PPO

    from difftori_isaac.envs.isaaclab import IsaacLabVecEnv, VideoRequest

CPU_NUM_ENVS = 512
"""Environments on CPU unless asked otherwise. A step with a robot arm costs about 36 ms plus 0.24 ms per environment:
with 512, a quarter of it does not depend on their number, and an iteration still takes seconds."""


def resolve_device(device: str) -> str:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine.

    Raises:
        ConfigError: If there is no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if count else "cpu"
    if not device.startswith("cuda"):
        return device
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        there = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(f"device is {device}, but torch sees {count} CUDA devices; allowed here: {there}")
    return f"cuda:{index}"


def resolve_task_name(task: str) -> str:
    """The one name of a task that runs are filed under: its alias, or its gym id.

    Raises:
        ConfigError: If there is no such task; the message lists close matches.
    """
    from difftori_isaac.envs.registry import resolve_task

    try:
        info = resolve_task(task)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return info.alias or info.id


def seed_everything(seed: int) -> None:
    """Seeds torch, CUDA, numpy and python, and makes cuDNN deterministic."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def make_environment(config: RunConfig, *, video: VideoRequest | None = None) -> IsaacLabVecEnv:
    """Seeds everything and builds the environment of a configuration.

    Raises:
        ConfigError: If Isaac Lab refuses an override, or cannot reach an asset.
    """
    from difftori_isaac.envs.isaaclab import make_env
    from difftori_isaac.envs.registry import resolve_task

    seed_everything(config.seed)
    num_envs = config.num_envs or (CPU_NUM_ENVS if config.device == "cpu" else None)
    try:
        return make_env(
            resolve_task(config.task).id,
            num_envs=num_envs,
            device=config.device,
            seed=config.seed,
            overrides=config.env_overrides,
            video=video,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def fill_from_task[C: RunConfig](config: C, settings: Mapping[str, Any]) -> C:
    """Replaces PPO settings that are None by those of the task's rsl_rl configuration."""
    learner = config.learner.filled_from(dict(settings))
    world_model = config.world_model.filled_from(learner.actor_hidden_dims or (), learner.activation or "")
    return replace(config, learner=learner, world_model=world_model)


def make_learner(config: RunConfig, env: IsaacLabVecEnv) -> PPO:
    """Builds the policy and its learner for an environment.

    Raises:
        ConfigError: If the policy cannot be built with these settings.
    """
    from difftori_isaac.learners.ppo import build_ppo

    try:
        return build_ppo(
            env,
            policy=config.policy,
            trajopt=config.trajopt,
            world_model=config.world_model,
            learner=config.learner,
            device=config.device,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def load_learner(alg: PPO, state: dict[str, Any], learning_rate: float, origin: object) -> None:
    """Puts a saved state into a learner.

    Raises:
        ConfigError: If the state is of another architecture.
    """
    try:
        alg.load(state, None, True)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"checkpoint {origin} does not fit the policy of this configuration ({reason}); "
            "allowed: the same policy, world_model and network settings as it was saved with"
        ) from None
    alg.learning_rate = learning_rate
