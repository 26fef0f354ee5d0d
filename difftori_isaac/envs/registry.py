"""Which tasks exist and how they are called: gym ids and their short aliases.

A task is any gymnasium environment registered with an Isaac Lab configuration (gym kwarg ``env_cfg_entry_point``).
Besides Isaac Lab's own, these are the tasks of every installed package that names a module in the entry-point group
``isaaclab.tasks``; this project's tasks are found that way too. A task gives itself an alias with the gym kwarg
``difftori_alias``. See ``docs/new_task.md``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "isaaclab.tasks"


class UnknownTaskError(ValueError):
    """A task name is neither an alias nor a registered gym id."""


@dataclass(frozen=True)
class TaskInfo:
    """A registered task."""

    id: str
    """The gym id."""
    alias: str | None
    """The short name, if the task declares one."""
    package: str
    """The top-level package that holds the task's configuration."""


def list_tasks() -> list[TaskInfo]:
    """Returns every registered task, those with an alias first, then by id.

    Raises:
        ValueError: Two tasks declare the same alias.
    """
    return sorted(_load_tasks().values(), key=lambda task: (task.alias is None, task.id))


def aliases() -> dict[str, str]:
    """Returns the gym id of each alias."""
    return {task.alias: task.id for task in list_tasks() if task.alias is not None}


def resolve_task(name: str) -> TaskInfo:
    """Finds a task by its alias or gym id.

    Raises:
        UnknownTaskError: There is none; the message lists close matches and all aliases.
    """
    tasks = _load_tasks()
    ids = aliases()
    task_id = ids.get(name, name)
    if task_id in tasks:
        return tasks[task_id]
    spelling = {known.lower(): known for known in (*tasks, *ids)}
    matches = [spelling[match] for match in difflib.get_close_matches(name.lower(), spelling, n=5, cutoff=0.5)]
    raise UnknownTaskError(
        f"Unknown task '{name}'. Close matches: {', '.join(matches) or 'none'}. Aliases: {', '.join(ids)}; "
        "any gym id of Isaac Lab or of a package with an 'isaaclab.tasks' entry point works too."
    )


def load_kwargs(task_id: str) -> Mapping[str, object]:
    """Returns the keyword arguments a task is registered with."""
    import gymnasium

    return gymnasium.spec(resolve_task(task_id).id).kwargs


def _load_tasks() -> dict[str, TaskInfo]:
    """Imports every module that registers tasks, then reads gymnasium's registry."""
    import gymnasium

    importlib.import_module("isaaclab_tasks")
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()

    tasks, owners = {}, {}
    for spec in gymnasium.registry.values():
        config = spec.kwargs.get("env_cfg_entry_point")
        if config is None or "deprecated" in spec.kwargs:
            continue
        module = config if isinstance(config, str) else config.__module__
        task = TaskInfo(spec.id, spec.kwargs.get("difftori_alias"), module.split(".")[0].split(":")[0])
        if task.alias is not None and owners.setdefault(task.alias, task.id) != task.id:
            raise ValueError(f"The alias '{task.alias}' is declared by two tasks: {owners[task.alias]} and {task.id}.")
        tasks[task.id] = task
    return tasks
