"""The lift task with a point cloud of the cube in place of its position."""

from __future__ import annotations

from isaaclab.managers import ObservationGroupCfg, ObservationTermCfg, SceneEntityCfg
from isaaclab.utils import configclass
from isaaclab_tasks.contrib.lift.lift_env_cfg import ObservationsCfg
from isaaclab_tasks.core.lift.mdp import object_point_cloud_b

from difftori_isaac.tasks.lift.lift_env_cfg import LiftEnvCfg


@configclass
class ProprioceptionCfg(ObservationsCfg.PolicyCfg):
    """Isaac Lab's observations of the lift task but the cube's position."""

    object_position = None


@configclass
class PointCloudCfg(ObservationGroupCfg):
    """64 points on all sides of the cube in the robot's base frame [m], shape (num_envs, 64, 3).

    They are sampled once and move with the cube: what a camera would not see is there too.
    """

    object_points: ObservationTermCfg = ObservationTermCfg(
        func=object_point_cloud_b,
        params={
            "object_cfg": SceneEntityCfg("object"),
            "ref_asset_cfg": SceneEntityCfg("robot"),
            "num_points": 64,
            "flatten": False,
            "visualize": False,
        },
    )


@configclass
class PointCloudObservationsCfg:
    """Groups ``policy`` and ``point_cloud`` for the actor and ``critic``, which has the cube's position."""

    policy: ProprioceptionCfg = ProprioceptionCfg()
    point_cloud: PointCloudCfg = PointCloudCfg()
    critic: ObservationsCfg.PolicyCfg = ObservationsCfg.PolicyCfg()


@configclass
class LiftPointCloudEnvCfg(LiftEnvCfg):
    """Configuration of ``DiffTori-Lift-Franka-Point-Cloud``: 33 observations and a point cloud, 8 actions."""

    observations: PointCloudObservationsCfg = PointCloudObservationsCfg()
