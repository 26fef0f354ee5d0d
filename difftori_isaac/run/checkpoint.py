"""Checkpoints: one file holds all that a run needs to go on, written whole or not at all, and checked when read."""

from __future__ import annotations

import os
import pickle
import random
import re
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftori_isaac.run.errors import ConfigError, RunError

FORMAT, FORMER = "difftori_isaac checkpoint 2", "difftori_isaac checkpoint 1"
BEST = "best.pt"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after a whole number of iterations."""

    config: dict[str, Any]
    """The run's configuration."""
    iteration: int
    """Iterations done."""
    env_steps: int
    """Environment steps done, over all environments."""
    wall_time_s: float
    """Training time [s], over all starts."""
    learner: dict[str, Any]
    """Weights, optimizers and normalisers, from the algorithm's ``save()``."""
    learning_rate: float
    """Learning rate that the schedule has arrived at."""
    rng: dict[str, Any]
    """States of the random number generators."""
    env: dict[str, Any]
    """What the environment needs to continue a curriculum."""
    episodes: dict[str, Any]
    """The window over which the mean return is taken."""
    best_return: float | None
    """Highest mean return of a checkpoint so far."""
    others: list[dict[str, Any]] = field(default_factory=list)
    """``rng`` and ``episodes`` of ranks 1, 2, ... of a training in several processes."""


def rng_state() -> dict[str, Any]:
    """States of torch's, CUDA's, numpy's and python's generators, as plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`rng_state` gave. CUDA states are kept only where there are as many GPUs as before."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def numbered(run_dir: Path) -> list[Path]:
    """Checkpoints of a run, oldest first, without the best one."""
    found = (path for path in folder(run_dir).glob("checkpoint_*.pt") if re.fullmatch(r"checkpoint_\d{7,}", path.stem))
    return sorted(found, key=iteration_of)


def iteration_of(path: Path) -> int:
    """Iterations done at a numbered checkpoint."""
    return int(path.stem.rpartition("_")[2])


def _path(run_dir: Path, iteration: int) -> Path:
    return folder(run_dir) / f"checkpoint_{iteration:07d}.pt"


def newest(run_dir: Path) -> int:
    """Iterations done at the newest checkpoint of a run; 0 if there is none."""
    return max(map(iteration_of, numbered(run_dir)), default=0)


def save(checkpoint: Checkpoint, run_dir: Path, *, keep: int, best: bool) -> Path:
    """Writes a checkpoint, marks it as the best one if asked, then deletes all but the last ``keep``.

    The file appears under its name only when it is complete and on the disk.

    Raises:
        RunError: If it cannot be written; earlier checkpoints are untouched.
    """
    path = _path(run_dir, checkpoint.iteration)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(_payload(checkpoint), path)
        if best:
            _link(checkpoint, path, path.with_name(BEST))
        for old in numbered(run_dir)[:-keep]:
            old.unlink()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"cannot write checkpoint {path}: {reason}; earlier checkpoints are untouched, "
            "make room and continue with resume=latest"
        ) from error
    return path


def _link(checkpoint: Checkpoint, path: Path, other: Path) -> None:
    """Gives the file of a checkpoint another name as well."""
    link = path.with_suffix(".link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        _write(_payload(checkpoint), link)
    link.replace(other)


def _payload(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of a checkpoint without copying its tensors."""
    return {"format": FORMAT, **vars(checkpoint)}


def _write(payload: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(path: Path, *, device: str = "cpu", mapped: bool = False) -> Checkpoint:
    """Reads a checkpoint, every byte checked.

    Args:
        path: The file.
        device: Device of the tensors.
        mapped: Whether tensors stay in the file until they are looked at: a replay buffer may be larger than memory.

    Raises:
        ConfigError: If the file is missing, truncated, corrupted or something else.
    """
    if not path.is_file():
        raise ConfigError(
            f"checkpoint {path} does not exist; allowed: latest, best, a checkpoint file or a run directory"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load checks no checksums
            if (member := archive.testzip()) is not None:
                raise ConfigError(f"checkpoint {path} is corrupted (checksum of {member}); use an earlier one")
        payload = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ConfigError(
            f"checkpoint {path} is truncated, corrupted or no checkpoint ({error}); use an earlier one"
        ) from None
    except (RuntimeError, pickle.UnpicklingError, KeyError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"checkpoint {path} cannot be read ({str(error).splitlines()[0]}); use an earlier one"
        ) from None
    version = payload.pop("format", None) if isinstance(payload, dict) else None
    if version not in (FORMAT, FORMER):
        raise ConfigError(f"{path} is not a checkpoint of difftori_isaac; allowed: a file written by its train script")
    try:
        checkpoint = Checkpoint(**payload)
        return _renewed(checkpoint) if version == FORMER else checkpoint
    except TypeError as error:
        raise ConfigError(f"checkpoint {path} is of another version ({error})") from None


def _renewed(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint of the former format, whose configuration means what it meant.

    Heads of a latent model were as the dynamics, and the model-based learner planned with its own discount whatever
    ``trajopt.discount`` said.
    """
    config = dict(checkpoint.config)
    if config["world_model"].get("name") == "latent":
        config["world_model"] = {"head_hidden_dims": None} | config["world_model"]
    if config["learner"].get("name") == "model_based":
        config["trajopt"] = config["trajopt"] | {"discount": None}
    return replace(checkpoint, config=config)


def find(run_dir: Path, which: str) -> Path:
    """Path of the ``latest`` or ``best`` checkpoint of a run.

    Raises:
        ConfigError: If there is none.
    """
    found = numbered(run_dir)[-1:] if which == "latest" else [p for p in [folder(run_dir) / BEST] if p.is_file()]
    if not found:
        there = ", ".join(path.name for path in numbered(run_dir)) or "none"
        raise ConfigError(f"{run_dir} has no {which} checkpoint; its checkpoints: {there}")
    return found[0]


def discard_after(run_dir: Path, iteration: int) -> None:
    """Deletes half-written files and checkpoints of later iterations than the one a run continues from.

    If that is the best one alone, which may be older than all that are kept, it gets its number again.
    """
    there = folder(run_dir)
    for path in [*there.glob("*.tmp"), *there.glob("*.link")]:
        path.unlink()
    with suppress(ConfigError):  # there is no best one, or none that can be read
        checkpoint = load(best := find(run_dir, "best"), mapped=True)
        if checkpoint.iteration > iteration:
            best.unlink()
        elif checkpoint.iteration == iteration and not (path := _path(run_dir, iteration)).exists():
            _link(checkpoint, best, path)
    for path in numbered(run_dir):
        if iteration_of(path) > iteration:
            path.unlink()
