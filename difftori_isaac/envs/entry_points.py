"""What the gym kwargs of an Isaac Lab task name, refused in one line where it is not there."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from difftori_isaac.envs.registry import load_kwargs


def load_entry_point(task_id: str, kwarg: str, allowed: str = "package.module:function") -> Any:
    """What a gym kwarg of a task names as ``package.module:name``, None if it is not set.

    Args:
        task_id: A gym id or an alias.
        kwarg: The kwarg.
        allowed: What it may be, for the error.

    Raises:
        ValueError: There is no such thing.
    """
    entry_point = load_kwargs(task_id).get(kwarg)
    try:
        return None if entry_point is None else resolve_name(str(entry_point))
    except (ImportError, AttributeError, ValueError) as error:
        where = f"{kwarg} of {task_id} is {entry_point}, which cannot be loaded"
        raise ValueError(f"{where} ({error}); allowed: {allowed}") from None


def check_cfg_entry_point(task_id: str, kwarg: str) -> None:
    """Checks that a class that Isaac Lab is to load a configuration from is there.

    Raises:
        ValueError: It is not.
    """
    entry_point = load_kwargs(task_id).get(kwarg)
    if isinstance(entry_point, str) and not entry_point.endswith(".yaml"):
        load_entry_point(task_id, kwarg, "package.module:class")
