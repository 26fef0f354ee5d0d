"""From a configuration to what it names: device, environment, learner."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from difftori_isaac.data import demonstrations
from difftori_isaac.learners.config import PPOConfig
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run.config import VARIANTS, RunConfig
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.results import flat

if TYPE_CHECKING:
    from difftori_isaac.envs.vec_env import VecEnv, VideoRequest
    from difftori_isaac.learners.learner import Learner
    from difftori_isaac.run.checkpoint import Checkpoint

CPU_NUM_ENVS = 512
"""Isaac Lab's environments on CPU unless asked otherwise. A step with a robot arm costs about 36 ms plus 0.24 ms per
environment: with 512, a quarter of it does not depend on their number, and an iteration still takes seconds."""


class Fitting(NamedTuple):
    """What a learner can train."""

    policies: tuple[str, ...]
    """Values of ``policy``."""
    world_model: str
    """Form of the world model."""
    world_model_files: str
    """Files of configs/world_model of that form."""


FITTING = {
    "ppo": Fitting(("trajopt", "mlp"), "latent", "latent"),
    "model_based": Fitting(("trajopt",), "td", "td, td_wide, td_large, difftori, tdmpc2"),
    "imitation": Fitting(("trajopt", "mlp", "diffusion", "ibc"), "chunk", "chunk"),
}
"""By the names of the learners."""

USED = {
    "actor.class_name": ("MLPModel", "CNNModel"),
    "actor.distribution_cfg.class_name": ("GaussianDistribution",),
    "actor.distribution_cfg.std_type": ("scalar",),
    "critic.class_name": ("MLPModel", "CNNModel"),
    "algorithm.optimizer": ("adam",),
}
"""Settings of rsl_rl of which only these values are used."""

TOTALS = ("learner.total_env_steps", "learner.total_updates")
"""Settings of what a learner does in all, which :func:`default_iterations` follows from."""

SHARES = ("num_envs", "learner.num_steps_per_env", "learner.num_updates")
"""Settings of what an iteration does of it."""


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


def load_task_defaults(task: str) -> dict[str, Any]:
    """What a task sets for itself.

    Raises:
        ConfigError: If there is no such task, or what it sets cannot be read.
    """
    from difftori_isaac.envs.registry import open_simulator

    name = resolve_task_name(task)
    try:
        settings = open_simulator(name).load_task_defaults(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if (dotted := _dotted_key(settings)) is not None:
        raise ConfigError(f"task {name} sets {dotted[0]!r} itself, a key with dots; allowed: {dotted[1]}")
    for section, types in VARIANTS.items():
        forms = [form().name for form in types]
        given = settings.get(section, {})
        if not isinstance(given, Mapping) or given.get("name", forms[0]) not in forms:
            raise ConfigError(
                f"task {name} sets {section} to {given!r} itself; allowed: keys with values, and among them a name: "
                f"{', '.join(forms)}"
            )
    return settings


def _dotted_key(settings: Mapping[Any, Any]) -> tuple[str, str] | None:
    """The first key with dots, ``a.b: 1``, and how it is written instead, ``a: {b: 1}``; None if there is none."""
    for key, value in settings.items():
        *sections, name = str(key).split(".")
        if sections:
            opened = "".join(f"{section}: {{" for section in sections)
            return str(key), f"{opened}{name}: {value}{'}' * len(sections)}"
        if isinstance(value, Mapping) and (found := _dotted_key(value)) is not None:
            return found
    return None


def load_ppo_settings(task: str) -> dict[str, Any]:
    """The task's rsl_rl configuration as a plain dictionary, empty if it has none.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    from difftori_isaac.envs.registry import open_simulator

    try:
        return open_simulator(task).load_ppo_settings(task)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def seed_everything(seed: int) -> None:
    """Seeds torch, CUDA, numpy and python, and makes cuDNN deterministic."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def default_num_envs(task: str, device: str) -> int | None:
    """Environments unless asked otherwise; None is the task's own number."""
    from difftori_isaac.envs import dm_control_tasks, metaworld_tasks
    from difftori_isaac.envs.registry import resolve_task

    others = {"dm_control": dm_control_tasks.DEFAULT_NUM_ENVS, "metaworld": metaworld_tasks.DEFAULT_NUM_ENVS}
    if (simulator := resolve_task(task).simulator) in others:
        return others[simulator]
    return CPU_NUM_ENVS if device == "cpu" else None


