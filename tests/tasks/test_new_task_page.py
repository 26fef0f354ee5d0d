"""The task of docs/new_task.md works as printed."""

import re
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import gymnasium
import pytest
import torch

from difftori_isaac.envs.isaaclab import load_ppo_settings, load_task_defaults, make_env
from difftori_isaac.envs.registry import TaskInfo, resolve_task

PAGE = Path(__file__).parents[2] / "docs" / "new_task.md"
FILES = dict(re.findall(r"```\w+\n# ((?:src/|pyproject)\S+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's files, installed as pip would."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = tmp_path / "src" / "my_tasks-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entry_points = [f"[{group}]\n{name} = {module}\n" for group, (name, module) in _entry_points(project)]
    (info / "entry_points.txt").write_text("".join(entry_points))
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield
    gymnasium.registry.pop("My-SwingUp", None)
    for module in [name for name in sys.modules if name.split(".")[0] == "my_tasks"]:
        del sys.modules[module]


def _entry_points(project):
    return [(group, item) for group, items in project["entry-points"].items() for item in items.items()]


def test_the_page_names_five_files():
    folder = "src/my_tasks"
    names = {
        "pyproject.toml",
        *(f"{folder}/{name}" for name in ("__init__.py", "swing_up.py", "ppo.py", "swing_up.yaml")),
    }
    assert set(FILES) == names


@pytest.mark.sim
def test_the_task_is_found_and_runs(package):
    assert resolve_task("SwingUp") == resolve_task("My-SwingUp") == TaskInfo("My-SwingUp", "SwingUp", "my_tasks")
    assert load_task_defaults("SwingUp") == {"trajopt": {"horizon": 8}}
    assert load_ppo_settings("SwingUp")["num_steps_per_env"] == 32
    with closing(make_env("SwingUp", num_envs=4, device="cpu", seed=0)) as env:
        obs = env.get_observations()["policy"]
        assert obs.shape == (4, 5)
        assert (obs[:, 2] < -0.9).all()  # the pole hangs
        for _ in range(5):
            obs, rewards, dones, extras = env.step(torch.zeros(4, 1))
        assert obs["policy"].isfinite().all()
        assert (rewards < 0.1 * env.unwrapped.step_dt).all()
        assert not dones.any()
        assert not extras["nonfinite"].any()
