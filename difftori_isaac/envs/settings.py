"""Settings of environments that are not Isaac Lab's, read from ``env.<key>=<value>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import yaml
from pydantic import TypeAdapter, ValidationError


def parse_settings[S](schema: type[S], overrides: Sequence[str], simulator: str) -> S:
    """Reads settings into a dataclass whose fields are annotated for pydantic.

    Args:
        schema: The dataclass.
        overrides: The settings.
        simulator: Whose tasks they are for, for error messages.

    Raises:
        ValueError: A key or a value is wrong.
    """
    allowed = [f"env.{field.name}" for field in fields(schema)]  # pyright: ignore[reportArgumentType]
    values = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in allowed:
            raise ValueError(f"'{override}' is no setting of a {simulator} task; allowed: {', '.join(allowed)}.")
        try:
            values[key.removeprefix("env.")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"'{override}' cannot be read ({reason}); allowed: {key}=<value>.") from None
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"env.{first['loc'][0]} is {first['input']!r}; {first['msg'].lower()}.") from None


def refuse_viewer(task_id: str, viewer_port: int | None) -> None:
    """Raises ValueError if a viewer is asked for."""
    if viewer_port is not None:
        raise ValueError(f"{task_id} has no viewer: only tasks of Isaac Lab have; video=true films it.")
