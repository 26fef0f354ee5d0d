"""A short soak, one stretch, ended by SIGTERM, and two resumes of what it saved; and when a full disk counts as one."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


def test_a_disk_is_full_for_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SOAK.parent)
    soak = importlib.import_module("soak")
    for name, size in (("metrics.csv", 40_000), ("run.json", 10_000), ("report.html", 400_000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert soak.room(tmp_path) == 40_000 + 32_768

    def problems(last_iteration: int, message: str) -> list[str]:
        return soak.Stretch("disk full", 1, 8, last_iteration, 7, 0.1, 0.0, None, message).problems(5)

    refused = "error: cannot write checkpoint checkpoint_0000008.pt: No space left on device"
    assert problems(8, refused) == []
    assert problems(7, "error: cannot write to run_dir run: File too large") == [
        "no iteration",
        "no checkpoint that found the disk full",
    ]


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
