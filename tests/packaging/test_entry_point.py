"""Isaac Lab's own commands find the tasks, from any folder."""

from __future__ import annotations

import subprocess
import sys

import pytest


def isaaclab(folder, *arguments):
    command = [sys.executable, "-m", "isaaclab", *arguments]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_isaaclab_lists_the_tasks(tmp_path):
    listed = isaaclab(tmp_path, "list_envs")
    for task in ("DiffTori-Cartpole-Direct", "DiffTori-Reach-Franka", "DiffTori-Lift-Franka"):
        assert f" {task} " in listed


@pytest.mark.sim
@pytest.mark.slow
def test_isaaclab_trains_on_a_task(tmp_path):
    arguments = "--rl_library rsl_rl --task DiffTori-Lift-Franka --num_envs 16 --max_iterations 2 --device cpu"
    printed = isaaclab(tmp_path, "train", *arguments.split(), "agent.device=cpu")
    assert "Training time" in printed
    assert list(tmp_path.glob("logs/rsl_rl/**/model_*.pt"))
