"""The cart-pole task from pictures of Newton's own renderer, which needs neither Isaac Sim nor a GPU."""

from __future__ import annotations

import math

import isaaclab.sim as sim_utils
from isaaclab.sensors import CameraCfg
from isaaclab.utils import configclass
from isaaclab_newton.renderers import NewtonWarpRendererCfg

from difftori_isaac.tasks.cartpole import cartpole_env_cfg as base


@configclass
class CartpoleCameraSceneCfg(base.CartpoleSceneCfg):
    """The cart-pole without a floor, and a camera 7 m beside it that sees the whole rail."""

    ground = None
    camera: CameraCfg = CameraCfg(
        prim_path="{ENV_REGEX_NS}/Camera",
        offset=CameraCfg.OffsetCfg(pos=(-7.0, 0.0, 2.0), rot=(0.0, 0.0, 0.0, 1.0), convention="world"),
        data_types=["rgb"],
        spawn=sim_utils.PinholeCameraCfg(focal_length=24.0, horizontal_aperture=20.955, clipping_range=(0.1, 20.0)),
        width=96,
        height=48,
        renderer_cfg=NewtonWarpRendererCfg(),
    )


@configclass
class CartpoleCameraEnvCfg(base.CartpoleEnvCfg):
    """Configuration of ``DiffTori-Cartpole-Camera-Direct``: 3 pictures of 48 × 96, 1 action, episodes of 5 s at 60 Hz.

    As in Isaac Lab's cart-pole with a camera, the pole starts within 22.5° of upright.
    """

    scene: CartpoleCameraSceneCfg = CartpoleCameraSceneCfg(num_envs=512, env_spacing=20.0)
    frame_stack: int = 3
    """Pictures of an observation: from one alone no velocity can be told."""
    state_space: int = 4
    initial_pole_angle_range: tuple[float, float] = (-0.125 * math.pi, 0.125 * math.pi)
