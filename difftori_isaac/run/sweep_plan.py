"""What a sweep is made of: which trials there are, every one checked before the first starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import with_config

from difftori_isaac.run.compose import CONFIGS, compose, group_options, parse
from difftori_isaac.run.config import PYDANTIC, TrainConfig
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.trial import trial_name

OF_THE_SWEEP = ("run_dir", "resume")
"""Keys that a sweep sets for each trial."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What `scripts/train.py -m` takes beside the settings of its trials and Hydra's own, ``hydra.<key>=``."""

    launcher: str = "local"
    """Where trials run: a file in configs/launcher/."""
    sweeper: str = "grid"
    """How the values of trials are chosen: a file in configs/sweeper/."""
    sweep_dir: str | None = None
    """Directory of the sweep, called again to go on; null is a new runs/sweeps/<task>/<time>."""
    objective: Literal["last", "best"] = "last"
    """Mean return that a sweeper such as optuna maximises: of the last iteration, or the best of all."""

    def __post_init__(self) -> None:
        for group in ("launcher", "sweeper"):
            if (given := getattr(self, group)) not in group_options(group):
                raise ConfigError(f"{group} is {given!r}; allowed: {', '.join(group_options(group))}")


@dataclass(frozen=True)
class Plan:
    """A sweep as it was asked for."""

    config: SweepConfig
    """Settings of the sweep."""
    hydra: tuple[str, ...]
    """Hydra's own overrides."""
    fixed: tuple[str, ...]
    """Overrides that all trials share."""
    swept: dict[str, str]
    """Overrides with several values, by key."""
    is_grid: bool
    """Whether the trials are all combinations of the values, known before the first one."""


def make_plan(arguments: Sequence[str]) -> Plan:
    """Sorts the command line into settings of the sweep, Hydra's, and those of the trials.

    A sweeper's own search space, ``hydra.sweeper.params``, comes before what the command line says.

    Raises:
        ConfigError: If an argument cannot be read.
    """
    names = {item.name for item in fields(SweepConfig)}
    own, hydra, ours = [], [], []
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        (own if key in names else hydra if key.startswith(("hydra.", "hydra/")) else ours).append(argument)
    config = compose(SweepConfig, parse(own, SweepConfig))
    hydra += [f"launcher={config.launcher}", f"sweeper={config.sweeper}"]
    sweeper = _compose_hydra(hydra).sweeper
    params = sweeper.get("params") or {}
    chosen = {argument.partition("=")[0]: argument for argument in [*(f"{k}={v}" for k, v in params.items()), *ours]}
    for key in (key for key in chosen if key in OF_THE_SWEEP):
        raise ConfigError(f"{key} is given, but with -m every trial has its own; allowed: sweep_dir=<directory>")
    swept = {key: _without_glob(argument) for key, argument in chosen.items() if len(values_of(argument)) > 1}
    fixed = [value for key, argument in chosen.items() if key not in swept for value in values_of(argument)]
    is_grid = sweeper["_target_"].endswith(f".{BasicSweeper.__name__}")
    if not (is_grid or swept):
        raise ConfigError(f"sweeper={config.sweeper} has nothing to choose; allowed: a key with several values")
    return Plan(config, tuple(hydra), tuple(fixed), swept, is_grid)


def values_of(argument: str) -> list[str]:
    """Every override that an argument stands for; the two ends of an interval."""
    if argument.startswith("presets="):  # Isaac Lab's own list
        return [argument]
    key = argument.partition("=")[0]
    try:
        override = OverridesParser.create().parse_override(_without_glob(argument))
    except HydraException:
        return [argument]  # refused with the trial's arguments
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if not override.is_sweep_override():
        return [argument]
    return [f"{key}={item}" for item in override.sweep_string_iterator()]


