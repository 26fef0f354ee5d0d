"""Planners that are not dependencies, installed beside this environment and measured in processes of their own."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.row import Row


class Peer(NamedTuple):
    """Someone else's planner."""

    workload: str
    """Module of this package and, after a colon, its function that makes a ``Workload`` of a problem and a size."""
    requirements: tuple[str, ...]
    """What it needs beyond this environment, every version pinned; nothing else is installed."""


_TORCHRL = ("torchrl==0.14.1", "tensordict==0.14.3", "hoptorch==0.1.4")
PEERS = {
    "mpc.pytorch": Peer("mpc_pytorch:workload", ("mpc==0.0.6",)),
    "pytorch-mppi": Peer(
        "latent_pytorch_mppi:workload", ("pytorch-mppi==0.9.1", "arm-pytorch-utilities==0.5.0", "pytorch-seed==0.2.0")
    ),
    "torchrl MPPI": Peer("latent_torchrl:mppi", _TORCHRL),
    "torchrl CEM": Peer("latent_torchrl:cem", _TORCHRL),
}
"""By the name of the solver in the table."""


class PeerError(RuntimeError):
    """A peer cannot be installed or run; the message is one line."""


def measure_peer(problem: Any, size: Size, *, solver: str, **settings: Any) -> Row:
    """What :func:`~difftori_isaac.benchmarks.measure.measure` finds for one of :data:`PEERS`.

    A peer goes into a cache folder of its own and is searched for there before it is in this environment, in which
    nothing changes; all else, torch among it, is this environment's.

    Args:
        problem: The problem of the suite, which the peer's function builds anew.
        size: How large it is.
        solver: The peer.
        settings: The other arguments of ``measure``.

    Raises:
        PeerError: If it cannot be installed or run.
    """
    peer = PEERS[solver]
    # -P: what lies in the working directory is not to be imported.
    command = [sys.executable, "-P", "-m", f"{__name__}.program"]
    task = pickle.dumps((f"{__name__}.{peer.workload}", problem, size, {"solver": solver, **settings}))
    path = os.pathsep.join(filter(None, (str(_install(peer.requirements)), os.environ.get("PYTHONPATH"))))
    return Row(**json.loads(_output(command, input=task, env=os.environ | {"PYTHONPATH": path})))


def _install(requirements: tuple[str, ...]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "difftori-isaac" / "peers" / "+".join(requirements)
    if not folder.exists():
        uv = shutil.which("uv")
        if uv is None:
            raise PeerError(f"{' '.join(requirements)} is not installed and uv is not on the PATH")
        temporary = folder.with_name(str(os.getpid()))
        try:
            temporary.mkdir(parents=True)
            # From there, where uv does not find the versions that this project pins.
            where = ["--directory", str(temporary), "--python", sys.executable, "--target", str(temporary)]
            _output([uv, "pip", "install", "--no-deps", *where, *requirements])
            temporary.rename(folder)
        except OSError as error:
            raise PeerError(f"cannot write {folder}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _output(command: list[str], **options: Any) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, **options)
    if done.returncode != 0:
        last_line = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise PeerError(f"{Path(command[0]).name} ended with code {done.returncode}: {last_line}")
    return done.stdout
