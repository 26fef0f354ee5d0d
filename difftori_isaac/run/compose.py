"""From a command line to a configuration: Hydra's override grammar over typed defaults, Isaac Lab's own beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from difftori_isaac.run.config import VARIANTS, TrainConfig, leaf_keys, text_keys, to_dict, validate
from difftori_isaac.run.errors import ConfigError, unknown_key

CONFIGS = Path(str(resources.files("difftori_isaac.configs")))
ISAACLAB_KEYS = ("physics", "renderer", "presets")


@dataclass(frozen=True)
class Overrides:
    """What a user asked for, in order; a later value of the same key wins."""

    values: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the configuration."""
    groups: dict[str, str] = field(default_factory=dict)
    """Variants of configs/: group to file name."""
    env: dict[str, str] = field(default_factory=dict)
    """Isaac Lab's overrides: key to the whole string."""

    def get(self, key: str) -> str | None:
        """What the user gave for ``key``, as text; None if nothing or null."""
        value = self.groups.get(key, self.values.get(key))
        return None if value is None else str(value)


def group_options(group: str) -> list[str]:
    """Variants in a folder of configs/; empty if it is none."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def variant_groups(schema: type, values: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Groups of configs/ that a command line may choose sections from: name, form of ``values``, and what there is."""
    if schema is not TrainConfig:
        return []
    return [(section, values[section]["name"], group_options(section)) for section in VARIANTS]


def parse(arguments: Iterable[str], schema: type) -> Overrides:
    """Reads ``key=value`` arguments for a configuration class.

    Raises:
        ConfigError: If an argument is no override, its key is unknown or its variant does not exist.
    """
    overrides, leaves = Overrides(), leaf_keys(schema)
    nodes = {leaf.rsplit(".", depth)[0] for leaf in leaves for depth in range(1, leaf.count(".") + 1)}
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        if not key or "=" not in argument or argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0].replace("-", "_") or "key"
            example = f"{name}=<value>" if name in leaves else "task=Cartpole"
            raise ConfigError(f"{argument!r} is not an override; allowed: key=value, for example {example}")
        if "env_overrides" in leaves and (key.startswith("env.") or key in ISAACLAB_KEYS):
            overrides.env[key] = argument
            continue
        override = _parse_one(argument)
        if key not in leaves and key not in nodes:
            isaaclab = "; Isaac Lab's own settings are env.<key>=<value>" if key == "env" else ""
            raise ConfigError(unknown_key(key, leaves) + isaaclab)
        value = override.value()
        if key in text_keys(schema) and isinstance(value, bool | int | float):
            value = argument.partition("=")[2].strip()  # as it was typed: 2026_12_01 is a number to Hydra
        if schema is TrainConfig and (options := group_options(key)):
            if value not in options:
                raise ConfigError(f"{key} is {value!r}; allowed: {', '.join(options)}")
            overrides.groups[key] = str(value)
        elif schema is not TrainConfig and key in VARIANTS and isinstance(value, str):
            raise ConfigError(f"{argument!r} is for scripts/train.py; here {key} is the checkpoint's: leave {key}= out")
        else:
            overrides.values[key] = value
    return overrides


def _parse_one(argument: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        hint = "put special characters in quotes: key='\"value\"'"
        raise ConfigError(f"{argument!r} cannot be read ({reason}); {hint}") from None
    if override.is_sweep_override():
        raise ConfigError(f"{argument!r} is a sweep; allowed: one value per run, or several with scripts/train.py -m")
    if override.type not in (OverrideType.CHANGE, OverrideType.FORCE_ADD) or override.package is not None:
        raise ConfigError(f"{argument!r} adds or deletes a key; allowed: key=value, as every key exists")
    return override


def quoted(value: object) -> str:
    """A text that Hydra's grammar reads as it is, whatever it consists of but ``${``."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value)) + "'"


def setting(key: str, value: object) -> str:
    """``key=value`` to be pasted into a shell, with quotes where the shell or Hydra's grammar asks for them."""
    try:
        plain = _parse_one(f"{key}={value}").value() == str(value)
    except ConfigError:
        plain = False
    return shlex.quote(f"{key}={value if plain else quoted(value)}")


def compose[C](
    schema: type[C], overrides: Overrides, *layers: Mapping[str, Any], task: Mapping[str, Any] | None = None
) -> C:
    """Defaults, configs/ with the chosen variants, a task's own settings, ``layers`` in turn, then the user's values.

    A section of a layer, as in a checkpoint, replaces one of another form; a task's says nothing about other forms than
    the one it names, or the first.

    Raises:
        ConfigError: If a value is not allowed.
    """
    values = compose_values(schema, overrides, *layers, task=task)
    for key in (key for key, value in values.items() if value == "???"):
        raise ConfigError(f"{key} is missing; give {key}=<value>: {leaf_keys(schema)[key]}")
    return validate(schema, values)


def compose_before_checkpoint[C](schema: type[C], overrides: Overrides) -> C:
    """What was asked for, without the values of sections whose form only the checkpoint tells.

    Raises:
        ConfigError: If a value is not allowed.
    """
    unknown = VARIANTS.keys() - overrides.groups.keys()
    values = {key: value for key, value in overrides.values.items() if key.partition(".")[0] not in unknown}
    return compose(schema, replace(overrides, values=values), {"task": "any"})


def compose_values(
    schema: type, overrides: Overrides, *layers: Mapping[str, Any], task: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As :func:`compose`, before validation; what has no default and was not given is ``???``."""
    try:
        if schema is TrainConfig:
            config = deepcopy(_compose_files(tuple(f"{group}={name}" for group, name in overrides.groups.items())))
        else:
            config = OmegaConf.create(_defaults(schema))
        config = _lay_over(config, task or {}, replaces=False)
        for layer in layers:
            config = _lay_over(config, layer, replaces=True)
        for key, value in overrides.values.items():
            OmegaConf.update(config, key, value)
        values = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    assert isinstance(values, dict)
    if isinstance(given := values.get("env_overrides"), list):
        last = {str(item).partition("=")[0]: str(item) for item in given} | overrides.env
        values["env_overrides"] = list(last.values())
    return {str(key): value for key, value in values.items()}


def _lay_over(config: Any, layer: Mapping[str, Any], *, replaces: bool) -> Any:
    """The configuration with a layer over it, section by section; what names no form is of the first."""
    forms = {section: types[0]().name for section, types in VARIANTS.items()}
    other = {key for key in forms.keys() & layer.keys() if layer[key].get("name", forms[key]) != config[key]["name"]}
    kept = {key: value for key, value in layer.items() if key not in other or (replaces and "name" in value)}
    for key in other & kept.keys():
        config[key] = {}
    return OmegaConf.merge(config, kept)


def _defaults(schema: type) -> dict[str, Any]:
    required = [item.name for item in fields(schema) if item.default is item.default_factory is MISSING]
    return to_dict(schema(**dict.fromkeys(required, "???")))


@cache
def _compose_files(choices: tuple[str, ...]) -> Any:
    """Defaults and configs/ with the chosen variants, read once."""
    store, defaults = ConfigStore.instance(), _defaults(TrainConfig)
    store.store(name="run", node={key: value for key, value in defaults.items() if key not in VARIANTS})
    for section, types in VARIANTS.items():
        for form in types:
            store.store(group=section, name=f"{form().name}_defaults", node=to_dict(form()))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra_compose("config", overrides=list(choices))
    OmegaConf.set_struct(config, False)
    return config
