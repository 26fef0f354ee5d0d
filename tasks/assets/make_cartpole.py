"""Writes ``cartpole.usda``: run ``python -m difftori_isaac.tasks.assets.make_cartpole``.

Every number is that of Isaac Lab's cart-pole (``Robots/Classic/Cartpole/cartpole.usd``), read from the flattened text
copy that the newton package ships (``newton/examples/assets/cartpole_single_pendulum.usda``): joint axes, frames and
limits, masses, the pole's centre of mass and the sizes of the three boxes. That file gives no inertias; here they are
those of the solid boxes, which is what a physics engine computes from the shapes. The rail is welded to the world, so
its mass has no effect; it is the box's volume times 1000 kg/m^3.
"""

from __future__ import annotations

from pathlib import Path

from difftori_isaac.tasks.assets.robot_usd import Box, Joint, Link, Material, box_inertia, write_robot

PATH = Path(__file__).with_name("cartpole.usda")

RAIL = Material("rail", color=(0.35, 0.37, 0.40))
CART = Material("cart", color=(0.10, 0.30, 0.65))
POLE = Material("pole", color=(0.85, 0.45, 0.10))

RAIL_SIZE, CART_SIZE, POLE_SIZE = (0.03, 8.0, 0.03), (0.2, 0.25, 0.2), (0.04, 0.06, 1.0)
POLE_CENTRE = (0.0, 0.0, 0.47)

LINKS = (
    Link("slider", 7.2, (0.0, 0.0, 0.0), box_inertia(7.2, RAIL_SIZE), (Box(RAIL, RAIL_SIZE),)),
    Link("cart", 1.0, (0.0, 0.0, 0.0), box_inertia(1.0, CART_SIZE), (Box(CART, CART_SIZE),)),
    Link("pole", 1.0, POLE_CENTRE, box_inertia(1.0, POLE_SIZE), (Box(POLE, POLE_SIZE, POLE_CENTRE),)),
)

JOINTS = (
    Joint("slider_to_cart", "prismatic", "slider", "cart", axis="Y", limits=(-4.0, 4.0)),
    Joint("cart_to_pole", "revolute", "cart", "pole", xyz=(0.12, 0.0, 0.0), axis="X"),
)


def write(path: Path = PATH) -> None:
    """Writes the cart-pole to `path`."""
    comment = "Written by make_cartpole.py, which names the source of every number."
    write_robot(path, "cartpole", LINKS, JOINTS, comment=comment)


if __name__ == "__main__":
    write()
