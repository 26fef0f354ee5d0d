"""Isaac Lab's direct-workflow cart-pole (observations, rewards, resets, physics presets) on local assets."""

from __future__ import annotations

import isaaclab.sim as sim_utils
from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.utils import configclass, replace
from isaaclab_tasks.core.cartpole import cartpole_direct_env_cfg as base

from difftori_isaac.tasks.assets.robots import CARTPOLE_CFG


@configclass
class CartpoleSceneCfg(base.CartpoleSceneCfg):
    """Isaac Lab's scene with this repository's cart-pole above a floor that is only drawn: nothing ever touches it."""

    ground = AssetBaseCfg(
        prim_path="/World/ground",
        spawn=sim_utils.CuboidCfg(
            size=(1000.0, 1000.0, 0.1),
            visual_material=sim_utils.PreviewSurfaceCfg(diffuse_color=(0.55, 0.57, 0.6)),
        ),
        init_state=AssetBaseCfg.InitialStateCfg(pos=(0.0, 0.0, -0.05)),
    )
    cartpole: ArticulationCfg = replace(CARTPOLE_CFG, prim_path="{ENV_REGEX_NS}/Robot")


@configclass
class CartpoleEnvCfg(base.CartpoleEnvCfg):
    """Configuration of ``DiffTori-Cartpole-Direct``: 4 observations, 1 action, episodes of 5 s at 60 Hz."""

    scene: CartpoleSceneCfg = CartpoleSceneCfg(num_envs=4096, env_spacing=4.0, replicate_physics=True)
