"""rsl_rl PPO settings of the cart-pole tasks: Isaac Lab's own."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import (
    CartpoleCameraDirectPPORunnerCfg,
    CartpoleDirectPPORunnerCfg,
)


@configclass
class CartpolePPORunnerCfg(CartpoleDirectPPORunnerCfg):
    """PPO settings for ``DiffTori-Cartpole-Direct``."""

    experiment_name = "difftori_cartpole"
    obs_groups = {"actor": ["policy"], "critic": ["policy"]}  # noqa: RUF012 (a configclass copies it)


@configclass
class CartpoleCameraPPORunnerCfg(CartpoleCameraDirectPPORunnerCfg):
    """PPO settings for ``DiffTori-Cartpole-Camera-Direct``: the actor sees pictures, the critic joint states."""

    experiment_name = "difftori_cartpole_camera"
    obs_groups = {"actor": ["pixels"], "critic": ["critic"]}  # noqa: RUF012 (a configclass copies it)

    def __post_init__(self) -> None:
        self.actor.hidden_dims = [64, 32]
        self.actor.cnn_cfg.stride = [4, 2, 2]