def make_environment(config: RunConfig, *, video: VideoRequest | None = None, viewer_port: int | None = None) -> VecEnv:
    """Seeds everything and builds the environment of a configuration.

    Raises:
        ConfigError: If the simulator refuses a setting, or cannot reach an asset.
    """
    from difftori_isaac.envs.registry import open_simulator, resolve_task

    seed_everything(config.seed)
    try:
        return open_simulator(config.task).make_env(
            resolve_task(config.task).id,
            num_envs=config.num_envs or default_num_envs(config.task, config.device),
            device=config.device,
            seed=config.seed,
            overrides=config.env_overrides,
            video=video,
            viewer_port=viewer_port,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def fill_from_task[C: RunConfig](config: C, settings: Mapping[str, Any]) -> C:
    """Replaces settings of PPO that are None by those of the task's rsl_rl configuration.

    Raises:
        ConfigError: If the learner cannot train the policy or the world model, or has nothing to learn from.
    """
    learner, world_model, fitting = config.learner, config.world_model, FITTING[config.learner.name]
    if config.policy not in fitting.policies:
        allowed = ", ".join(f"policy={name}" for name in fitting.policies)
        raise ConfigError(f"policy is {config.policy!r}; allowed with learner={learner.name}: {allowed}")
    if (config.policy == "trajopt" or learner.name == "imitation") and world_model.name != fitting.world_model:
        raise ConfigError(
            f"world_model is {world_model.name!r}, which learner={learner.name} cannot train; "
            f"allowed: world_model={fitting.world_model_files}"
        )
    if isinstance(learner, PPOConfig):
        if unused := _unused(settings):
            print(f"note: {' and '.join(unused)} of the task's rsl_rl settings: not used here")
        try:
            learner = learner.filled_from(dict(settings))
            if config.policy == "trajopt" and world_model.name == "latent":
                world_model = world_model.filled_from(learner.actor_hidden_dims or (), learner.activation or "")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return replace(config, learner=learner, world_model=world_model)
    needed = isinstance(learner, ImitationConfig) or learner.dataset is not None
    if needed and not demonstrations.is_hdf5(Path(learner.dataset or "")):
        problem = f"is {learner.dataset}, which is no HDF5 file" if learner.dataset else "is missing"
        raise ConfigError(
            f"learner.dataset {problem}; give learner.dataset=<file>.hdf5, demonstrations of robomimic's layout: "
            "scripts/collect_demos.py writes one"
        )
    if needed:
        _note_other_environment(config, demonstrations.made_in(Path(learner.dataset or "")))
    return config


def _note_other_environment(config: RunConfig, made_in: tuple[str, list[str]] | None) -> None:
    """Says where demonstrations were made in another environment, but for its number of processes."""
    task, settings = made_in or (config.task, list(config.env_overrides))
    if task != config.task:
        print(f"note: learner.dataset was made in task {task}, and this is {config.task}")
        return
    there, here = ({s for s in of if not s.startswith("env.num_workers=")} for of in (settings, config.env_overrides))
    if there != here:
        former, now = (" ".join(sorted(others)) or "defaults" for others in (there - here, here - there))
        print(f"note: learner.dataset was made with {former}, and this is with {now}")


def _unused(settings: Mapping[str, Any]) -> list[str]:
    """What a task's rsl_rl settings ask for that PPO here does not do."""
    given, actor, critic = flat(settings), settings.get("actor", {}), settings.get("critic", {})
    algorithm = settings.get("algorithm", {})
    flags = ("symmetry_cfg", "rnd_cfg", "normalize_advantage_per_mini_batch", "share_cnn_encoders")
    others = [f"{key}={given[key]}" for key, used in USED.items() if given.get(key, used[0]) not in used]
    of_critic = [
        f"critic.{name}={critic[name]}"
        for name in ("activation", "obs_normalization")
        if name in actor and critic.get(name, actor[name]) != actor[name]
    ]
    return [*(name for name in flags if algorithm.get(name)), *others, *of_critic]


def default_iterations(config: RunConfig, start: Checkpoint | None) -> int:
    """Iterations in which the learner does all that its settings ask for in total, of which ``start`` has done some."""
    learner, iteration = config.learner, 0 if start is None else start.iteration
    if isinstance(learner, ImitationConfig):
        total, each = learner.total_updates, learner.num_updates
        done = 0 if start is None else start.learner["num_updates"]
    else:
        assert isinstance(learner, ModelBasedConfig)
        total, each = learner.total_env_steps, (config.num_envs or 1) * learner.num_steps_per_env
        done = 0 if start is None else start.env_steps
    return iteration + math.ceil(max(total - done, 0) / each)


def make_learner(config: RunConfig, env: VecEnv) -> Learner:
    """Builds the policy and its learner for an environment.

    Raises:
        ConfigError: If the policy cannot be built with these settings.
    """
    if config.learner.name == "model_based":
        from difftori_isaac.learners.model_based import build_model_based as build
    elif config.learner.name == "imitation":
        from difftori_isaac.learners.imitation import build_imitation as build
    else:
        from difftori_isaac.learners.ppo import build_ppo as build

    settings: dict[str, Any] = {
        name: getattr(config, name) for name in ("policy", "trajopt", "world_model", "learner", "device")
    }
    try:
        return build(env, **settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def begin_learning(alg: Learner, config: RunConfig, env: VecEnv) -> None:
    """Prepares a learner for learning in an environment.

    Raises:
        ConfigError: If what it is to learn from cannot be used.
    """
    try:
        if isinstance(config.learner, ModelBasedConfig):
            from difftori_isaac.learners.model_based import check_learnable

            check_learnable(config.learner, env)
        alg.train_mode()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def load_learner(alg: Learner, state: dict[str, Any], learning_rate: float, origin: object) -> None:
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
    for group in getattr(getattr(alg, "optimizer", None), "param_groups", ()):  # of PPO, whose schedule may be fixed
        group["lr"] = learning_rate
