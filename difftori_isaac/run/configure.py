"""What a training is asked for: the complete configuration of a new or a resumed run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run import build, locate
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.base import read_base
from difftori_isaac.run.checkpoint import Checkpoint
from difftori_isaac.run.compose import Overrides, compose, compose_before_checkpoint
from difftori_isaac.run.config import VARIANTS, TrainConfig, saved_variant, to_dict
from difftori_isaac.run.errors import ConfigError


def configure(overrides: Overrides) -> tuple[TrainConfig, Checkpoint | None]:
    """The complete configuration of a run, and the checkpoint it continues from.

    A new run is configured by the defaults, the task and the user; a resumed one by its checkpoint and the user.
    """
    start, layers = None, []
    if overrides.get("resume") is not None:
        asked = compose_before_checkpoint(TrainConfig, overrides)  # refuses bad values before anything is looked for
        given = {section: to_dict(getattr(asked, section)) for section in VARIANTS if section in overrides.groups}
        start = _start(overrides, given)
        layers = [start.config]
        given_keys = overrides.values.keys()
        if given_keys & build.TOTALS or (given_keys & build.SHARES and _by_default(start)):
            layers.append({"max_iterations": None})  # follows from them, unless it is given too
    config = compose(TrainConfig, overrides, *layers)
    resolved: dict[str, Any] = {
        "task": build.resolve_task_name(config.task),
        "device": build.resolve_device(config.device),
    }
    resolved["run_dir"] = str(_run_dir(replace(config, **resolved), overrides))

    if start is None:
        config = _compose_for_task(overrides, resolved["task"])
    else:
        _check_reward_scale(config, start)
    settings = build.load_ppo_settings(resolved["task"])
    if config.learner.name == "ppo" and config.max_iterations is None:
        resolved["max_iterations"] = settings.get("max_iterations")
        if resolved["max_iterations"] is None:
            raise ConfigError(f"max_iterations is missing; give max_iterations=<n>, as task {config.task} sets none")
    config = build.fill_from_task(replace(config, **resolved), settings)
    if isinstance(config.learner, ImitationConfig):
        most, updates = build.default_iterations(config, start), config.learner.total_updates
        iterations = config.max_iterations or most
        if "max_iterations" in overrides.values and iterations > most:
            raise ConfigError(
                f"max_iterations is {iterations}, but the learning rate is 0 after {most}; allowed: at most {most}, or "
                f"raise learner.total_updates={updates} as well"
            )
        config = replace(config, max_iterations=min(iterations, most))
    if start is None:
        read_base(config)  # refuses what cannot be before an environment is built
    elif "learner.learning_rate" in overrides.values and (rate := config.learner.learning_rate) is not None:
        start = replace(start, learning_rate=rate)  # instead of what a schedule has arrived at
    return config, start


def _by_default(start: Checkpoint) -> bool:
    """Whether a run is as long as its settings ask for, and not as its user said."""
    saved = compose(TrainConfig, Overrides(), start.config)
    return saved.learner.name != "ppo" and saved.max_iterations == build.default_iterations(saved, start)


def _compose_for_task(overrides: Overrides, task: str) -> TrainConfig:
    """The configuration with what the task sets for itself; the user's settings alone have been found good."""
    from difftori_isaac.envs.registry import load_kwargs

    defaults = build.load_task_defaults(task)
    try:
        return compose(TrainConfig, overrides, task=defaults)
    except ConfigError as error:
        file = load_kwargs(task).get("difftori_cfg_entry_point")
        raise ConfigError(f"difftori_cfg_entry_point of task {task} is {file}, with which {error}") from None


def _start(overrides: Overrides, given: dict[str, dict[str, Any]]) -> Checkpoint:
    """The checkpoint to continue; ``given`` are the settings of the learner and the world model that were asked for."""
    task, policy = overrides.get("task"), overrides.get("policy")
    task = None if task is None else build.resolve_task_name(task)
    path = locate.find_checkpoint(
        overrides.get("resume") or "",
        run_dir=overrides.get("run_dir"),
        task=task,
        policy=policy or TrainConfig.policy,
        key="resume",
    )
    start = checkpoints.load(path)
    for key, asked in (("task", task), ("policy", policy)):
        if asked is not None and asked != start.config[key]:
            raise ConfigError(f"{key} is {asked}, but {path} was trained with {start.config[key]}; leave {key}= out")
    for section, settings in given.items():
        if settings["name"] != (trained := saved_variant(start.config, section)):
            raise ConfigError(
                f"{section} is {settings['name']}, but {path} was trained with {trained}; leave {section}= out"
            )
    for name, value in given.get("world_model", {}).items():  # of which a checkpoint fits one alone
        if value is not None and value != (trained := start.config["world_model"].get(name, value)):
            raise ConfigError(
                f"world_model={overrides.groups['world_model']} has world_model.{name} {value}, but {path} was trained "
                f"with {trained}; leave world_model= out"
            )
    overrides.values["resume"] = str(path)
    return start


def _check_reward_scale(config: TrainConfig, start: Checkpoint) -> None:
    """Refuses another unit of rewards than the one that a model-based learner has begun to learn in."""
    if not isinstance(config.learner, ModelBasedConfig):
        return
    asked = config.learner.reward_scale
    if asked != start.config["learner"].get("reward_scale") and start.learner["num_updates"] > 0:
        used = start.learner["world_model_state_dict"]["reward_scale"].item()
        raise ConfigError(
            f"learner.reward_scale is {asked}, but {config.resume} was trained with {used:.4g}; "
            "leave learner.reward_scale= out"
        )


def _run_dir(config: TrainConfig, overrides: Overrides) -> Path:
    if config.resume is None:
        return locate.new_run_dir(config.run_dir, task=config.task, policy=config.policy, seed=config.seed)
    origin, given = locate.run_dir_of(Path(config.resume)), overrides.get("run_dir")
    if origin is not None and (given is None or locate.same(given, origin)):
        return origin
    return locate.new_run_dir(given, task=config.task, policy=config.policy, seed=config.seed)


def continues_in_place(config: TrainConfig) -> bool:
    """Whether a run goes on in the directory that its checkpoint lies in."""
    origin = locate.run_dir_of(Path(config.resume)) if config.resume else None
    return origin is not None and locate.same(origin, config.run_dir or "")
