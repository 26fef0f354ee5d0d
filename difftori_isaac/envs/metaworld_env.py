"""One task of MetaWorld as a gymnasium environment. Imports no torch, so that processes start fast."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from difftori_isaac.envs.metaworld_camera import Camera, forward, has_diverged, prepare

from metaworld import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE  # isort: skip (the camera chooses how mujoco draws first)
from metaworld.policies import ENV_POLICY_MAP  # isort: skip

IMAGE_SIZE, CLOUD_IMAGE_SIZE = 84, 128
"""Pictures and the depths that clouds are made from are square [pixel]."""

ROBOT = np.r_[0:4, 18:22]
"""Where the state has the hand's position and the gripper's opening, now and a step before."""

Observation = dict[str, np.ndarray]


class MetaWorldEnv(gymnasium.Env[Any, np.ndarray]):
    """A task whose goal is observed, and whose episodes have no time limit but MetaWorld's, of 500 steps.

    Observations have two groups, float32: ``policy``, hand, gripper, objects now and a step before, and goal, of shape
    (39,), and ``expert``, the action of MetaWorld's scripted policy, of shape (4,). With a ``point_cloud``, positions
    seen from the hand [m] of shape (num_points, 3), float32, or ``pixels``, a picture of shape (3, 84, 84), uint8,
    ``policy`` is of shape (8,): hand and gripper, now and a step before. ``success`` in a step's info says whether the
    episode has succeeded so far. Where the physics diverges, the reward is NaN.
    """

    render_mode = "rgb_array"

    def __init__(
        self, task: str, *, frame: tuple[int, int], pixels: bool = False, num_points: int | None = None
    ) -> None:
        """Loads the task.

        Args:
            task: Name of the task, such as ``hammer-v3``.
            frame: Width and height of :meth:`render` [pixel].
            pixels: Whether there is a picture to observe.
            num_points: Points of the cloud to observe; None is no cloud.
        """
        made: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"]
        self._env = made(seed=0)
        prepare(self._env.model)
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True  # a new goal in every episode
        self._expert, self._frame, self._succeeded = ENV_POLICY_MAP[task](), frame, False
        self._pixels, self._num_points = pixels, num_points
        self._cameras: dict[tuple[int, int], Camera] = {}
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / self._env.dt}
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        obs_dim = len(ROBOT) if pixels or num_points else 39
        boxes: dict[str, gymnasium.Space[Any]] = {
            "policy": Box(-np.inf, np.inf, (obs_dim,), np.float32),
            "expert": Box(-1.0, 1.0, (4,), np.float32),
        }
        if pixels:
            boxes["pixels"] = Box(0, 255, (3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        if num_points:
            boxes["point_cloud"] = Box(-np.inf, np.inf, (num_points, 3), np.float32)
        self.observation_space = Dict(boxes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; `seed` decides this one and those that follow."""
        env = self._env
        if seed is not None:
            env.seed(seed)
        self._succeeded = False
        env.reset()
        forward(env.model, env.data)  # MetaWorld observes the scene from before it moved bodies and goals
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        return self._observe(env._get_obs()), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the hand and the gripper by an action, shape (4,)."""
        state, reward, terminated, truncated, info = self._env.step(np.clip(action, -1.0, 1.0))
        if has_diverged(self._env.data):
            reward, info = np.nan, {"success": False}
        self._succeeded |= bool(info["success"])
        return self._observe(state), float(reward), bool(terminated), bool(truncated), {"success": self._succeeded}

    def render(self) -> np.ndarray:
        """Draws the scene: uint8, shape (height, width, 3)."""
        return self._camera(*self._frame).picture()

    def close(self) -> None:
        """Frees the physics and its picture buffers."""
        for camera in self._cameras.values():
            camera.close()
        self._env.close()

    def _observe(self, state: np.ndarray) -> Observation:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripted policies warn that their actions will be clipped
            expert = np.clip(self._expert.get_action(state.copy()), -1.0, 1.0)  # some write to what they are given
        seen = self._pixels or self._num_points
        obs = {"policy": (state[ROBOT] if seen else state).astype(np.float32), "expert": expert.astype(np.float32)}
        if self._pixels:
            obs["pixels"] = self._camera(IMAGE_SIZE, IMAGE_SIZE).picture().transpose(2, 0, 1)
        if self._num_points:
            points = self._camera(CLOUD_IMAGE_SIZE, CLOUD_IMAGE_SIZE).cloud(self._num_points)
            obs["point_cloud"] = points - obs["policy"][:3]
        return obs

    def _camera(self, width: int, height: int) -> Camera:
        if (width, height) not in self._cameras:
            self._cameras[width, height] = Camera(self._env.model, self._env.data, width=width, height=height)
        return self._cameras[width, height]
