"""Isaac Lab configurations of the robots in this folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import isaaclab.sim as sim_utils
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg
from isaaclab.utils import clone, replace
from isaaclab_assets.robots import ant, cartpole, franka
from isaaclab_newton.sim.schemas import MujocoRigidBodyCfg, NewtonArticulationCfg
from isaaclab_physx.sim.schemas import PhysxArticulationCfg, PhysxRigidBodyCfg

_FOLDER = Path(__file__).parent

ANT_CFG: ArticulationCfg = replace(
    ant.ANT_CFG,
    spawn=replace(ant.ANT_CFG.spawn, usd_path=str(files("newton") / "examples" / "assets" / "ant.usda")),
)
"""Isaac Lab's ant with the USD file that comes with Newton: the same names, 8 hinges of 15 N·m."""

CARTPOLE_CFG: ArticulationCfg = replace(
    cartpole.CARTPOLE_CFG, spawn=replace(cartpole.CARTPOLE_CFG.spawn, usd_path=str(_FOLDER / "cartpole.usda"))
)
"""Isaac Lab's cart-pole: joints ``slider_to_cart`` and ``cart_to_pole``, the rail 2 m above the ground."""

PANDA_CFG = ArticulationCfg(
    spawn=sim_utils.UsdFileCfg(
        usd_path=str(_FOLDER / "panda.usda"),
        rigid_props=[
            PhysxRigidBodyCfg(disable_gravity=True, max_depenetration_velocity=5.0),
            MujocoRigidBodyCfg(gravcomp=1.0),
        ],
        articulation_props=[
            PhysxArticulationCfg(
                enabled_self_collisions=False, solver_position_iteration_count=8, solver_velocity_iteration_count=0
            ),
            NewtonArticulationCfg(self_collision_enabled=False),
        ],
    ),
    init_state=clone(franka.FRANKA_PANDA_CFG.init_state),
    actuators={
        "panda_arm": ImplicitActuatorCfg(
            joint_names_expr=["panda_joint[1-7]"],
            joint_effort_limit={"panda_joint[1-4]": 87.0, "panda_joint[5-7]": 12.0},
            stiffness=400.0,
            damping=40.0,
            armature=0.1,
        ),
        "panda_hand": ImplicitActuatorCfg(
            joint_names_expr=["panda_finger_joint.*"],
            joint_effort_limit=70.0,
            stiffness=1000.0,
            damping=50.0,
            armature=0.1,
        ),
    },
)
"""Franka Panda with both fingers driven and gravity compensated, like the real arm under its own controller.

The gains hold a grasp in Newton with physics steps of 5 ms; the armature keeps the 15 g fingers stable.
"""
