"""Demonstrations in HDF5 files of robomimic's layout, which Isaac Lab's recorders write too.

``data/demo_<i>`` has ``actions``, shape (num_samples, num_actions), and ``obs``: one array per observation group, shape
(num_samples, ...), or a single array, which is the group ``policy``. ``rewards`` and ``dones`` are of shape
(num_samples,). Row t holds the observation, and the action to take there; ``executed_actions``, of the shape of
``actions``, are what was done instead, where noise was added or the environment clips actions. Where its attribute
``success`` is false and that of another is not, as Isaac Lab writes it, an episode is no demonstration.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

_EXECUTED = "executed_actions"
POLICY = "policy"
"""Observation group of a file whose observations are a single array."""


class Demonstration(NamedTuple):
    """One episode, without the observation behind its last action."""

    obs: dict[str, torch.Tensor]
    """Observation groups, each of shape (num_samples, ...): float32, but for images of uint8."""
    actions: torch.Tensor
    """Shape (num_samples, num_actions)."""
    rewards: torch.Tensor | None
    """Shape (num_samples,); None if the file has none."""
    executed: torch.Tensor | None = None
    """What was done if it was not ``actions``, of the same shape."""

    @property
    def episode_return(self) -> float:
        """Sum of the rewards; NaN if there are none."""
        return float("nan") if self.rewards is None else float(self.rewards.sum())

    @property
    def layouts(self) -> dict[str, str]:
        """Shapes of a sample, of ``actions`` and, by ``observation group <name>``, of what is observed.

        Those of images are followed by the type of their numbers, which tells the scale.
        """
        arrays = {"actions": self.actions} | {f"observation group {name}": value for name, value in self.obs.items()}
        return {name: _layout(array) for name, array in arrays.items()}


def read(path: Path, groups: Sequence[str], limit: int | None = None) -> list[Demonstration]:
    """The first demonstrations of a file, by their numbers, without those that failed.

    Args:
        path: The file.
        groups: Observation groups that are wanted.
        limit: How many demonstrations; None is all.

    Raises:
        ValueError: If there is no such file, it is damaged or has another layout, fewer demonstrations or not all the
            groups, if demonstrations have different shapes or types of images, or if something in it is not finite.
    """
    if not path.exists():
        raise ValueError(f"demonstrations {path} cannot be read: there is no such file; allowed: an HDF5 file")
    with _undamaged(f"demonstrations {path}"), h5py.File(path, "r") as file:
        return _read(file, path, groups, limit)


def is_hdf5(path: Path) -> bool:
    """Whether there is a file, and of HDF5."""
    return path.is_file() and h5py.is_hdf5(path)


def made_in(path: Path) -> tuple[str, list[str]] | None:
    """Task, and settings of the environment, that a file of :func:`writing` was made with.

    None if another program wrote it, or it is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            env = json.loads(str(file["data"].attrs["env_args"]))
            return (env["env_name"], env["env_kwargs"]["env_overrides"]) if env["type"] == "difftori_isaac" else None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def check_layouts(path: Path, demo: Demonstration, obs: Mapping[str, torch.Tensor], num_actions: int) -> None:
    """Check that demonstrations of ``path``, of which ``demo`` is one, are of an environment like this one.

    Args:
        path: Their file.
        demo: One of them.
        obs: Observation groups of the environment, each of shape (batch, ...).
        num_actions: Number of actions.

    Raises:
        ValueError: If they are not.
    """
    wanted = Demonstration(dict(obs), torch.empty(0, num_actions), None).layouts
    for what, found in demo.layouts.items():
        if found != wanted[what]:
            raise ValueError(f"demonstrations {path} have {what} of shape {found}; allowed here: {wanted[what]}")


