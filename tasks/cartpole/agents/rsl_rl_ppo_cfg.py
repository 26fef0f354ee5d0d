"""rsl_rl PPO settings of the cart-pole task: Isaac Lab's own."""

from __future__ import annotations

from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import CartpoleDirectPPORunnerCfg


@configclass
class CartpolePPORunnerCfg(CartpoleDirectPPORunnerCfg):
    """PPO settings for ``DiffTori-Cartpole-Direct``."""

    experiment_name = "difftori_cartpole"
    obs_groups = {"actor": ["policy"], "critic": ["policy"]}  # noqa: RUF012 (a configclass copies it)
