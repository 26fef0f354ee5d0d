"""One task of the DeepMind Control suite as a gymnasium environment. Imports no torch, so that processes start fast."""

from __future__ import annotations

import os
from collections import deque
from ctypes.util import find_library
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "off")  # dm_control looks once, at its import

from dm_control import suite
from dm_control.rl.control import PhysicsError

IMAGE_SIZE, NUM_FRAMES = 84, 3
_CAMERAS = {"quadruped": 2}
_UNLIMITED = 1e6
"""Bound from which on an actuator has none; MuJoCo says 1e10."""

Observation = dict[str, np.ndarray]


class DmControlEnv(gymnasium.Env[Any, np.ndarray]):
    """A task whose actions lie in [-1, 1] and whose episodes have no time limit of their own.

    Actions are scaled to the range of the actuators; those without one, of ``lqr``, are given them as they are.

    Observations have one group: ``policy``, float32, the flattened state of shape (obs_dim,), or ``pixels``, uint8, the
    last three pictures of shape (9, 84, 84). Where the physics diverges, the reward is NaN.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        action_repeat: int,
        pixels: bool,
        frame: tuple[int, int],
        shadows: bool = True,
    ) -> None:
        """Loads the task. What it draws once, such as the springs of ``lqr``, is always the same.

        Args:
            domain: Domain of the suite, such as ``walker``.
            task: Task of the domain, such as ``walk``.
            action_repeat: Simulator steps for which an action is held; their rewards are summed.
            pixels: Whether observations are pictures.
            frame: Width and height of :meth:`render` [pixel].
            shadows: Whether pictures have shadows and reflections.
        """
        random = np.random.RandomState(0)
        self._env = suite.load(domain, task, task_kwargs={"random": random, "time_limit": float("inf")})
        self._action_repeat, self._pixels, self._frame = action_repeat, pixels, frame
        self._camera = _CAMERAS.get(domain, 0)
        self._flags = {} if shadows else {"shadow": False, "reflection": False}
        self._frames: deque[np.ndarray] = deque(maxlen=NUM_FRAMES)
        fps = 1 / (self._env.control_timestep() * action_repeat)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}

        spec = self._env.action_spec()
        middle, half = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
        limited = half < _UNLIMITED
        self._middle, self._half = np.where(limited, middle, 0.0), np.where(limited, half, 1.0)
        self.action_space = Box(-1.0, 1.0, spec.shape, np.float32)
        if pixels:
            self._boxes = {"pixels": Box(0, 255, (3 * NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE), np.uint8)}
        else:
            obs_dim = sum(int(np.prod(item.shape)) for item in self._env.observation_spec().values())
            self._boxes = {"policy": Box(-np.inf, np.inf, (obs_dim,), np.float32)}
        self.observation_space = Dict(dict(self._boxes))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; `seed` decides this one and those that follow."""
        if seed is not None:
            self._env.task.random.seed(seed)
        state = self._env.reset().observation
        self._frames.clear()
        return self._observe(state), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Holds an action, shape (num_actions,), for ``action_repeat`` steps of the simulator."""
        control = self._middle + self._half * np.clip(action.astype(np.float64), -1.0, 1.0)
        try:
            steps = [self._env.step(control)]
            while len(steps) < self._action_repeat and not steps[-1].last():
                steps.append(self._env.step(control))
        except PhysicsError:
            return {name: np.zeros(box.shape, box.dtype) for name, box in self._boxes.items()}, np.nan, False, False, {}
        obs, reward = self._observe(steps[-1].observation), float(sum(step.reward for step in steps))
        terminated = steps[-1].last() and steps[-1].discount == 0
        return obs, reward, terminated, steps[-1].last() and not terminated, {}

    def render(self) -> np.ndarray:
        """Draws the scene: uint8, shape (height, width, 3)."""
        return self._draw(*self._frame)

    def close(self) -> None:
        """Frees the physics and its picture buffers."""
        self._env.close()

    def _observe(self, state: dict[str, Any]) -> Observation:
        if not self._pixels:
            return {"policy": np.concatenate([np.ravel(value) for value in state.values()]).astype(np.float32)}
        picture = self._draw(IMAGE_SIZE, IMAGE_SIZE).transpose(2, 0, 1)
        self._frames.extend([picture] * (1 if self._frames else NUM_FRAMES))
        return {"pixels": np.concatenate(self._frames)}

    def _draw(self, width: int, height: int) -> np.ndarray:
        return self._env.physics.render(
            height=height, width=width, camera_id=self._camera, render_flag_overrides=self._flags
        )
