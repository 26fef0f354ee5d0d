"""Isaac Lab's direct-workflow cart-pole (observations, rewards, resets, physics presets) on local assets."""

from __future__ import annotations

from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.utils import configclass, replace
from isaaclab.visualizers import VisualizerCfg
from isaaclab_tasks.core.cartpole import cartpole_direct_env_cfg as base

from difftori_isaac.tasks.assets.robots import CARTPOLE_CFG
from difftori_isaac.tasks.assets.scenery import floor


@configclass
class CartpoleSceneCfg(base.CartpoleSceneCfg):
    """Isaac Lab's scene with this repository's cart-pole."""

    ground: AssetBaseCfg = floor(0.0)
    cartpole: ArticulationCfg = replace(CARTPOLE_CFG, prim_path="{ENV_REGEX_NS}/Robot")


@configclass
class CartpoleEnvCfg(base.CartpoleEnvCfg):
    """Configuration of ``DiffTori-Cartpole-Direct``: 4 observations, 1 action, episodes of 5 s at 60 Hz."""

    scene: CartpoleSceneCfg = CartpoleSceneCfg(num_envs=4096, env_spacing=4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sim.default_visualizer_cfg = VisualizerCfg(eye=(-5.5, 0.0, 3.0), lookat=(0.0, 0.0, 1.9))
