"""Demonstrations in HDF5 files of robomimic's layout, which Isaac Lab's recorders write too.

``data/demo_<i>`` has ``actions``, shape (num_samples, num_actions), and ``obs``: one array per observation group, shape
(num_samples, ...), or a single array, which is the group ``policy``. ``rewards`` and ``dones`` are of shape
(num_samples,). Row t holds the observation, and the action taken there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

POLICY = "policy"
"""Observation group of a file whose observations are a single array."""


class Demonstration(NamedTuple):
    """One episode, without the observation behind its last action."""

    obs: dict[str, torch.Tensor]
    """Observation groups, each of shape (num_samples, ...)."""
    actions: torch.Tensor
    """Shape (num_samples, num_actions)."""
    rewards: torch.Tensor
    """Shape (num_samples,)."""


def read(path: Path, groups: Sequence[str], limit: int | None = None) -> list[Demonstration]:
    """The first demonstrations of a file, by their numbers.

    Args:
        path: The file.
        groups: Observation groups that are wanted.
        limit: How many demonstrations; None is all.

    Raises:
        ValueError: If there is no such file, it has another layout, fewer demonstrations or not all the groups, or
            if something in it is not finite.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path, groups, limit)
    except OSError as error:
        reason = "there is no such file" if not path.exists() else " ".join(str(error).split())
        raise ValueError(f"demonstrations {path} cannot be read: {reason}; allowed: an HDF5 file") from None


def _read(file: Any, path: Path, groups: Sequence[str], limit: int | None) -> list[Demonstration]:
    data = file.get("data")
    names = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=_number) if data else []
    if not names:
        raise ValueError(f"demonstrations {path} has no data/demo_<number>; allowed: a file of robomimic's layout")
    if limit is not None and limit > len(names):
        raise ValueError(f"demonstrations {path} has {len(names)}, but {limit} are asked for; allowed: at most as many")
    return [_read_one(data[name], f"{path}: {name}", groups) for name in names[:limit]]


def _read_one(demo: Any, where: str, groups: Sequence[str]) -> Demonstration:
    if missing := [name for name in ("obs", "actions") if name not in demo]:
        raise ValueError(f"{where} has no {missing[0]}; it has: {', '.join(demo)}")
    arrays = demo["obs"] if isinstance(demo["obs"], h5py.Group) else {POLICY: demo["obs"]}
    if missing := [name for name in groups if name not in arrays]:
        raise ValueError(f"{where} has no observation group {missing[0]}; it has: {', '.join(arrays)}")
    actions = _tensor(demo["actions"], f"{where}, actions")
    rewards = _tensor(demo["rewards"], f"{where}, rewards") if "rewards" in demo else torch.zeros(len(actions))
    obs = {name: _tensor(arrays[name], f"{where}, observation group {name}") for name in groups}
    lengths = {name: len(tensor) for name, tensor in {**obs, "actions": actions, "rewards": rewards}.items()}
    if len(set(lengths.values())) > 1 or len(actions) == 0:
        raise ValueError(f"{where} has different or no samples: {lengths}; allowed: as many of each, at least one")
    return Demonstration(obs, actions, rewards)


def _tensor(dataset: Any, what: str) -> torch.Tensor:
    array = dataset[()]
    tensor = torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float32))
    if not tensor.isfinite().all():
        raise ValueError(f"{what} is not finite everywhere; allowed: demonstrations without NaN and Inf")
    return tensor


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


class DemonstrationWriter:
    """An open file that demonstrations are added to."""

    def __init__(self, file: h5py.File, env_args: Mapping[str, Any]) -> None:
        """Take an empty file and what the demonstrations were made in."""
        self._data = file.create_group("data")
        self._data.attrs["env_args"] = json.dumps(dict(env_args))
        self.num_demos, self.num_samples = 0, 0
        """Demonstrations and samples so far."""

    def add(self, demo: Demonstration) -> None:
        """Write a demonstration."""
        group = self._data.create_group(f"demo_{self.num_demos}")
        length = len(demo.actions)
        group.attrs["num_samples"] = length
        group["actions"], group["rewards"] = demo.actions.numpy(), demo.rewards.numpy()
        group["dones"] = np.arange(1, length + 1) == length
        for name, tensor in demo.obs.items():
            group.create_dataset(f"obs/{name}", data=tensor.numpy(), compression="gzip" if tensor.ndim > 2 else None)
        self.num_demos += 1
        self.num_samples += length
        self._data.attrs["total"] = self.num_samples


@contextmanager
def writing(path: Path, env_args: Mapping[str, Any]) -> Iterator[DemonstrationWriter]:
    """A file that is there when the context ends without an error, and otherwise stays as it was.

    Args:
        path: The file.
        env_args: What the demonstrations were made in, in robomimic's keys ``env_name``, ``type`` and ``env_kwargs``.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            yield DemonstrationWriter(file, env_args)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
