"""Gymnasium environments, in this process or in several, as one :class:`~difftori_isaac.envs.vec_env.VecEnv`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from difftori_isaac.envs.env_slice import Envs, EnvSlice, Recipe
from difftori_isaac.envs.vec_env import Expert, VecEnv
from difftori_isaac.envs.worker_pool import WorkerPool


class GymnasiumVecEnv(VecEnv):
    """Environments on the CPU whose tensors are on any device. What follows from a seed does not depend on workers."""

    def __init__(
        self, recipe: Recipe, *, num_envs: int, num_workers: int | None, device: str, seed: int, cfg: Mapping[str, Any]
    ) -> None:
        """Makes the environments and resets them.

        Args:
            recipe: How to make one.
            num_envs: Number of environments.
            num_workers: Number of processes; with 1, the environments are in this one. None is the number of cores, at
                most one for each environment.
            device: Device of the tensors.
            seed: Decides the first states.
            cfg: Settings of the environment, for the record.

        Raises:
            SimulatorError: An environment cannot be made or reset.
        """
        self.num_envs, self.device, self.cfg = num_envs, device, dict(cfg)
        self.max_episode_length, self.clip_actions = recipe.max_episode_length, recipe.clip_actions
        num_workers = num_workers or min(num_envs, len(os.sched_getaffinity(0)))
        local = num_workers == 1
        self._envs: Envs = (
            EnvSlice(recipe, range(num_envs)) if local else WorkerPool(recipe, num_envs, min(num_workers, num_envs))
        )
        self.num_actions = int(np.prod(self._envs.data.dtype["actions"].shape))
        self._restart(seed)

    @property
    def step_dt(self) -> float:
        """See :class:`VecEnv`."""
        return 1 / self._envs.metadata["render_fps"]

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Ages of the running episodes [steps], shape (num_envs,)."""
        return self._read("ages")

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._envs.data["ages"] = value.cpu().numpy()

    def get_observations(self) -> TensorDict:
        """See :class:`VecEnv`."""
        return self._groups("obs")

    def reset(self, *, stagger: bool = False) -> tuple[TensorDict, dict[str, Any]]:
        """See :class:`VecEnv`."""
        self._restart(int(torch.randint(2**31, ())))
        if stagger:
            self._envs.data["ages"] = torch.randint(int(self.max_episode_length), (self.num_envs,)).numpy()
        return self.get_observations(), {}

    def step(
        self, actions: torch.Tensor, counted: torch.Tensor | None = None
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See :class:`VecEnv`."""
        self._envs.data["actions"] = actions.detach().cpu().numpy()
        self._envs.step()
        time_outs = self._read("truncated")
        dones = self._read("terminated") | time_outs
        extras: dict[str, Any] = {"time_outs": time_outs, "nonfinite": self._read("nonfinite"), "log": {}}
        success = self._read("success")
        extras["success"] = success if counted is None else success.where(counted, torch.nan)
        if self._envs.data["terminated"].any() or self._envs.data["truncated"].any():
            extras["final_obs"] = self._groups("final_obs")
        return self.get_observations(), self._read("rewards"), dones.long(), extras

    def success_rate(self, extras: Mapping[str, Any]) -> float | None:
        """See :class:`VecEnv`."""
        success = extras["success"]
        known = success[~success.isnan()]
        return float(known.mean()) if len(known) else None

    @property
    def expert(self) -> Expert | None:
        """The actions in the observation group ``expert``, if there is one."""
        return itemgetter("expert") if "expert" in (self._envs.data.dtype["obs"].names or ()) else None

    def state_dict(self) -> dict[str, Any]:
        """See :class:`VecEnv`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`VecEnv`."""

    def hold_curricula(self) -> None:
        """See :class:`VecEnv`."""

    def render_frame(self) -> np.ndarray:
        """See :class:`VecEnv`."""
        return self._envs.render()

    def close(self) -> None:
        """See :class:`VecEnv`."""
        self._envs.close()

    def _restart(self, seed: int) -> None:
        self._envs.reset(np.random.SeedSequence(seed).generate_state(self.num_envs).tolist())

    def _groups(self, field: str) -> TensorDict:
        groups = self._envs.data.dtype[field].names or ()
        return TensorDict({name: self._read(field, name) for name in groups}, [self.num_envs], device=self.device)

    def _read(self, *path: str) -> torch.Tensor:
        """Returns a field of all rows as a tensor of its own."""
        values = self._envs.data
        for name in path:
            values = values[name]
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, copy=True)
