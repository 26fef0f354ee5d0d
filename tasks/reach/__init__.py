"""Bring a Franka Panda's hand to a commanded pose: Isaac Lab's reach task with a robot from this repository."""

import gymnasium as gym

gym.register(
    id="DiffTori-Reach-Franka",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.reach_env_cfg:ReachEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:ReachPPORunnerCfg",
        "default_agent": "rsl_rl",
        "difftori_alias": "Reach",
        "difftori_cfg_entry_point": f"{__name__}:reach.yaml",
        "difftori_plan_path_entry_point": "difftori_isaac.tasks.plan_path:hand_path",
    },
)
