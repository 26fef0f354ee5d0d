"""Planners that are not dependencies, installed beside this environment and run as programs of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENT = "mpc==0.0.6"


class PeerError(RuntimeError):
    """A peer cannot be installed or run; the message is one line."""


def run_mpc_pytorch(problem: dict[str, Any]) -> dict[str, Any]:
    """What :mod:`difftori_isaac.benchmarks.mpc_pytorch` answers to ``problem``.

    mpc.pytorch goes into a cache folder of its own, without its dependencies, and takes torch from this environment,
    in which nothing changes.

    Raises:
        PeerError: If it cannot be installed or run.
    """
    folder = _install(REQUIREMENT)
    # -P: the folder of the program, in which this package has modules, is not to be searched.
    command = [sys.executable, "-P", str(Path(__file__).with_name("mpc_pytorch.py"))]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return json.loads(_output(command, input=json.dumps(problem), env=environment))


def _install(requirement: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "difftori-isaac" / "peers" / requirement
    if not folder.exists():
        uv = shutil.which("uv")
        if uv is None:
            raise PeerError(f"{requirement} is not installed and uv is not on the PATH")
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        _output(
            [uv, "pip", "install", "--no-deps", "--python", sys.executable, "--target", str(temporary), requirement]
        )
        temporary.rename(folder)
    return folder


def _output(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerError(f"{Path(command[0]).name} ended with code {done.returncode}: {last_line}")
    return done.stdout
