"""Isaac Lab's direct-workflow ant (observations, rewards, resets, physics presets) without assets to download."""

from __future__ import annotations

from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.utils import configclass, replace
from isaaclab.visualizers import VisualizerCfg
from isaaclab_tasks.core.locomotion.ant import ant_direct_env_cfg as base

from difftori_isaac.tasks.assets.robots import ANT_CFG
from difftori_isaac.tasks.assets.scenery import ground


@configclass
class AntSceneCfg(base.AntDirectSceneCfg):
    """Isaac Lab's scene with Newton's ant on a box."""

    terrain: AssetBaseCfg = ground()
    robot: ArticulationCfg = replace(ANT_CFG, prim_path="{ENV_REGEX_NS}/Robot")


@configclass
class AntEnvCfg(base.AntEnvCfg):
    """Configuration of ``DiffTori-Ant-Direct``: 60 observations, 8 actions, episodes of 16 s at 60 Hz."""

    scene: AntSceneCfg = AntSceneCfg(num_envs=4096, env_spacing=5.0, replicate_physics=True, clone_in_fabric=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sim.default_visualizer_cfg = VisualizerCfg(eye=(-3.0, -3.0, 2.0), lookat=(0.5, 0.0, 0.5))
