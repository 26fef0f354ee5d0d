"""How Isaac Lab's environments are looked at: a camera for videos, a viewer for browsers, marks in it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from difftori_isaac.envs.vec_env import VideoRequest

CAMERA = "difftori_video_camera"
"""Name of the camera among the sensors of a scene."""


def add_camera(cfg: Any, video: VideoRequest) -> None:
    """Puts a camera of the Newton renderer where the task's configuration looks from."""
    import isaaclab.sim as sim_utils
    from isaaclab.sensors import CameraCfg
    from isaaclab.utils.math import create_rotation_matrix_from_view, quat_from_matrix
    from isaaclab.visualizers import VisualizerCfg
    from isaaclab_newton.renderers import NewtonWarpRendererCfg

    view = cfg.sim.default_visualizer_cfg or VisualizerCfg()
    eye, target = torch.tensor([view.eye]), torch.tensor([view.lookat])
    rotation = quat_from_matrix(create_rotation_matrix_from_view(eye, target))[0]
    camera = CameraCfg(
        prim_path="{ENV_REGEX_NS}/" + CAMERA,
        offset=CameraCfg.OffsetCfg(pos=view.eye, rot=tuple(rotation.tolist()), convention="opengl"),
        data_types=["rgb"],
        spawn=sim_utils.PinholeCameraCfg(clipping_range=(0.05, 100.0)),
        width=video.width,
        height=video.height,
        renderer_cfg=NewtonWarpRendererCfg(),
    )
    setattr(cfg.scene, CAMERA, camera)


def add_viewer(cfg: Any, port: int) -> None:
    """Has Isaac Lab serve its viewer to browsers on this machine.

    Raises:
        ValueError: The viewer is not installed.
    """
    from isaaclab_visualizers.viser import ViserVisualizerCfg

    if find_spec("viser") is None:
        raise ValueError("the viewer needs the package viser: pip install 'difftori-isaac[viewer]'.")
    cfg.sim.visualizer_cfgs = [ViserVisualizerCfg(port=port, bind_address="localhost", verbose=False)]


def look_at_first(env: Any) -> None:
    """Points the viewer at the first environment, from where its videos are filmed."""
    from isaaclab.visualizers import VisualizerCfg

    view, origin = env.cfg.sim.default_visualizer_cfg or VisualizerCfg(), env.scene.env_origins[0].cpu().numpy()
    env.sim.set_camera_view(origin + view.eye, origin + view.lookat)


class PathMarkers:
    """A path in the viewer as spheres from yellow to red, and its goal as a green one."""

    SHADES = np.linspace((1.0, 0.84, 0.04), (1.0, 0.24, 0.44), 5).tolist()

    def __init__(self) -> None:
        """Makes the markers of the simulation that there is."""
        import isaaclab.sim as sim_utils
        from isaaclab.markers import VisualizationMarkers, VisualizationMarkersCfg

        def sphere(radius: float, red: float, green: float, blue: float) -> Any:
            material = sim_utils.PreviewSurfaceCfg(diffuse_color=(red, green, blue))
            return sim_utils.SphereCfg(radius=radius, visual_material=material)

        markers = {f"step_{index}": sphere(0.008, *colour) for index, colour in enumerate(self.SHADES)}
        markers["goal"] = sphere(0.02, 0.0, 0.78, 0.47)
        self._markers = VisualizationMarkers(VisualizationMarkersCfg(prim_path="/World/Visuals/plan", markers=markers))

    def mark(self, path: torch.Tensor, goal: torch.Tensor | None) -> None:
        """See :meth:`~difftori_isaac.envs.isaaclab.IsaacLabVecEnv.mark_path`."""
        shades = torch.linspace(0, len(self.SHADES) - 1, len(path)).round().int().tolist()
        if goal is not None:
            path, shades = torch.cat((path, goal[None])), [*shades, len(self.SHADES)]
        self._markers.visualize(translations=path, marker_indices=shades)
