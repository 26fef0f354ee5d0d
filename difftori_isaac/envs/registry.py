"""Which tasks exist, how they are called and which simulator they need.

A task is any gymnasium environment registered with an Isaac Lab configuration (gym kwarg ``env_cfg_entry_point``), or
one of the DeepMind Control suite or of MetaWorld. Besides Isaac Lab's own, the former are the tasks of every installed
package that names a module in the entry-point group ``isaaclab.tasks``; this project's tasks are found that way too. A
task gives itself an alias with the gym kwarg ``difftori_alias``. See ``docs/new_task.md``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, cast

from difftori_isaac.envs import dm_control_tasks, metaworld_tasks

if TYPE_CHECKING:
    from difftori_isaac.envs.vec_env import Simulator

ENTRY_POINT_GROUP = "isaaclab.tasks"


class UnknownTaskError(ValueError):
    """A task name is neither an alias, a registered gym id nor a task of the DeepMind Control suite or MetaWorld."""


@dataclass(frozen=True)
class TaskInfo:
    """A task."""

    id: str
    """The gym id, ``domain-task`` of the DeepMind Control suite or the name of a task of MetaWorld."""
    alias: str | None
    """The short name, if the task declares one."""
    package: str
    """The top-level package that holds the task's configuration."""
    simulator: Literal["isaaclab", "dm_control", "metaworld"] = "isaaclab"
    """The module of ``difftori_isaac.envs`` that makes the environment."""


def list_tasks() -> list[TaskInfo]:
    """Returns every task that can be run here, those with an alias first and those of other simulators last.

    Raises:
        ValueError: Two tasks declare the same alias.
    """
    others = [task for task in _other_tasks().values() if find_spec(task.package)]
    tasks = sorted(_load_tasks().values(), key=lambda task: (task.alias is None, task.id))
    return [*tasks, *others]


def aliases() -> dict[str, str]:
    """Returns the gym id of each alias."""
    return _aliases(_load_tasks())


def resolve_task(name: str) -> TaskInfo:
    """Finds a task by its alias, gym id, ``domain-task`` or MetaWorld's name.

    Raises:
        UnknownTaskError: There is none; the message lists close matches and all aliases.
    """
    others = _other_tasks()
    if name in others:
        return others[name]
    tasks = _load_tasks()
    ids = _aliases(tasks)
    task_id = ids.get(name, name)
    if task_id in tasks:
        return tasks[task_id]
    spelling = {known.lower(): known for known in (*tasks, *ids, *others)}
    matches = [spelling[match] for match in difflib.get_close_matches(name.lower(), spelling, n=5, cutoff=0.5)]
    raise UnknownTaskError(
        f"Unknown task '{name}'. Close matches: {', '.join(matches) or 'none'}. Aliases: {', '.join(ids)}; any gym id "
        "of Isaac Lab or of a package with an 'isaaclab.tasks' entry point works too, any domain-task of the DeepMind "
        "Control suite, and any task of MetaWorld, such as reach-v3."
    )


def open_simulator(name: str) -> Simulator:
    """Imports the simulator of a task.

    Raises:
        UnknownTaskError: There is no such task.
    """
    return cast("Simulator", importlib.import_module(f"difftori_isaac.envs.{resolve_task(name).simulator}"))


def load_kwargs(task_id: str) -> Mapping[str, object]:
    """Returns the keyword arguments a task is registered with; one of another simulator has none."""
    import gymnasium

    task = resolve_task(task_id)
    return gymnasium.spec(task.id).kwargs if task.simulator == "isaaclab" else {}


def _aliases(tasks: Mapping[str, TaskInfo]) -> dict[str, str]:
    return dict(sorted((task.alias, task.id) for task in tasks.values() if task.alias is not None))


def _other_tasks() -> dict[str, TaskInfo]:
    suite = {name: TaskInfo(name, None, "dm_control", "dm_control") for name in dm_control_tasks.TASKS}
    return suite | {name: TaskInfo(name, None, "metaworld", "metaworld") for name in metaworld_tasks.TASKS}


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
