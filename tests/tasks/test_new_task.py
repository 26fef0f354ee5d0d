"""What new_task.py writes is found, runs and follows the house's style; names that are taken are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.new_task import NewTaskConfig, check, find_repository, task_files
from difftori_isaac.scripts.new_task import main as new_task

ROOT = Path(__file__).parents[2]


def write_package(folder: Path, name: str = "MyTask2D", robot: str = "cartpole") -> dict[str, str]:
    """A package with a task, and the environment variables under which it counts as installed."""
    assert new_task([f"name={name}", f"robot={robot}", f"output={folder}"]) == 0
    build = "import setuptools; setuptools.setup()"
    subprocess.run([sys.executable, "-c", build, "-q", "egg_info"], cwd=folder, check=True)
    return os.environ | {"PYTHONPATH": str(folder / "src")}


def test_packages_are_found_and_in_style(tmp_path: Path):
    robots = {"MyTask2D": "cartpole", "MyReach": "franka"}
    paths = [write_package(tmp_path / name, name, robot)["PYTHONPATH"] for name, robot in robots.items()]
    ruff = [str(Path(sys.executable).with_name("ruff")), "--config", str(ROOT / "pyproject.toml")]
    for arguments in (["check", "--ignore=ANN,D10"], ["format", "--check"]):
        command = [ruff[0], *arguments, *ruff[1:], "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    importing = "from difftori_isaac.envs.registry import resolve_task as find"
    program = f"{importing}; print(find('MyTask2D').id, find('MyReach').id)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    ids = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert ids.splitlines()[-1] == "MyTask2D-Cartpole MyReach-Franka"


@pytest.mark.sim
def test_the_tests_of_the_package_pass(tmp_path: Path):
    environment = write_package(tmp_path / "package")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dash"]
    done = subprocess.run(command, cwd=tmp_path / "package", env=environment, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_in_the_repository_it_is_a_folder_a_test_and_a_line(tmp_path: Path):
    assert find_repository() == ROOT
    (tmp_path / "tasks").mkdir()
    shutil.copy(ROOT / "tasks" / "__init__.py", tmp_path / "tasks")
    files = task_files(NewTaskConfig(name="Balance", robot="cartpole"), tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in files} == {
        "tasks/__init__.py",
        "tasks/balance/__init__.py",
        "tasks/balance/agents/__init__.py",
        "tasks/balance/agents/rsl_rl_ppo_cfg.py",
        "tasks/balance/balance.yaml",
        "tasks/balance/balance_env_cfg.py",
        "tests/tasks/test_balance.py",
    }
    before = (ROOT / "tasks" / "__init__.py").read_text().splitlines()
    after = files[tmp_path / "tasks" / "__init__.py"].splitlines()
    line = "from difftori_isaac.tasks import balance as balance"
    assert [item for item in after if item != line] == before
    imports = [item for item in after if item.startswith("from ")]
    assert line in imports and imports == sorted(imports)
    assert 'id="DiffTori-Balance-Cartpole"' in files[tmp_path / "tasks/balance/__init__.py"]
    assert not any("$" in text for text in files.values())


@pytest.mark.parametrize(
    ("name", "module"), [("MyReach", "my_reach"), ("MyTask2D", "my_task2d"), ("URReach", "ur_reach")]
)
def test_folder_names(name: str, module: str):
    assert NewTaskConfig(name=name, robot="franka").module == module


REFUSED = {
    "robot=franka": "name is missing",
    "name=MyReach": "robot is missing",
    "name=my-reach robot=franka": "name is 'my-reach'; allowed: letters and digits, a capital first, such as MyReach",
    "name=Class robot=franka": "name is 'Class'",
    "name=MyReach robot=ur5": "robot is 'ur5'; allowed: cartpole, franka",
    "name=Lift robot=franka": "name is Lift, a task that exists",
    "name=LIFT robot=franka": "a task that exists",
    "name=Templates robot=franka": "exists; allowed: another name",
    "name=Torch robot=franka output=here": "a package torch is installed",
    "name=MyReach robot=franka outptu=here": "did you mean output",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_is_one_line(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert new_task(arguments.split()) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and REFUSED[arguments] in text
    assert not list(tmp_path.iterdir())


def test_the_command_that_installs_a_package_is_one_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert new_task(["name=MyReach", "robot=franka", "output='a b/c'"]) == 0
    assert "install it: uv pip install --no-deps -e 'a b/c'\n" in capsys.readouterr().out


def test_nothing_is_overwritten(tmp_path: Path):
    config = NewTaskConfig(name="Balance", robot="cartpole", output=str(tmp_path))
    files = task_files(config, None)
    check(config, files, None)
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(ConfigError, match="exists; allowed: another name, or output="):
        check(config, files, None)
