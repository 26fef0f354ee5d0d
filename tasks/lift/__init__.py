"""Lift a cube to a commanded position with a Franka Panda: Isaac Lab's classic lift task on Newton."""

import gymnasium as gym

gym.register(
    id="DiffTori-Lift-Franka",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.lift_env_cfg:LiftEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:LiftPPORunnerCfg",
        "default_agent": "rsl_rl",
        "difftori_alias": "Lift",
        "difftori_cfg_entry_point": f"{__name__}:lift.yaml",
        "difftori_plan_path_entry_point": "difftori_isaac.tasks.plan_path:grasp_path",
        "difftori_expert_entry_point": f"{__name__}.expert:GraspExpert",
    },
)

gym.register(
    id="DiffTori-Lift-Franka-IK-Abs",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.lift_env_cfg:LiftIKAbsEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:LiftPPORunnerCfg",
        "default_agent": "rsl_rl",
    },
)

gym.register(
    id="DiffTori-Lift-Franka-Point-Cloud",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.lift_point_cloud_env_cfg:LiftPointCloudEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:LiftPointCloudPPORunnerCfg",
        "default_agent": "rsl_rl",
        "difftori_alias": "LiftPointCloud",
        "difftori_cfg_entry_point": f"{__name__}:lift.yaml",
        "difftori_plan_path_entry_point": "difftori_isaac.tasks.plan_path:grasp_path",
        "difftori_expert_entry_point": f"{__name__}.expert:GraspExpert",
    },
)
