"""Floor, ground and table, made of primitives."""

from __future__ import annotations

import isaaclab.sim as sim_utils
from isaaclab.assets import AssetBaseCfg


def floor(height: float, *, size: tuple[float, float] = (4.0, 9.0)) -> AssetBaseCfg:
    """A floor for each environment that is only drawn: in these tasks nothing ever reaches it.

    Args:
        height: Of its surface [m].
        size: Along x and y [m].
    """
    return AssetBaseCfg(
        prim_path="{ENV_REGEX_NS}/Floor",
        spawn=sim_utils.CuboidCfg(
            size=(*size, 0.1), visual_material=sim_utils.PreviewSurfaceCfg(diffuse_color=(0.55, 0.57, 0.60))
        ),
        init_state=AssetBaseCfg.InitialStateCfg(pos=(0.0, 0.0, height - 0.05)),
    )


def ground(*, size: float = 400.0, friction: float = 1.0) -> AssetBaseCfg:
    """A ground to walk on, the same for all environments, its surface at height 0.

    Args:
        size: Along x and y [m].
        friction: Coefficient of static and dynamic friction.
    """
    return AssetBaseCfg(
        prim_path="/World/ground",
        spawn=sim_utils.CuboidCfg(
            size=(size, size, 1.0),
            collision_props=sim_utils.UsdPhysicsCollisionCfg(),
            physics_material=sim_utils.RigidBodyMaterialCfg(static_friction=friction, dynamic_friction=friction),
            visual_material=sim_utils.PreviewSurfaceCfg(diffuse_color=(0.55, 0.57, 0.60)),
        ),
        init_state=AssetBaseCfg.InitialStateCfg(pos=(0.0, 0.0, -0.5)),
    )


def table() -> AssetBaseCfg:
    """A table in front of the robot, its top at the height of the robot's base: 0.8 m deep, 1.2 m wide."""
    return AssetBaseCfg(
        prim_path="{ENV_REGEX_NS}/Table",
        spawn=sim_utils.CuboidCfg(
            size=(0.8, 1.2, 1.0),
            collision_props=sim_utils.UsdPhysicsCollisionCfg(),
            visual_material=sim_utils.PreviewSurfaceCfg(diffuse_color=(0.45, 0.33, 0.25)),
        ),
        init_state=AssetBaseCfg.InitialStateCfg(pos=(0.5, 0.0, -0.5)),
    )
