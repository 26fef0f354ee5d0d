"""One task of MetaWorld as a gymnasium environment. Imports no torch, so that processes start fast."""

from __future__ import annotations

import os
import warnings
from ctypes.util import find_library
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "off")  # mujoco looks once, at its import

from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from metaworld import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld.policies import ENV_POLICY_MAP

CAMERA = "corner2"
"""It hangs upside down."""

Observation = dict[str, np.ndarray]


class MetaWorldEnv(gymnasium.Env[Any, np.ndarray]):
    """A task whose goal is observed, and whose episodes have no time limit but MetaWorld's, of 500 steps.

    Observations have two groups, float32: ``policy``, hand, gripper, objects now and a step before, and goal, of shape
    (39,), and ``expert``, the action of MetaWorld's scripted policy, of shape (4,). ``success`` in a step's info says
    whether the episode has succeeded so far.
    """

    render_mode = "rgb_array"

    def __init__(self, task: str, *, frame: tuple[int, int]) -> None:
        """Loads the task.

        Args:
            task: Name of the task, such as ``hammer-v3``.
            frame: Width and height of :meth:`render` [pixel].
        """
        made: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"]
        self._env = made(seed=0)
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True  # a new goal in every episode
        self._expert, self._frame, self._succeeded = ENV_POLICY_MAP[task](), frame, False
        self._renderer: MujocoRenderer | None = None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / self._env.dt}
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = Dict(
            {"policy": Box(-np.inf, np.inf, (39,), np.float32), "expert": Box(-1.0, 1.0, (4,), np.float32)}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; `seed` decides this one and those that follow."""
        if seed is not None:
            self._env.seed(seed)
        self._succeeded = False
        return self._observe(self._env.reset()[0]), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the hand and the gripper by an action, shape (4,)."""
        state, reward, terminated, truncated, info = self._env.step(np.clip(action, -1.0, 1.0))
        self._succeeded |= bool(info["success"])
        return self._observe(state), float(reward), bool(terminated), bool(truncated), {"success": self._succeeded}

    def render(self) -> np.ndarray:
        """Draws the scene: uint8, shape (height, width, 3)."""
        if self._renderer is None:
            width, height = self._frame
            self._renderer = MujocoRenderer(
                self._env.model, self._env.data, width=width, height=height, camera_name=CAMERA
            )
        picture = self._renderer.render("rgb_array")
        assert isinstance(picture, np.ndarray)
        return np.ascontiguousarray(picture[::-1, ::-1])

    def close(self) -> None:
        """Frees the physics and its picture buffers."""
        if self._renderer is not None:
            self._renderer.close()
        self._env.close()

    def _observe(self, state: np.ndarray) -> Observation:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripted policies warn that their actions will be clipped
            expert = np.clip(self._expert.get_action(state), -1.0, 1.0)
        return {"policy": state.astype(np.float32), "expert": expert.astype(np.float32)}
