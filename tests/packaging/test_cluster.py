"""The page on clusters and the container recipes agree with what is there."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from difftori_isaac.run.compose import parse
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.sweep_plan import make_plan, values_of


@pytest.fixture(scope="module")
def blocks(root):
    return re.findall(r"```bash\n(.*?)```", (root / "docs" / "cluster.md").read_text(), re.DOTALL)


def test_scripts_are_bash(blocks):
    scripts = [block for block in blocks if block.startswith("#!/bin/bash")]
    assert len(scripts) == 2
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert "#SBATCH --signal=TERM@" in script and " --requeue" in script


def test_sweeps_of_the_page_are_understood(blocks):
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("uv run scripts/train.py -m ")]
    assert len(lines) == 5
    for line in lines:
        plan = make_plan(shlex.split(line, comments=True)[4:])
        parse([*plan.fixed, *(values_of(item)[0] for item in plan.swept.values())], TrainConfig)


def test_images_are_made_of_what_is_built(root):
    recipe = (root / "docker" / "difftori_isaac.def").read_text()
    dockerfile = (root / "docker" / "Dockerfile").read_text()
    files = re.findall(r"^    (\S+) /opt/difftori_isaac/$", recipe, re.MULTILINE)
    assert all((root / name).exists() for name in files)
    assert {f"!{name}" for name in files} <= set((root / ".dockerignore").read_text().split())
    assert (
        re.search(r"^From: (\S+)$", recipe, re.MULTILINE)[1] == re.search(r"^FROM (\S+)$", dockerfile, re.MULTILINE)[1]
    )
    subprocess.run(["sh", "-n", root / "docker" / "install.sh"], check=True)
