"""rsl_rl PPO settings of the reach task: Isaac Lab's own."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_tasks.core.reach.config.franka.agents.rsl_rl_ppo_cfg import FrankaReachPPORunnerCfg


@configclass
class ReachPPORunnerCfg(FrankaReachPPORunnerCfg):
    """PPO settings for ``DiffTori-Reach-Franka``."""

    max_iterations = 1000
    experiment_name = "difftori_reach"
