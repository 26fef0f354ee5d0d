"""A new task from templates: a folder in this repository's tasks/, or an installable package of its own."""

from __future__ import annotations

import keyword
import re
import shlex
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from string import Template
from typing import Literal

from pydantic import with_config

from difftori_isaac.run.compose import Overrides, compose
from difftori_isaac.run.config import PYDANTIC
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.record import write_atomic

TASKS = resources.files("difftori_isaac.tasks")

ROBOTS = {
    "cartpole": {
        "summary": "keep the pole of a cart upright",
        "suffix": "Cartpole",
        "agent_module": "isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg",
        "agent": "CartpolePPORunnerCfg",
        "num_obs": "4",
        "num_actions": "1",
        "episode_length": "300",
    },
    "franka": {
        "summary": "bring the hand of a Franka Panda to a commanded pose",
        "suffix": "Franka",
        "agent_module": "isaaclab_tasks.core.reach.config.franka.agents.rsl_rl_ppo_cfg",
        "agent": "FrankaReachPPORunnerCfg",
        "num_obs": "32",
        "num_actions": "7",
        "episode_length": "360",
    },
}
"""What the templates say about each robot; steps per episode."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class NewTaskConfig:
    """What `scripts/new_task.py` takes.

    Raises:
        ConfigError: If the name cannot name a class and a package.
    """

    name: str
    """Name of the task, as in task=MyReach: words that each begin with a capital letter."""
    robot: Literal["cartpole", "franka"]
    """Robot, with the task that the new one starts from: balancing, or reaching a pose."""
    output: str | None = None
    """Folder of a new package; null is this repository's tasks/, or a folder here if there is no repository."""

    def __post_init__(self) -> None:
        named = self.name == "???" or re.fullmatch(r"[A-Z][A-Za-z0-9]*", self.name)
        if not named or keyword.iskeyword(self.module):
            raise ConfigError(f"name is {self.name!r}; allowed: letters and digits, a capital first, such as MyReach")

    @property
    def module(self) -> str:
        """Name of the folder and Python package: my_reach for MyReach."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", self.name).lower()


def new_task(overrides: Overrides) -> None:
    """Writes a task that trains at once, and its test.

    Raises:
        ConfigError: If there is such a task already, or no place for it.
    """
    config = compose(NewTaskConfig, overrides)
    repository = None if config.output else find_repository()
    files = task_files(config, repository)
    check(config, files, repository)
    for path, text in files.items():
        write_atomic(path, text)
        print(path)
    train = f"task={config.name} num_envs=16 max_iterations=2"
    if repository is None:
        print(f"install it: uv pip install --no-deps -e {shlex.quote(str(_package_folder(config)))}")
        print(f"train it: uv run --no-sync scripts/train.py {train}, or difftori-train {train}")
    else:
        print(f"train it: uv run scripts/train.py {train}")


def find_repository() -> Path | None:
    """The repository whose tasks/ is in use; None if the package is installed from a wheel."""
    root = Path(str(TASKS)).parent
    return root if (root / "pyproject.toml").is_file() and (root / "tests" / "tasks").is_dir() else None


def task_files(config: NewTaskConfig, repository: Path | None) -> dict[Path, str]:
    """Every file of the new task, with its text."""
    values = ROBOTS[config.robot] | {"Name": config.name, "module": config.module}
    values["distribution"] = config.module.replace("_", "-")
    values["id"] = f"{config.name}-{values['suffix']}"
    if repository is None:
        root = _package_folder(config)
        folder, test = root / "src" / config.module, root / "tests" / f"test_{config.module}.py"
        others = {root / "pyproject.toml": _fill("pyproject.toml", values)}
    else:
        values["id"] = f"DiffTori-{values['id']}"
        folder, test = repository / "tasks" / config.module, repository / "tests" / "tasks" / f"test_{config.module}.py"
        init = repository / "tasks" / "__init__.py"
        others = {init: _with_import(init.read_text(encoding="utf-8"), config.module)}
    return {
        folder / "__init__.py": _fill("init.py", values),
        folder / f"{config.module}_env_cfg.py": _fill(f"{config.robot}_env_cfg.py", values),
        folder / "agents" / "__init__.py": _fill("agents.py", values),
        folder / "agents" / "rsl_rl_ppo_cfg.py": _fill("rsl_rl_ppo_cfg.py", values),
        folder / f"{config.module}.yaml": _fill("defaults.yaml", values),
        test: _fill("test.py", values),
        **others,
    }


def check(config: NewTaskConfig, files: dict[Path, str], repository: Path | None) -> None:
    """Refuses names that are taken.

    Raises:
        ConfigError: If a task, a package or a place is called so.
    """
    from difftori_isaac.envs.registry import list_tasks

    taken = {name.lower() for task in list_tasks() for name in (task.id, task.alias) if name}
    if config.name.lower() in taken:
        raise ConfigError(f"name is {config.name}, a task that exists; allowed: another one, see scripts/list_tasks.py")
    if repository is None and util.find_spec(config.module) is not None:
        raise ConfigError(f"name is {config.name}, but a package {config.module} is installed; allowed: another one")
    new = [path for path in files if repository is None or path != repository / "tasks" / "__init__.py"]
    for path in (path for path in [*new, new[0].parent] if path.exists()):
        raise ConfigError(f"{path} exists; allowed: another name, or output=<new folder>")


def _package_folder(config: NewTaskConfig) -> Path:
    return Path(config.output or config.module)


def _fill(template: str, values: dict[str, str]) -> str:
    return Template(TASKS.joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")).substitute(values)


def _with_import(text: str, module: str) -> str:
    """The text of tasks/__init__.py with one more task, in alphabetical order."""
    head, *imports = re.split(r"^(?=from )", text, flags=re.MULTILINE)
    return head + "".join(sorted([*imports, f"from difftori_isaac.tasks import {module} as {module}\n"]))
