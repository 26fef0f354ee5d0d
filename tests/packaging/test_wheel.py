"""The wheel holds the whole project below one name, data files included."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

SOURCES = {"difftori_isaac": "difftori_isaac"} | {
    name: f"difftori_isaac/{name}" for name in ("tasks", "configs", "scripts")
}
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """Builds the wheel from a copy of the sources, as pip does."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copytree(root / name, copy / name, ignore=IGNORED)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


def test_wheel_holds_every_file_of_the_sources(root, wheel):
    expected = {
        f"{target}/{path.relative_to(root / source).as_posix()}"
        for source, target in SOURCES.items()
        for path in (root / source).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == expected
    assert any(name.endswith(".usda") for name in files)
    assert any(name.endswith(".yaml") for name in files)


def test_packages_of_the_wheel_are_importable_from_it(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    names = ["difftori_isaac", *(target.replace("/", ".") for target in SOURCES.values())]
    code = (
        "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); "
        "print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[2:]]))"
    )
    # -S leaves out the editable installation, -P the working directory: only the wheel can answer.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code, str(tmp_path), *names],
        env={"PYTHONPATH": site},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert all(file.startswith(str(tmp_path)) for file in json.loads(done.stdout.splitlines()[-1]))


def test_wheel_names_its_entry_points_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
        entry_points = archive.read(info["entry_points.txt"]).decode()
        metadata = archive.read(info["METADATA"]).decode()
    assert "[isaaclab.tasks]\ndifftori_isaac = difftori_isaac.tasks\n" in entry_points
    assert "License-Expression: BSD-3-Clause\n" in metadata
    assert "licenses/LICENSE" in info
