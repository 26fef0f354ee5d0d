import sys

import gymnasium
import pytest

from difftori_isaac.envs.dm_control_tasks import TASKS
from difftori_isaac.envs.isaaclab import load_ppo_settings, load_task_defaults
from difftori_isaac.envs.registry import TaskInfo, UnknownTaskError, aliases, list_tasks, resolve_task

OURS = {
    "Ant": "DiffTori-Ant-Direct",
    "CartpolePixels": "DiffTori-Cartpole-Camera-Direct",
    "Cartpole": "DiffTori-Cartpole-Direct",
    "Lift": "DiffTori-Lift-Franka",
    "LiftPointCloud": "DiffTori-Lift-Franka-Point-Cloud",
    "Reach": "DiffTori-Reach-Franka",
}


@pytest.fixture
def third_party_package(tmp_path, monkeypatch):
    """A package as pip would have installed it, with a task of its own that borrows the cart-pole's configuration."""
    package = tmp_path / "third_party_tasks"
    package.mkdir()
    (package / "defaults.yaml").write_text("num_envs: 24\ntrajopt:\n  horizon: 5\n")
    (package / "__init__.py").write_text(
        "import gymnasium as gym\n"
        "gym.register(id='Third-Party-Task', entry_point='third_party_tasks:Env', kwargs={\n"
        "    'env_cfg_entry_point': 'third_party_tasks.cfg:EnvCfg',\n"
        "    'difftori_alias': 'ThirdParty',\n"
        "    'difftori_cfg_entry_point': 'third_party_tasks:defaults.yaml',\n"
        "})\n"
    )
    info = tmp_path / "third_party_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[isaaclab.tasks]\nthird_party_tasks = third_party_tasks\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    gymnasium.registry.pop("Third-Party-Task", None)
    sys.modules.pop("third_party_tasks", None)


def test_aliases():
    assert aliases() == OURS


@pytest.mark.parametrize(("alias", "task_id"), OURS.items())
def test_alias_and_id_resolve_to_the_same_task(alias, task_id):
    assert resolve_task(alias) == resolve_task(task_id) == TaskInfo(task_id, alias, "difftori_isaac")


def test_isaac_lab_ids_resolve():
    assert resolve_task("Isaac-Ant-Direct") == TaskInfo("Isaac-Ant-Direct", None, "isaaclab_tasks")
    assert resolve_task("Isaac-Lift-Franka").package == "isaaclab_tasks"


def test_tasks_with_an_alias_are_listed_first():
    tasks = list_tasks()
    assert [task.alias for task in tasks[: len(OURS)]] == list(OURS)
    assert len(tasks) > 100
    assert len({task.id for task in tasks}) == len(tasks)


@pytest.mark.parametrize(("name", "match"), [("lift", "Lift"), ("Isaac-Ant-Dirct", "Isaac-Ant-Direct")])
def test_unknown_task_lists_close_matches_and_aliases(name, match):
    with pytest.raises(UnknownTaskError) as error:
        resolve_task(name)
    message = str(error.value)
    assert "\n" not in message
    assert f"'{name}'" in message
    assert match in message.split("Close matches: ")[1].split(". Aliases")[0].split(", ")
    assert all(alias in message for alias in OURS)


def test_third_party_task_resolves(third_party_package):
    task = TaskInfo("Third-Party-Task", "ThirdParty", "third_party_tasks")
    assert resolve_task("ThirdParty") == resolve_task("Third-Party-Task") == task
    assert load_task_defaults("ThirdParty") == {"num_envs": 24, "trajopt": {"horizon": 5}}
    assert load_ppo_settings("ThirdParty") == {}


def test_an_alias_belongs_to_one_task(third_party_package):
    resolve_task("ThirdParty")
    gymnasium.spec("Third-Party-Task").kwargs["difftori_alias"] = "Lift"
    with pytest.raises(ValueError, match="alias 'Lift' is declared by two tasks"):
        list_tasks()


def test_ppo_settings_are_isaac_labs():
    settings = load_ppo_settings("Lift")
    assert settings["num_steps_per_env"] == 24
    assert settings["algorithm"]["learning_rate"] == 1.0e-4
    assert settings["actor"]["hidden_dims"] == [256, 128, 64]
    assert load_ppo_settings("Reach")["max_iterations"] == 1000


def test_the_deepmind_control_suite_is_listed_and_suggested():
    assert [task.id for task in list_tasks() if task.simulator == "dm_control"] == list(TASKS)
    for name, match in (("ball_in_cup-catch", "cup-catch"), ("walker-wlak", "walker-walk")):
        with pytest.raises(UnknownTaskError) as error:
            resolve_task(name)
        assert match in str(error.value).split("Close matches: ")[1].split(". Aliases")[0].split(", ")
