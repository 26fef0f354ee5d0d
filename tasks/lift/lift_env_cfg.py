"""Isaac Lab's classic lift task (``IsaacContrib-Lift-Cube-Franka``) on Newton and local assets.

Observations, commands, rewards, terminations, resets and curriculum are inherited from Isaac Lab; what differs is the
physics (Newton by default), the robot's USD file and gains, and that table, cube and floor are primitives.
"""

from __future__ import annotations

import isaaclab.sim as sim_utils
from isaaclab.assets import ArticulationCfg, AssetBaseCfg, RigidObjectCfg
from isaaclab.controllers.differential_ik_cfg import DifferentialIKControllerCfg
from isaaclab.envs.mdp.actions.actions_cfg import DifferentialInverseKinematicsActionCfg
from isaaclab.physics import PhysxAutoCfg
from isaaclab.sensors.frame_transformer.frame_transformer_cfg import FrameTransformerCfg, OffsetCfg
from isaaclab.sim.spawners.materials import RigidBodyMaterialBaseCfg
from isaaclab.utils import configclass, replace
from isaaclab.visualizers import VisualizerCfg
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_ov.physics import OvPhysxCfg
from isaaclab_physx.physics import PhysxCfg
from isaaclab_physx.sim.schemas import PhysxRigidBodyCfg
from isaaclab_tasks.contrib.lift import lift_env_cfg as base
from isaaclab_tasks.contrib.lift import mdp
from isaaclab_tasks.utils import PresetCfg

from difftori_isaac.tasks.assets.robots import PANDA_CFG
from difftori_isaac.tasks.assets.scenery import floor, table


@configclass
class LiftPhysicsCfg(PresetCfg):
    """Physics presets of the lift task.

    Newton: physics steps of 5 ms (2 substeps) hold the cube, steps of 10 ms lose it; a pyramidal friction cone holds
    it as well as an elliptic one and is faster. ``njmax`` and ``nconmax`` leave room for every contact of arm, cube
    and table.
    """

    isaacsim_physx: PhysxCfg = PhysxCfg(
        bounce_threshold_velocity=0.01,
        gpu_found_lost_aggregate_pairs_capacity=1024 * 1024 * 4,
        gpu_total_aggregate_pairs_capacity=16 * 1024,
        friction_correlation_distance=0.00625,
    )
    ovphysx: OvPhysxCfg = OvPhysxCfg()
    physx: PhysxAutoCfg = PhysxAutoCfg(isaacsim_physx=isaacsim_physx, ovphysx=ovphysx)
    newton_mjwarp: NewtonCfg = NewtonCfg(
        solver_cfg=MJWarpSolverCfg(
            njmax=120,
            nconmax=40,
            cone="pyramidal",
            impratio=1.0,
            integrator="implicitfast",
            iterations=20,
            ls_iterations=50,
            update_data_interval=1,
        ),
        num_substeps=2,
    )
    default: NewtonCfg = newton_mjwarp


@configclass
class LiftSceneCfg(base.ObjectTableSceneCfg):
    """A Panda at a table with a cube: 48 mm, 0.1 kg, friction 1."""

    robot: ArticulationCfg = replace(PANDA_CFG, prim_path="{ENV_REGEX_NS}/Robot")
    object: RigidObjectCfg = RigidObjectCfg(
        prim_path="{ENV_REGEX_NS}/Object",
        spawn=sim_utils.CuboidCfg(
            size=(0.048, 0.048, 0.048),
            rigid_props=[
                sim_utils.UsdPhysicsRigidBodyCfg(),
                PhysxRigidBodyCfg(
                    solver_position_iteration_count=16,
                    solver_velocity_iteration_count=1,
                    max_depenetration_velocity=5.0,
                ),
            ],
            collision_props=sim_utils.UsdPhysicsCollisionCfg(),
            mass_props=sim_utils.MassCfg(mass=0.1),
            physics_material=RigidBodyMaterialBaseCfg(static_friction=1.0, dynamic_friction=1.0),
            visual_material=sim_utils.PreviewSurfaceCfg(diffuse_color=(0.80, 0.10, 0.10)),
        ),
        init_state=RigidObjectCfg.InitialStateCfg(pos=(0.5, 0.0, 0.025)),
    )
    ee_frame: FrameTransformerCfg = FrameTransformerCfg(
        prim_path="{ENV_REGEX_NS}/Robot/panda_link0",
        target_frames=[
            FrameTransformerCfg.FrameCfg(
                prim_path="{ENV_REGEX_NS}/Robot/panda_hand",
                name="end_effector",
                offset=OffsetCfg(pos=(0.0, 0.0, 0.1034)),
            )
        ],
    )
    table: AssetBaseCfg = table()
    plane: AssetBaseCfg = floor(-1.0)


@configclass
class LiftEnvCfg(base.LiftEnvCfg):
    """Configuration of ``DiffTori-Lift-Franka``: 36 observations, 8 actions, episodes of 5 s at 50 Hz.

    Actions 1 to 7 are joint position targets around the initial pose, scaled by 0.5 rad; the eighth opens the gripper
    if it is not negative and closes it otherwise.
    """

    scene: LiftSceneCfg = LiftSceneCfg(num_envs=4096, env_spacing=2.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sim.physics = LiftPhysicsCfg()
        self.sim.default_visualizer_cfg = VisualizerCfg(eye=(1.5, 0.9, 0.9), lookat=(0.4, 0.0, 0.2))
        self.actions.arm_action = mdp.JointPositionActionCfg(
            asset_name="robot", joint_names=["panda_joint.*"], scale=0.5, use_default_offset=True
        )
        self.actions.gripper_action = mdp.BinaryJointPositionActionCfg(
            asset_name="robot",
            joint_names=["panda_finger.*"],
            open_command_expr={"panda_finger_.*": 0.04},
            close_command_expr={"panda_finger_.*": 0.0},
        )
        self.commands.object_pose.body_name = "panda_hand"
        self.commands.object_pose.debug_vis = False
        # the term reads this parameter even where it is not used
        self.rewards.object_goal_tracking_fine_grained.params["success_threshold"] = None


@configclass
class LiftIKAbsEnvCfg(LiftEnvCfg):
    """The lift task with hand poses as actions, for scripts and demonstrations.

    Actions 1 to 7 are position [m] and orientation (quaternion, xyzw) of the point 0.107 m in front of the hand, in the
    robot's base frame; the eighth is the gripper's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.actions.arm_action = DifferentialInverseKinematicsActionCfg(
            asset_name="robot",
            joint_names=["panda_joint.*"],
            body_name="panda_hand",
            controller=DifferentialIKControllerCfg(command_type="pose", use_relative_mode=False, ik_method="dls"),
            body_offset=DifferentialInverseKinematicsActionCfg.OffsetCfg(pos=(0.0, 0.0, 0.107)),
        )