def _without_glob(argument: str) -> str:
    """Writes a pattern of variants, ``policy=glob(*)``, as the variants that fit it."""
    key, _, text = argument.partition("=")
    if not text.startswith("glob("):
        return argument
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return argument
    fitting = value.filter(group_options(key)) if isinstance(value, Glob) else []
    if not fitting:
        raise ConfigError(f"{argument!r} fits nothing; allowed: {', '.join(group_options(key)) or 'one of a group'}")
    return f"{key}={','.join(fitting)}"


def check(plan: Plan) -> list[list[str]]:
    """Overrides of every trial, checked as the training script would; each value once where a sweeper chooses.

    Raises:
        ConfigError: If a trial's settings are not allowed.
    """
    from difftori_isaac.envs.registry import open_simulator, resolve_task
    from difftori_isaac.run.configure import configure

    trials = _combinations(plan) if plan.is_grid else _each_value_once(plan)
    names = [trial_name(trial) for trial in trials]
    for name in (name for name in names if plan.is_grid and names.count(name) > 1):
        raise ConfigError(f"the trial {name} comes twice; allowed: different values")
    for trial in trials:
        compose(TrainConfig, parse([*plan.fixed, *trial], TrainConfig))
    environments = {}
    for trial in {tuple(item for item in trial if not item.startswith("seed=")): None for trial in trials}:
        # with a device that is here: the trial's may be on another machine
        config, _ = configure(parse([*plan.fixed, *trial, "device=cpu"], TrainConfig))
        if config.distributed:
            raise ConfigError("distributed is true, but with -m every trial is one process; allowed: distributed=false")
        environments[config.task, config.env_overrides] = None
    for task, env_overrides in environments:
        try:
            open_simulator(task).check_overrides(resolve_task(task).id, env_overrides)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return trials


def _combinations(plan: Plan) -> list[list[str]]:
    try:
        overrides = OverridesParser.create().parse_overrides(list(plan.swept.values()))
        return BasicSweeper.split_arguments(overrides, None)[0]
    except HydraException as error:
        allowed = "values, choice(...), range(...) or glob(...)"
        raise ConfigError(f"{' '.join(plan.swept.values())}: {error}; allowed with sweeper=grid: {allowed}") from None


def _each_value_once(plan: Plan) -> list[list[str]]:
    axes = {key: values_of(argument) for key, argument in plan.swept.items()}
    first = {key: values[0] for key, values in axes.items()}
    return [list((first | {key: value}).values()) for key, values in axes.items() for value in values]


def _compose_hydra(overrides: Sequence[str]) -> Any:
    """Hydra's own configuration.

    Raises:
        ConfigError: If an override of it is wrong, or a plugin is not installed.
    """
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra_compose("sweep", overrides=list(overrides), return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException) as error:
        if found := re.match(r"Could not override '(hydra\.[\w.]+)'", str(error)):
            raise ConfigError(_unknown_to_hydra(found[1], overrides)) from None
        text = " ".join(str(error).split()).partition(" Config search path")[0]
        extra = "; launchers and sweepers beside Hydra's own come with the extra: pip install 'difftori-isaac[sweep]'"
        raise ConfigError(text + extra * ("hydra/launcher" in text or "hydra/sweeper" in text)) from None


def _unknown_to_hydra(key: str, overrides: Sequence[str]) -> str:
    """One line about a key of Hydra's that the chosen launcher and sweeper do not have, with those that there are."""
    variants = [item for item in overrides if "." not in item.partition("=")[0]]
    section, there = "hydra", _compose_hydra(variants)
    for name in key.split(".")[1:-1]:
        if not isinstance(there.get(name), DictConfig):
            break
        section, there = f"{section}.{name}", there[name]
    names = ", ".join(name for name in map(str, there) if not name.startswith("_")) or "none"
    group = key.split(".")[1]
    given = next((item for item in variants if item.startswith((f"hydra/{group}=", f"{group}="))), None)
    if given is None:
        return f"unknown key {key!r}; keys of {section}: {names}"
    others = " or ".join(name for name in group_options(group) if name != given.partition("=")[2])
    return f"unknown key {key!r}; keys of {section} with {given}: {names}; other keys with {group}={others}"
