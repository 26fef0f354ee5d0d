"""The doors of the house: who may import whom. The contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

INTRUDERS = {
    "difftori_isaac/trajopt/intruder.py": "from difftori_isaac import world_models",
    "difftori_isaac/policies/intruder.py": "from difftori_isaac import envs\nimport dm_control, h5py, metaworld, warp",
    "difftori_isaac/data/intruder.py": "from difftori_isaac import learners",
    "difftori_isaac/learners/intruder.py": "def later():\n    import isaaclab.envs, theseus",
    "tasks/intruder.py": "from difftori_isaac import trajopt",
    "scripts/intruder.py": "from difftori_isaac.trajopt import layer",
}


def lint_imports(folder: Path) -> str:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_contracts_hold(root, pyproject):
    report = lint_imports(root)
    assert f"Contracts: {len(pyproject['tool']['importlinter']['contracts'])} kept, 0 broken." in report, report


def test_every_contract_catches_an_intruder(root, pyproject, tmp_path):
    for name in ("difftori_isaac", "tasks", "scripts"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    for path, code in INTRUDERS.items():
        (tmp_path / path).write_text(code)
    report = lint_imports(tmp_path)
    broken = set(re.findall(r"^(.+?) BROKEN", report, re.MULTILINE))
    assert broken == {contract["name"] for contract in pyproject["tool"]["importlinter"]["contracts"]}, report


def test_library_does_not_import_the_folders_mapped_into_it(root):
    """The contracts know the top-level folders as `tasks` and `scripts`; installed, they have another name."""
    mapped = ("difftori_isaac.tasks", "difftori_isaac.scripts", "difftori_isaac.configs")
    for path in (root / "difftori_isaac").rglob("*.py"):
        if path.is_relative_to(root / "difftori_isaac" / "run"):
            continue  # run may import everything
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(mapped)], f"{path}:{node.lineno}"
