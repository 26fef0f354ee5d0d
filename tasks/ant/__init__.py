"""Walk forward with four legs: Isaac Lab's direct-workflow ant with the robot that Newton ships."""

import gymnasium as gym

gym.register(
    id="DiffTori-Ant-Direct",
    entry_point="isaaclab_tasks.core.locomotion.ant.ant_direct_env:AntEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.ant_env_cfg:AntEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:AntPPORunnerCfg",
        "difftori_cfg_entry_point": f"{__name__}:ant.yaml",
        "default_agent": "rsl_rl",
        "difftori_alias": "Ant",
    },
)
