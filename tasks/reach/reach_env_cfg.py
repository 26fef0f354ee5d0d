"""Isaac Lab's reach task on Newton and local assets.

Observations, commands, rewards, terminations, curriculum and timing are inherited from Isaac Lab's ``ReachEnvCfg``;
actions, resets and the command's frame are those of its ``Isaac-Reach-Franka``.
"""

from __future__ import annotations

import math

from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.envs import mdp
from isaaclab.managers import EventTermCfg, SceneEntityCfg
from isaaclab.utils import configclass, replace
from isaaclab.visualizers import VisualizerCfg
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_tasks.core.reach import reach_env_cfg as base

from difftori_isaac.tasks.assets.robots import PANDA_CFG
from difftori_isaac.tasks.assets.scenery import floor, table


@configclass
class ReachPhysicsCfg(base.ReachPhysicsCfg):
    """Isaac Lab's physics presets; in Newton one physics step of 8.3 ms suffices, as nothing is grasped."""

    newton_mjwarp: NewtonCfg = NewtonCfg(
        solver_cfg=MJWarpSolverCfg(
            njmax=100, nconmax=20, cone="pyramidal", impratio=1.0, integrator="implicitfast", update_data_interval=1
        ),
        num_substeps=1,
    )
    default: NewtonCfg = newton_mjwarp


@configclass
class ReachSceneCfg(base.ReachSceneCfg):
    """A Panda at a table."""

    robot: ArticulationCfg = replace(PANDA_CFG, prim_path="{ENV_REGEX_NS}/Robot")
    table: AssetBaseCfg = table()
    ground: AssetBaseCfg = floor(-1.0)


@configclass
class ReachEnvCfg(base.ReachEnvCfg):
    """Configuration of ``DiffTori-Reach-Franka``: 32 observations, 7 actions, episodes of up to 12 s at 30 Hz.

    Actions are joint position targets around the initial pose, scaled by 0.5 rad. An episode ends when the hand is
    within 5 cm and 0.2 rad of the commanded pose.
    """

    scene: ReachSceneCfg = ReachSceneCfg(num_envs=4096, env_spacing=2.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sim.physics = ReachPhysicsCfg()
        self.sim.default_visualizer_cfg = VisualizerCfg(eye=(1.5, 0.9, 0.9), lookat=(0.4, 0.0, 0.3))
        self.actions.arm_action = mdp.JointPositionActionCfg(
            asset_name="robot", joint_names=["panda_joint.*"], scale=0.5, use_default_offset=True
        )
        self.commands.ee_pose.body_name = "panda_hand"
        self.commands.ee_pose.ranges.pitch = (math.pi, math.pi)
        self.commands.ee_pose.debug_vis = False
        self.events.reset_robot_joints = EventTermCfg(
            func=mdp.reset_joints_by_offset,
            mode="reset",
            params={
                "position_range": (-0.1, 0.1),
                "velocity_range": (0.0, 0.0),
                "asset_cfg": SceneEntityCfg("robot", joint_names="panda_joint.*"),
            },
        )
        for term in ("end_effector_position_tracking", "end_effector_orientation_tracking"):
            getattr(self.rewards, term).params["asset_cfg"].body_names = ["panda_hand"]
        self.rewards.joint_vel.params["asset_cfg"].joint_names = ["panda_joint.*"]
