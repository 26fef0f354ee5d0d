"""Pictures and point clouds of a scene of MetaWorld, and whether its physics has diverged.

Imports no torch, so that processes start fast.
"""

from __future__ import annotations

import os
from ctypes.util import find_library
from typing import Any

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "off")  # mujoco looks once, at its import
os.environ.setdefault("LP_NUM_THREADS", "0")  # where no GPU draws, threads for each picture take longer than they help

import mujoco

NAME, POSITION = "corner2", (0.75, 0.075, 0.7)
"""MetaWorld's camera, which hangs upside down, and where it is moved to: closer, so that objects are seen [m]."""

NOT_DRAWN = [0, 2]
"""Shadows and reflections, among MuJoCo's ``mjtRndFlag``."""

WORKSPACE = np.array([[-0.6, 0.3, 0.01], [0.6, 0.97, 0.7]])
"""Lowest and highest corner of the box that clouds are of, above the table and before its rim [m]."""


_WARNINGS = mujoco.mjtWarning.__members__  # pyright: ignore[reportAttributeAccessIssue]
_DIVERGED = [_WARNINGS[f"mjWARN_BAD{what}"].value for what in ("QPOS", "QVEL", "QACC")]


def has_diverged(data: Any) -> bool:
    """Whether MuJoCo has reset a state (mujoco.MjData) by itself since it was last reset, as one that is not finite."""
    return bool(data.warning.number[_DIVERGED].any())


def forward(model: Any, data: Any) -> None:
    """Let a state (mujoco.MjData) know where everything is after bodies, sites or joints were moved."""
    mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]


def prepare(model: Any) -> None:
    """Move the camera of a scene (mujoco.MjModel), which its state knows of from the next step or reset on."""
    model.cam_pos[model.camera(NAME).id] = POSITION
    model.vis.quality.offsamples = 0


class Camera:
    """Draws without shadows and reflections, which take a CPU several times as long."""

    def __init__(self, model: Any, data: Any, *, width: int, height: int) -> None:
        """Make the picture buffers.

        Args:
            model: The scene (mujoco.MjModel), through :func:`prepare`.
            data: Its state (mujoco.MjData).
            width: Width of the pictures [pixel].
            height: Their height [pixel].
        """
        self._data, self._camera = data, model.camera(NAME).id
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._renderer = mujoco.Renderer(model, height, width)
        focal_length = 0.5 * height / np.tan(np.deg2rad(model.cam_fovy[self._camera]) / 2)
        x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - 0.5 - np.arange(height))
        self._directions = np.stack([x / focal_length, y / focal_length, -np.ones_like(x)], axis=-1)

    def picture(self) -> np.ndarray:
        """The scene the right way up: uint8, shape (height, width, 3)."""
        return np.ascontiguousarray(self._draw()[::-1, ::-1])

    def cloud(self, num_points: int) -> np.ndarray:
        """Points of the workspace that are seen, far from each other [m]: float32, shape (num_points, 3).

        Where fewer are seen, they are repeated.

        Raises:
            ValueError: If none is seen.
        """
        self._renderer.enable_depth_rendering()
        points = self._draw()[..., None] * self._directions
        self._renderer.disable_depth_rendering()
        points = points @ self._data.cam_xmat[self._camera].reshape(3, 3).T + self._data.cam_xpos[self._camera]
        points = points[((points > WORKSPACE[0]) & (points < WORKSPACE[1])).all(axis=-1)]
        if len(points) == 0:
            raise ValueError("the camera sees nothing in the workspace")
        return np.resize(farthest_points(points.astype(np.float32), num_points), (num_points, 3))

    def close(self) -> None:
        """Free the picture buffers."""
        self._renderer.close()

    def _draw(self) -> np.ndarray:
        self._renderer.update_scene(self._data, self._camera)
        self._renderer.scene.flags[NOT_DRAWN] = 0
        return self._renderer.render()


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """The first point and, one after the other, the one farthest from those before; all, if there are no more.

    Farthest point sampling (PointNet++, arXiv 1706.02413, section 3.2), as DP3 thins out its clouds (arXiv 2403.03954).
    """
    if len(points) <= count:
        return points
    x, y, z = np.ascontiguousarray(points.T)
    chosen, distances = np.zeros(count, np.intp), np.full(len(points), np.inf, points.dtype)
    for index in range(1, count):
        last = chosen[index - 1]
        np.minimum(distances, (x - x[last]) ** 2 + (y - y[last]) ** 2 + (z - z[last]) ** 2, out=distances)
        chosen[index] = distances.argmax()
    return points[chosen]