@contextmanager
def _undamaged(where: str) -> Iterator[None]:
    """Turns what h5py raises where bytes are damaged, which is of many types, into a ValueError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read: {reason}; allowed: an HDF5 file that is whole") from None


def _read(file: Any, path: Path, groups: Sequence[str], limit: int | None) -> list[Demonstration]:
    data = file.get("data")
    found = [name for name in data if re.fullmatch(r"demo_\d+", name)] if _is_group(data) else []
    if not found:
        raise ValueError(f"demonstrations {path} has no data/demo_<number>; allowed: a file of robomimic's layout")
    found.sort(key=_number)
    names = [name for name in found if np.all(data[name].attrs.get("success", True))]
    if failed := len(found) - len(names):
        others = "left out" if names else "learned from, as there are no others"
        print(f"note: {failed} of {len(found)} demonstrations in {path} with success=False: {others}")
        names = names or found
    if limit is not None and limit > len(names):
        raise ValueError(f"demonstrations {path} has {len(names)}, but {limit} are asked for; allowed: at most as many")
    demos: list[Demonstration] = []
    for name in names[:limit]:
        with _undamaged(where := f"{path}: {name}"):
            demos.append(_read_one(data[name], where, groups))
        for what, layout in demos[-1].layouts.items():
            if layout != (first := demos[0].layouts[what]):
                raise ValueError(f"{where} has {what} of shape {layout}; allowed: {first}, as in {names[0]}")
    return demos


def _read_one(demo: Any, where: str, groups: Sequence[str]) -> Demonstration:
    if not _is_group(demo):
        raise ValueError(f"{where} is an array; allowed: a group that has obs and actions")
    if missing := [name for name in ("obs", "actions") if name not in demo]:
        raise ValueError(f"{where} has no {missing[0]}; it has: {', '.join(demo)}")
    arrays = demo["obs"] if _is_group(demo["obs"]) else {POLICY: demo["obs"]}
    if missing := [name for name in groups if name not in arrays]:
        hint = " (Isaac Lab records a whole group with its concatenate_terms=true)" if POLICY in missing else ""
        raise ValueError(f"{where} has no observation group {missing[0]}; it has: {', '.join(arrays)}{hint}")
    actions = _tensor(demo["actions"], f"{where}, actions")
    others = {name: _tensor(demo[name], f"{where}, {name}") for name in ("rewards", _EXECUTED) if name in demo}
    obs = {name: _tensor(arrays[name], f"{where}, observation group {name}") for name in groups}
    lengths = {name: len(tensor) for name, tensor in {**obs, "actions": actions, **others}.items()}
    if len(set(lengths.values())) > 1 or len(actions) == 0:
        raise ValueError(f"{where} has different or no samples: {lengths}; allowed: as many of each, at least one")
    rewards = others.get("rewards")
    if rewards is not None and rewards.shape[1:] not in ((), (1,)):
        raise ValueError(f"{where}, rewards is of shape {tuple(rewards.shape)}; allowed: ({len(actions)},)")
    executed = others.get(_EXECUTED)
    if executed is not None and executed.shape != actions.shape:
        shapes = f"{tuple(executed.shape)}; allowed: {tuple(actions.shape)}, that of actions"
        raise ValueError(f"{where}, {_EXECUTED} is of shape {shapes}")
    return Demonstration(obs, actions, None if rewards is None else rewards.flatten(), executed)


def _is_group(node: Any) -> bool:
    return isinstance(node, h5py.Group)


def _tensor(dataset: Any, what: str) -> torch.Tensor:
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{what} is a group; allowed: an array")
    if dataset.dtype.kind not in "biuf" or not dataset.shape:
        found = f"of type {dataset.dtype} and shape {dataset.shape}"
        raise ValueError(f"{what} is {found}; allowed: numbers of shape (num_samples, ...)")
    array = dataset[()]
    is_images = array.dtype == np.uint8 and array.ndim > 3
    with np.errstate(over="ignore"):  # to Inf, which is refused
        tensor = torch.from_numpy(array if is_images else array.astype(np.float32))
    if not tensor.isfinite().all():
        raise ValueError(f"{what} is not finite everywhere; allowed: demonstrations without NaN and Inf")
    return tensor


def _layout(array: torch.Tensor) -> str:
    shape = str(tuple(array.shape[1:]))
    return shape if array.ndim <= 3 else f"{shape} as {'uint8' if array.dtype == torch.uint8 else 'float'}"


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

    def add(self, demo: Demonstration, number: int | None = None) -> None:
        """Write a demonstration, as the next one unless its number is given."""
        group = self._data.create_group(f"demo_{self.num_demos if number is None else number}")
        length = len(demo.actions)
        group.attrs["num_samples"] = length
        arrays = {"actions": demo.actions, "rewards": demo.rewards, _EXECUTED: demo.executed}
        for name, tensor in arrays.items():
            if tensor is not None:
                group[name] = tensor.numpy()
        group["dones"] = np.arange(1, length + 1) == length
        for name, tensor in demo.obs.items():
            group.create_dataset(f"obs/{name}", data=tensor.numpy(), compression="gzip" if tensor.ndim > 2 else None)
        self.num_demos += 1
        self.num_samples += length
        self._data.attrs["total"] = self.num_samples


@contextmanager
def writing(path: Path, env_args: Mapping[str, Any]) -> Iterator[DemonstrationWriter]:
    """A file that is there when the context ends without an error, and otherwise stays as it was.

    It is held in memory until then: HDF5 crashes where a disk is full.

    Args:
        path: The file.
        env_args: What the demonstrations were made in, in robomimic's keys ``env_name``, ``type`` and ``env_kwargs``.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # of its own where others write the same file
    try:
        with partial.open("wb") as target, io.BytesIO() as memory:
            with h5py.File(memory, "w") as file:
                yield DemonstrationWriter(file, env_args)
            target.write(memory.getbuffer())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
