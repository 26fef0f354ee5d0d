"""Isaac Lab configurations of the robots in this folder: Isaac Lab's own settings on local USD files."""

from __future__ import annotations

from pathlib import Path

from isaaclab.assets import ArticulationCfg
from isaaclab.utils import replace
from isaaclab_assets.robots import cartpole

_FOLDER = Path(__file__).parent

CARTPOLE_CFG: ArticulationCfg = replace(
    cartpole.CARTPOLE_CFG, spawn=replace(cartpole.CARTPOLE_CFG.spawn, usd_path=str(_FOLDER / "cartpole.usda"))
)
"""Isaac Lab's cart-pole: joints ``slider_to_cart`` and ``cart_to_pole``, the rail 2 m above the ground."""
