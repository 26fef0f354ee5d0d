"""rsl_rl PPO settings of the lift task: Isaac Lab's own."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_tasks.contrib.lift.config.franka.agents.rsl_rl_ppo_cfg import LiftCubePPORunnerCfg


@configclass
class LiftPPORunnerCfg(LiftCubePPORunnerCfg):
    """PPO settings for ``DiffTori-Lift-Franka``."""

    experiment_name = "difftori_lift"


@configclass
class LiftPointCloudPPORunnerCfg(LiftPPORunnerCfg):
    """PPO settings for ``DiffTori-Lift-Franka-Point-Cloud``: the critic knows where the cube is."""

    experiment_name = "difftori_lift_point_cloud"
    obs_groups = {"actor": ["policy", "point_cloud"], "critic": ["critic"]}  # noqa: RUF012 (a configclass copies it)
