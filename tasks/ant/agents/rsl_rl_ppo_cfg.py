"""rsl_rl PPO settings of the ant task: Isaac Lab's own."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_tasks.core.locomotion.ant.agents.rsl_rl_ppo_cfg import AntDirectPPORunnerCfg


@configclass
class AntPPORunnerCfg(AntDirectPPORunnerCfg):
    """PPO settings for ``DiffTori-Ant-Direct``."""

    experiment_name = "difftori_ant"
    obs_groups = {"actor": ["policy"], "critic": ["policy"]}  # noqa: RUF012 (a configclass copies it)
