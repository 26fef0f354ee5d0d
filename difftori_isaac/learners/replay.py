"""Replay of parallel environments: sub-sequences that never leave their episode, with its true last observation."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

_OBS = "obs/"
_CANDIDATES = 4
_PRIORITY_MIN = 1e-6
_COMFORTABLE_SHARE = 0.8
"""Share of the available memory that an error suggests to fill."""


class Replayed(NamedTuple):
    """Sub-sequences of ``length`` steps; what lies behind the end of an episode, or the newest step, is not valid."""

    obs: TensorDict
    """Observations, the last one of an episode included, batch size (batch, length + 1)."""
    actions: torch.Tensor
    """Shape (batch, length, action_dim)."""
    rewards: torch.Tensor
    """Shape (batch, length)."""
    terminated: torch.Tensor
    """Whether the episode ended in a state of no value with the step, not by a time limit, shape (batch, length)."""
    valid: torch.Tensor
    """1 where the step belongs to the episode of the first step, shape (batch, length)."""
    weights: torch.Tensor
    """Importance weights of prioritised sampling, 1 otherwise, shape (batch,)."""
    index: tuple[torch.Tensor, torch.Tensor]
    """Row and environment of the first step, each of shape (batch,)."""


class ReplayBuffer:
    """A ring of rows for each environment, in tensors of shape (num_rows, num_envs, ...).

    A row holds an observation and, if it is a *step*, what was done there. The last observation of an episode has a
    row of its own without a step, and so has the newest observation until its action is known: rows of one episode
    follow each other, and a sub-sequence ends where a row is no step. Nothing here waits for the device
    of the rows.
    """

    def __init__(
        self,
        obs: TensorDict,
        action_dim: int,
        *,
        capacity: int,
        device: torch.device | str,
        storage_device: torch.device | str | None = None,
        priority_alpha: float = 0.0,
        priority_beta: float = 0.0,
    ) -> None:
        """Allocate the rows, on the CPU without taking their memory before they are written.

        Args:
            obs: First observations of all environments, batch size (num_envs,).
            action_dim: Number of actions.
            capacity: Rows in total, at least four for each environment.
            device: Device of what is returned.
            storage_device: Device of the rows; the same if not given.
            priority_alpha: Exponent of priorities; 0 is uniform sampling.
            priority_beta: Exponent of importance weights.

        Raises:
            ValueError: If the capacity is too small, or larger than the memory.
        """
        self.num_envs, self.num_rows = len(obs), capacity // len(obs)
        if self.num_rows < 4:
            raise ValueError(
                f"learner.buffer_capacity is {capacity}; allowed: at least 4 * num_envs = {4 * self.num_envs}"
            )
        self.device = torch.device(device)
        self.storage_device = torch.device(storage_device or device)
        shape = (self.num_rows, self.num_envs)
        first = {
            **{_OBS + name: value for name, value in obs.items()},
            "action": torch.zeros(self.num_envs, action_dim),
            "reward": torch.zeros(self.num_envs),
            "terminated": torch.zeros(self.num_envs, dtype=torch.bool),
            "step": torch.zeros(self.num_envs, dtype=torch.bool),
        }
        num_bytes = capacity * sum(value.nbytes for value in first.values()) // self.num_envs
        if num_bytes > (total := _memory(self.storage_device)):
            fitting = int(capacity * _COMFORTABLE_SHARE * _available_memory(self.storage_device) / num_bytes)
            raise ValueError(
                f"learner.buffer_capacity is {capacity}, which takes {num_bytes / 2**30:.1f} GiB with these "
                f"observations; allowed on {self.storage_device}: at most {total / 2**30:.1f} GiB, and "
                f"learner.buffer_capacity={fitting} leaves room for the rest"
            )
        self.rows = {
            name: _zeros((*shape, *value.shape[1:]), value.dtype, self.storage_device) for name, value in first.items()
        }
        self.written = torch.zeros(self.num_envs, dtype=torch.int64, device=self.storage_device)
        """Number of the newest row of each environment, counted from the beginning, shape (num_envs,)."""
        self.priority_alpha, self.priority_beta = priority_alpha, priority_beta
        self.priorities = torch.zeros(shape if priority_alpha > 0 else (0,), device=self.storage_device)
        self._envs = torch.arange(self.num_envs, device=self.storage_device)
        self._num_added = 0
        self._begin(self.written, obs)

    @property
    def obs_like(self) -> dict[str, torch.Tensor]:
        """Observation groups of no environment, each of shape (0, ...) and the type of those that are held."""
        return {name.removeprefix(_OBS): value[0, :0] for name, value in self.rows.items() if name.startswith(_OBS)}

    def __len__(self) -> int:
        """Environment steps held, those of a failed environment and rows between episodes included."""
        return min(self._num_added, self.num_rows) * self.num_envs

    def rewards(self) -> torch.Tensor:
        """Rewards of all steps held, in no order, shape (num_steps,)."""
        return self.rows["reward"][self.rows["step"]].to(self.device)

    def add(
        self,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        obs: TensorDict,
        *,
        dones: torch.Tensor,
        truncated: torch.Tensor,
        final_obs: TensorDict | None = None,
        skip: torch.Tensor | None = None,
    ) -> None:
        """Add one step of every environment, from the observation of the last call.

        Args:
            actions: Shape (num_envs, action_dim).
            rewards: Shape (num_envs,).
            obs: Observations after the step, of the new episode where one began, batch size (num_envs,).
            dones: Ends of episodes, bool of shape (num_envs,).
            truncated: Ends by a time limit, bool of shape (num_envs,).
            final_obs: Last observations of the episodes that ended; needed if any did.
            skip: Environments whose step is not stored, bool of shape (num_envs,).
        """
        where = self.storage_device
        dones, truncated = dones.to(where, torch.bool), truncated.to(where, torch.bool)
        stored = torch.ones_like(dones) if skip is None else ~skip.to(where, torch.bool)
        row = self.written % self.num_rows
        self._put("action", row, actions)
        self._put("reward", row, rewards)
        self._put("terminated", row, dones & ~truncated)
        self._put("step", row, stored)
        if self.priority_alpha > 0:
            self.priorities[row, self._envs] = self.priorities.amax().clamp(min=1.0) * stored
        self._begin(self.written + 1, obs if final_obs is None else final_obs)
        self.written += 1 + dones.long()
        self._begin(self.written, obs)
        self._num_added += 1

    def sample(self, batch_size: int, length: int) -> Replayed:
        """Draw sub-sequences of ``length`` steps, with replacement; every stored step may be the first."""
        row, env, weights = self._draw(batch_size) if self.priority_alpha == 0 else self._draw_prioritized(batch_size)
        steps = (row[:, None] + torch.arange(length + 1, device=row.device)) % self.num_rows
        envs = env[:, None]
        obs = {name: self._get(name, steps, envs) for name in self.rows if name.startswith(_OBS)}
        steps = steps[:, :-1]
        return Replayed(
            obs=TensorDict({name.removeprefix(_OBS): value for name, value in obs.items()}, [batch_size, length + 1]),
            actions=self._get("action", steps, envs),
            rewards=self._get("reward", steps, envs),
            terminated=self._get("terminated", steps, envs),
            valid=self._get("step", steps, envs).float().cumprod(dim=1),
            weights=weights.to(self.device),
            index=(row, env),
        )

    def update_priorities(self, index: tuple[torch.Tensor, torch.Tensor], errors: torch.Tensor) -> None:
        """Set the priorities of sampled first steps to their errors, shape (batch,)."""
        row, env = index
        errors = errors.detach().abs().to(self.storage_device).nan_to_num(0.0, 0.0) + _PRIORITY_MIN
        self.priorities[row, env] = errors.pow(self.priority_alpha) * self.rows["step"][row, env]

    def state_dict(self) -> dict[str, Any]:
        """The rows written so far and all that is needed to go on, as tensors and plain values."""
        used = slice(0, min(int(self.written.max()) + 1, self.num_rows))
        return {
            "rows": {name: value[used].cpu().clone() for name, value in self.rows.items()},
            "written": self.written.cpu().clone(),
            "priorities": self.priorities[used].cpu().clone(),
            "num_added": self._num_added,
            "num_rows": self.num_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave. The newest observation is a new one: call :meth:`restart` next.

        Raises:
            ValueError: If it is of another number of environments or another capacity.
        """
        saved, own = (len(state["written"]), state["num_rows"]), (self.num_envs, self.num_rows)
        if saved != own:
            raise ValueError(
                f"the saved replay buffer has {saved[1]} rows of {saved[0]} environments; "
                f"allowed: {own[1]} rows of {own[0]} environments, or learner.save_replay=false"
            )
        for name, value in self.rows.items():
            value[: len(state["rows"][name])] = state["rows"][name].to(self.storage_device)
        self.written.copy_(state["written"])
        self._num_added = state["num_added"]
        if self.priority_alpha > 0:
            saved = state["priorities"] if len(state["priorities"]) else state["rows"]["step"].float()
            self.priorities[: len(saved)] = saved.to(self.storage_device)

    def restart(self, obs: TensorDict) -> None:
        """Begin new episodes in all environments, from observations of batch size (num_envs,)."""
        self.written += 1
        self._begin(self.written, obs)

    def _put(self, name: str, row: torch.Tensor, value: torch.Tensor) -> None:
        self.rows[name][row, self._envs] = value.to(self.storage_device)

    def _get(self, name: str, row: torch.Tensor, env: torch.Tensor) -> torch.Tensor:
        return self.rows[name][row, env].to(self.device)

    def _begin(self, number: torch.Tensor, obs: TensorDict) -> None:
        """Write observations into rows, which are no steps yet."""
        row = number % self.num_rows
        for name, value in obs.items():
            self._put(_OBS + name, row, torch.as_tensor(value))
        self._put("step", row, torch.zeros_like(self._envs, dtype=torch.bool))
        if self.priority_alpha > 0:
            self.priorities[row, self._envs] = 0.0

    def _draw(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, environments and weights. A row that is no step is drawn only if several candidates are none."""
        where = self.storage_device
        env = torch.randint(self.num_envs, (_CANDIDATES, batch_size), device=where)
        held = self.written.clamp(max=self.num_rows - 1)[env]
        back = 1 + (torch.rand(env.shape, device=where, dtype=torch.float64) * held).long()
        row = (self.written[env] - back) % self.num_rows
        first = self.rows["step"][row, env].long().argmax(dim=0, keepdim=True)
        row, env = row.gather(0, first)[0], env.gather(0, first)[0]
        return row, env, torch.ones(batch_size, device=where)

    def _draw_prioritized(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, environments and importance weights (Schaul et al., 2016), the largest weight of a batch being 1."""
        mass = self.priorities.flatten().cumsum(dim=0, dtype=torch.float64)
        drawn = torch.searchsorted(mass, mass[-1] * torch.rand(batch_size, device=mass.device, dtype=mass.dtype))
        drawn = drawn.clamp(max=len(mass) - 1)
        row, env = drawn // self.num_envs, drawn % self.num_envs
        weights = self.priorities[row, env].clamp(min=_PRIORITY_MIN).pow(-self.priority_beta)
        return row, env, weights / weights.amax()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, on the CPU of memory that the system hands out as it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def _memory(device: torch.device) -> int:
    """Memory of a device in total [byte]."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available_memory(device: torch.device) -> int:
    """Memory of the CPU that is not in use, or of a GPU in total [byte]."""
    if device.type == "cuda":
        return _memory(device)
    return 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))[0])
