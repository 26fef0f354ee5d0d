"""Balance a pole on a cart: Isaac Lab's direct-workflow cart-pole with a robot from this repository."""

import gymnasium as gym

gym.register(
    id="DiffTori-Cartpole-Direct",
    entry_point="isaaclab_tasks.core.cartpole.cartpole_direct_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.cartpole_env_cfg:CartpoleEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:CartpolePPORunnerCfg",
        "default_agent": "rsl_rl",
        "difftori_alias": "Cartpole",
    },
)

gym.register(
    id="DiffTori-Cartpole-Camera-Direct",
    entry_point=f"{__name__}.cartpole_camera_env:CartpoleCameraEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.cartpole_camera_env_cfg:CartpoleCameraEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.agents.rsl_rl_ppo_cfg:CartpoleCameraPPORunnerCfg",
        "default_agent": "rsl_rl",
        "difftori_cfg_entry_point": f"{__name__}:cartpole_camera.yaml",
        "difftori_alias": "CartpolePixels",
    },
)
