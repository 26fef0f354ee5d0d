"""extension.toml is what Omniverse Kit expects, and agrees with the package."""

from __future__ import annotations

import importlib
import tomllib

import pytest


@pytest.fixture(scope="module")
def extension(root):
    return tomllib.loads((root / "extension.toml").read_text())


def test_extension_names_the_package(extension, pyproject, root):
    package = extension["package"]
    assert package["version"] == pyproject["project"]["version"]
    assert package["description"] == pyproject["project"]["description"]
    assert package["category"] == "isaaclab"
    assert (root / package["readme"]).is_file()
    assert (root / package["changelog"]).is_file()


def test_extension_depends_on_isaac_lab(extension):
    assert all(name.startswith("isaaclab") and options == {} for name, options in extension["dependencies"].items())
    assert "isaaclab" in extension["dependencies"]
    for name in extension["dependencies"]:
        assert importlib.util.find_spec(name), f"extension.toml depends on {name}, which is not installed"


def test_modules_of_the_extension_are_importable(extension):
    names = [module["name"] for module in extension["python"]["module"]]
    assert names == ["difftori_isaac", "difftori_isaac.tasks"]
    for name in names:
        importlib.import_module(name)


def test_importing_the_extension_registers_the_tasks(extension):
    gymnasium = pytest.importorskip("gymnasium")
    for module in extension["python"]["module"]:
        importlib.import_module(module["name"])
    assert {"DiffTori-Cartpole-Direct", "DiffTori-Reach-Franka", "DiffTori-Lift-Franka"} <= set(gymnasium.registry)
