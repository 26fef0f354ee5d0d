"""The list of tasks."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config
from rich.console import Console
from rich.table import Table

from difftori_isaac.run.compose import Overrides, compose
from difftori_isaac.run.config import PYDANTIC
from difftori_isaac.run.errors import ConfigError


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """What `scripts/list_tasks.py` takes."""

    filter: str | None = None
    """Only tasks whose alias, id or package contains this, in any case."""


def list_tasks(overrides: Overrides) -> None:
    """Prints every task that ``task=`` takes: alias, id and the package it comes from.

    Raises:
        ConfigError: If no task fits the filter.
    """
    from difftori_isaac.envs import registry

    config = compose(ListConfig, overrides)
    try:
        tasks = registry.list_tasks()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    word = (config.filter or "").lower()
    found = [task for task in tasks if word in f"{task.alias or ''} {task.id} {task.package}".lower()]
    if not found:
        raise ConfigError(f"filter is {config.filter!r}, which fits none of {len(tasks)} tasks; leave it out for all")
    table = Table(box=None)
    for column in ("alias", "id", "package"):
        table.add_column(column, no_wrap=True)
    for task in found:
        table.add_row(task.alias or "", task.id, task.package)
    Console(highlight=False, width=120).print(table)
