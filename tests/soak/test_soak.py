"""A short soak: one stretch, ended by SIGTERM, and two resumes of what it saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.sim
@pytest.mark.slow
def test_a_stretch_loses_nothing(tmp_path: Path):
    arguments = ["Cartpole", "--minutes=0", "--period=0", f"--run-dir={tmp_path / 'run'}", "num_envs=256"]
    done = subprocess.run([sys.executable, SOAK, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    stretch, report = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (stretch["fault"], stretch["exit_code"], stretch["problems"]) == ("SIGTERM", 0, [])
    assert stretch["saved_iteration"] == stretch["last_iteration"] >= 1
    assert report["resumes_agree"] and report["nonfinite_envs"] > 0 and report["solver_failures"] > 0
