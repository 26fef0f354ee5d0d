"""Files of a run, read back: what is damaged is named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from pydantic import TypeAdapter, ValidationError

from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.metrics import MetricsFile, read_metrics


class Git(TypedDict):
    """Code of a start."""

    revision: str | None
    dirty: bool | None
    diff: NotRequired[str]


class Hardware(TypedDict):
    """Machine of a start."""

    gpus: list[str]
    cpus: int | None
    system: str


class Start(TypedDict):
    """A start of a run."""

    time: str
    iteration: int
    command: str
    git: Git
    versions: dict[str, str | None]
    hardware: Hardware


class RunRecord(TypedDict):
    """What run.json holds at least."""

    starts: list[Start]


class Summary(TypedDict):
    """Statistics of an evaluation."""

    mean: float
    std: float | None
    interval_95: list[float] | None


Evaluation = TypedDict(
    "Evaluation",
    {
        "num_episodes": int,
        "iteration": int | None,
        "seed": int,
        "return": Summary,
        "episode_length": Summary,
        "success_rate": float | None,
        "nonfinite_episodes": int,
        "changed": NotRequired[dict[str, Any]],
    },
)
"""What eval.json holds at least."""


class SweepSettings(TypedDict):
    """What sweep.yaml holds at least."""

    fixed: list[str]


class Settings(TypedDict, total=False):
    """Settings in config.yaml that tell runs apart, or how far one has come."""

    task: str
    policy: str
    seed: int
    max_iterations: int | None


def read_settings(run_dir: Path, *needed: str) -> dict[str, Any]:
    """Every setting of a run, from config.yaml.

    Raises:
        ConfigError: If the directory is no run's, the file is damaged or has not what is ``needed``.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} has no config.yaml; allowed: the directory of a run")
    settings = read_yaml(path, Settings)
    if missing := [key for key in needed if key not in settings]:
        raise ConfigError(f"{path} has no {', '.join(missing)}; allowed: the file as it was written")
    return settings


def read_yaml(path: Path, shape: Any) -> dict[str, Any]:
    """What a YAML file holds.

    Args:
        path: The file.
        shape: A TypedDict of what it has to hold.

    Raises:
        ConfigError: If the file is damaged.
    """
    return _read(path, "YAML", yaml.safe_load, shape)


def read_json(path: Path, shape: Any) -> dict[str, Any]:
    """What a JSON file of a run holds; nothing if there is none.

    Args:
        path: The file.
        shape: A TypedDict of what it has to hold.

    Raises:
        ConfigError: If the file is damaged.
    """
    return _read(path, "JSON", json.loads, shape) if path.is_file() else {}


def discard_evaluations_after(run_dir: Path, iteration: int) -> None:
    """Deletes evaluations of later iterations than the one a run continues from; damaged ones stay as they are."""
    table, result = run_dir / "eval.csv", run_dir / "eval.json"
    with suppress(ConfigError):
        if table.is_file():
            MetricsFile(table, keep_until=iteration)
            if not read_metrics(table):
                table.unlink()
    with suppress(ConfigError):
        if (read_json(result, Evaluation).get("iteration") or 0) > iteration:
            result.unlink()


def _read(path: Path, kind: str, parse: Callable[[str], Any], shape: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no {kind} ({reason}); allowed: the file as it was written") from None
    try:
        TypeAdapter(shape).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise ConfigError(f"{path} is damaged ({reason}); allowed: the file as it was written") from None
    return content
