"""run.json: what ran, from which code, on what."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import difftori_isaac
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.files import RunRecord, read_json

PACKAGES = ("difftori-isaac", "isaaclab", "newton", "mujoco-warp", "warp-lang", "torch", "rsl-rl-lib", "theseus-ai")
"""Distributions whose versions a result may depend on."""


def write_record(run_dir: Path, *, iteration: int, processes: int, num_envs: int) -> None:
    """Adds this start to the run's run.json, and what differs from the git revision to a patch beside it.

    Args:
        run_dir: Directory of the run.
        iteration: Iterations done before this start.
        processes: Number of processes that train.
        num_envs: Environments of all of them together.

    Raises:
        ConfigError: If run.json is damaged.
    """
    path = run_dir / "run.json"
    starts = read_json(path, RunRecord).get("starts", [])
    git, diff = _git(Path(difftori_isaac.__file__).parent)
    if diff:
        git["diff"] = f"git_{len(starts)}.patch"
        (run_dir / git["diff"]).write_bytes(diff)
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "iteration": iteration,
            "processes": processes,
            "num_envs": num_envs,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "directory": str(Path.cwd()),
            "git": git,
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
            "hardware": _hardware(),
        }
    )
    write_atomic(path, json.dumps({"starts": starts}, indent=2) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"cannot write {path}: {error.strerror}; give a place that can be written") from error


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> tuple[dict[str, Any], bytes]:
    """State of the repository that ``folder`` lies in, and what differs from its revision, in the files' own bytes.

    Where git does not answer in ten seconds, ``dirty`` may be None.
    """

    def git(*arguments: str) -> bytes | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def lines(*arguments: str) -> list[str] | None:
        return None if (answer := git(*arguments)) is None else os.fsdecode(answer).splitlines()

    root = folder
    root = Path(next(iter(lines("rev-parse", "--show-toplevel") or ()), folder))
    revision = next(iter(lines("rev-parse", "HEAD") or ()), None)
    diff = git("diff", "--binary", "HEAD") if revision else b""
    untracked = lines("ls-files", "--others", "--exclude-standard") if revision else []
    dirty = None if not (diff or untracked) and None in (diff, untracked) else bool(diff or untracked)
    return {"revision": revision, "dirty": dirty, "untracked": (untracked or [])[:100]}, diff or b""


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "system": platform.platform(), "cpus": os.cpu_count(), "gpus": gpus}
