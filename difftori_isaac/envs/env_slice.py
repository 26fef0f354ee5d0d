"""Some gymnasium environments of many, stepped one after the other on rows of a common array."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from difftori_isaac.envs.errors import SimulatorError


@dataclass(frozen=True)
class Recipe:
    """How to make one of the environments."""

    name: str
    """Name of the task, for error messages."""
    make: Callable[[], gymnasium.Env[dict[str, np.ndarray], np.ndarray]]
    """Makes an environment with Box actions, a Dict of Box observations and ``render_fps`` in its metadata; can be
    pickled."""
    max_episode_length: int
    """Age at which an episode is truncated [steps]."""
    clip_actions: float | None = None
    """Magnitude that the environment clips actions to; None if it does not."""


class Envs(Protocol):
    """Environments in this process or in others; their rows are ``data``, of :func:`row_type`."""

    data: np.ndarray
    metadata: dict[str, Any]

    def reset(self, seeds: Sequence[int]) -> None:
        """Starts new episodes, one seed for each environment, and writes their observations."""
        ...

    def step(self) -> None:
        """Reads the actions and writes what follows from them."""
        ...

    def render(self) -> np.ndarray:
        """Draws the first environment: uint8, shape (height, width, 3)."""
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


def row_type(observation_space: Dict, action_space: Box) -> np.dtype:
    """What an environment reads and writes in a step."""
    groups = [(name, space.dtype, space.shape) for name, space in observation_space.items()]
    return np.dtype(
        [
            ("actions", np.float32, action_space.shape),
            ("obs", groups),
            ("final_obs", groups),
            ("rewards", np.float32),
            ("ages", np.int64),  # steps of the running episode
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("nonfinite", np.bool_),
            ("success", np.float32),  # of the finite episode that ended in this step; NaN if none did or nobody says
        ],
        align=True,
    )


class EnvSlice:
    """Environments that restart in the step in which their episode ends.

    An observation or reward that is not finite ends the episode: the reward is 0, the last observation 0 where it is
    not finite, and ``nonfinite`` is set.
    """

    def __init__(self, recipe: Recipe, indices: range) -> None:
        """Makes the environments with these indices among all; their rows are this slice's own.

        Raises:
            SimulatorError: An environment cannot be made.
        """
        self._recipe, self._indices = recipe, indices
        self._envs = [self._guard(lambda _: recipe.make(), number) for number in range(len(indices))]
        space, actions = self._envs[0].observation_space, self._envs[0].action_space
        assert isinstance(space, Dict) and isinstance(actions, Box)
        self.metadata = self._envs[0].metadata
        self.data = np.zeros(len(indices), row_type(space, actions))

    def reset(self, seeds: Sequence[int]) -> None:
        """See :class:`Envs`."""
        for index, seed in enumerate(seeds):
            self._guard(self._restart, index, seed)

    def step(self) -> None:
        """See :class:`Envs`."""
        for index in range(len(self._envs)):
            self._guard(self._step, index)

    def render(self) -> np.ndarray:
        """See :class:`Envs`."""
        return self._guard(lambda index: self._envs[index].render(), 0)

    def close(self) -> None:
        """See :class:`Envs`."""
        for env in self._envs:
            env.close()

    def _guard(self, action: Callable[..., Any], index: int, *args: Any) -> Any:
        try:
            return action(index, *args)
        except Exception as error:
            where = f"environment {self._indices[index]} of {self._recipe.name}"
            raise SimulatorError(f"{where} failed: {type(error).__name__}: {error}") from error

    def _restart(self, index: int, seed: int | None = None) -> None:
        obs, _ = self._envs[index].reset(seed=seed)
        obs = self._as_stored(obs)
        if not _finite(obs):
            raise ValueError("an episode begins with an observation that is not finite")
        self._write("obs", index, obs)
        self.data["ages"][index] = 0

    def _step(self, index: int) -> None:
        data = self.data
        obs, reward, terminated, truncated, info = self._envs[index].step(data["actions"][index])
        obs, reward = self._as_stored(obs), _as_type(reward, np.dtype(np.float32))
        nonfinite = not (math.isfinite(reward) and _finite(obs))
        data["ages"][index] += 1
        truncated = not terminated and (truncated or data["ages"][index] >= self._recipe.max_episode_length)
        data["rewards"][index] = 0.0 if nonfinite else reward
        data["terminated"][index] = terminated or nonfinite
        data["truncated"][index] = truncated and not nonfinite
        data["nonfinite"][index] = nonfinite
        data["success"][index] = math.nan
        if terminated or truncated or nonfinite:
            data["success"][index] = math.nan if nonfinite else info.get("success", math.nan)
            self._write("final_obs", index, obs if _finite(obs) else {key: np.zeros_like(obs[key]) for key in obs})
            self._restart(index)
        else:
            self._write("obs", index, obs)

    def _as_stored(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The observations in the types of the rows, where numbers that are too large become infinite."""
        return {group: _as_type(value, self.data.dtype["obs"][group].base) for group, value in obs.items()}

    def _write(self, field: str, index: int, obs: dict[str, np.ndarray]) -> None:
        for group, value in obs.items():
            self.data[field][group][index] = value


def _as_type(value: Any, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(value).astype(dtype, copy=False)


def _finite(obs: dict[str, np.ndarray]) -> bool:
    return all(value.dtype.kind != "f" or bool(np.isfinite(value).all()) for value in obs.values())
