"""Demonstrations as chunks: every observation with the actions from there on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from tensordict import TensorDict

from difftori_isaac.data.demonstrations import Demonstration


class Chunks(NamedTuple):
    """A batch."""

    obs: TensorDict
    """Observation groups, batch size (batch,)."""
    actions: torch.Tensor
    """Shape (batch, horizon, num_actions)."""


class ChunkDataset:
    """All samples of some demonstrations, on the device of the learner."""

    def __init__(self, demos: Sequence[Demonstration], horizon: int, device: torch.device | str) -> None:
        """Put the demonstrations, at least one, one after the other."""
        self.horizon = horizon
        self.obs = {name: torch.cat([demo.obs[name] for demo in demos]).to(device) for name in demos[0].obs}
        """Observation groups, each of shape (num_samples, ...)."""
        self.actions = torch.cat([demo.actions for demo in demos]).to(device)
        """Shape (num_samples, num_actions)."""
        lengths = torch.tensor([len(demo.actions) for demo in demos])
        self._last = (lengths.cumsum(0) - 1).repeat_interleave(lengths).to(device)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.actions)

    def sample(self, count: int) -> Chunks:
        """Uniformly drawn samples, with torch's global generator."""
        return self.rows(torch.randint(len(self), (count,), device=self.actions.device))

    def rows(self, rows: torch.Tensor) -> Chunks:
        """Samples by their numbers; past the end of a demonstration, its last action is repeated."""
        steps = rows[:, None] + torch.arange(self.horizon, device=rows.device)
        obs = {name: values[rows] for name, values in self.obs.items()}
        return Chunks(TensorDict(obs, [len(rows)]), self.actions[torch.minimum(steps, self._last[rows, None])])
