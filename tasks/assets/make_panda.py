"""Writes ``panda.usda``: run ``python -m difftori_isaac.tasks.assets.make_panda``.

Sources, all in the package franka_description of the public repository frankaemika/franka_ros:

* joint frames: ``robots/common/franka_arm.xacro`` and ``franka_hand.xacro``; the hand is mounted 0.107 m along the
  flange, turned by -45 degrees, as in ``franka_robot.xacro``;
* joint limits and efforts: ``robots/panda/joint_limits.yaml`` and, for the fingers, ``franka_hand.xacro``;
* masses, centres of mass, inertias: ``robots/common/inertial.yaml``, which in turn are the values identified by
  Gaz et al., "Dynamic Identification of the Franka Emika Panda Robot With Retrieval of Feasible Parameters Using
  Penalty-Based Optimization", IEEE RA-L 4(4), 2019.

Shapes are approximate. The arm has the capsules with which ``franka_arm.xacro`` checks self-collision (each link has
one or two; the small second one of link 7 is left out). The fingers have two of the five boxes of
``franka_hand.xacro``: the rubber pad, which does the grasping, and the screw mount. The hand is one box, drawn by eye
around its two capsules, so that it ends above an object between the pads. A finger's centre of mass lies between its
shapes (``inertial.yaml`` puts it at the joint). Drive gains are those of Isaac Lab's Franka; a task sets its own.
"""

from __future__ import annotations

from math import pi
from pathlib import Path

from difftori_isaac.tasks.assets.robot_usd import Box, Capsule, Joint, Link, Material, write_robot

PATH = Path(__file__).with_name("panda.usda")

SHELL = Material("shell", color=(0.85, 0.87, 0.88))
METAL = Material("metal", color=(0.15, 0.15, 0.16))
RUBBER = Material("rubber", color=(0.10, 0.10, 0.10), friction=1.0)

FINGER_INERTIA = (2.375e-06, 0.0, 0.0, 2.375e-06, 0.0, 7.5e-07)


def _finger(name: str, side: int) -> Link:
    """A finger; `side` is the sign of the y direction in which it opens."""
    pad = Box(RUBBER, (0.0175, 0.0152, 0.0185), (0.0, side * 0.00758, 0.04525))
    mount = Box(METAL, (0.022, 0.015, 0.020), (0.0, side * 0.0185, 0.011))
    return Link(name, 0.015, (0.0, side * 0.01, 0.03), FINGER_INERTIA, (pad, mount))


LINKS = (
    Link(
        "panda_link0", 0.629769, (-0.041018, -0.00014, 0.049974),
        (0.00315, 8.2904e-07, 0.00015, 0.00388, 8.2299e-06, 0.004285),
        (Capsule(SHELL, "X", 0.06, 0.03, (-0.075, 0.0, 0.06)),),
    ),
    Link(
        "panda_link1", 4.970684, (0.003875, 0.002081, -0.04762),
        (0.70337, -0.000139, 0.006772, 0.70661, 0.019169, 0.009117),
        (Capsule(SHELL, "Z", 0.06, 0.283, (0.0, 0.0, -0.1915)),),
    ),
    Link(
        "panda_link2", 0.646926, (-0.003141, -0.02872, 0.003495),
        (0.007962, -0.003925, 0.010254, 0.02811, 0.000704, 0.025995),
        (Capsule(SHELL, "Z", 0.06, 0.12),),
    ),
    Link(
        "panda_link3", 3.228604, (0.027518, 0.039252, -0.066502),
        (0.037242, -0.004761, -0.011396, 0.036155, -0.012805, 0.01083),
        (Capsule(SHELL, "Z", 0.06, 0.15, (0.0, 0.0, -0.145)),),
    ),
    Link(
        "panda_link4", 3.587895, (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.007796, -0.001332, 0.019552, 0.008641, 0.028323),
        (Capsule(SHELL, "Z", 0.06, 0.12),),
    ),
    Link(
        "panda_link5", 1.225946, (-0.011953, 0.041065, -0.038437),
        (0.035549, -0.002117, -0.004037, 0.029474, 0.000229, 0.008627),
        (Capsule(SHELL, "Z", 0.06, 0.10, (0.0, 0.0, -0.26)), Capsule(SHELL, "Z", 0.025, 0.14, (0.0, 0.08, -0.13))),
    ),
    Link(
        "panda_link6", 1.666555, (0.060149, -0.014117, -0.010517),
        (0.001964, 0.000109, -0.001158, 0.004354, 0.000341, 0.005433),
        (Capsule(SHELL, "Z", 0.05, 0.08, (0.0, 0.0, -0.03)),),
    ),
    Link(
        "panda_link7", 0.735522, (0.010517, -0.004252, 0.061597),
        (0.012516, -0.000428, -0.001196, 0.010027, -0.000741, 0.004815),
        (Capsule(SHELL, "Z", 0.04, 0.14, (0.0, 0.0, 0.01)),),
    ),
    Link(
        "panda_hand", 0.73, (-0.01, 0.0, 0.03), (0.001, 0.0, 0.0, 0.0025, 0.0, 0.0017),
        (Box(METAL, (0.04, 0.20, 0.06), (0.0, 0.0, 0.035)),),
    ),
    _finger("panda_leftfinger", side=1),
    _finger("panda_rightfinger", side=-1),
)  # fmt: skip


def _revolute(number: int, xyz: tuple, roll: float, limits: tuple[float, float], effort: float) -> Joint:
    return Joint(
        f"panda_joint{number}", "revolute", f"panda_link{number - 1}", f"panda_link{number}", xyz, (roll, 0.0, 0.0),
        limits=limits, effort=effort, stiffness=80.0, damping=4.0,
    )  # fmt: skip


def _prismatic(number: int, child: str, axis: str) -> Joint:
    return Joint(
        f"panda_finger_joint{number}", "prismatic", "panda_hand", child, (0.0, 0.0, 0.0584), axis=axis,
        limits=(0.0, 0.04), effort=100.0, stiffness=2000.0, damping=100.0,
    )  # fmt: skip


JOINTS = (
    _revolute(1, (0.0, 0.0, 0.333), 0.0, (-2.8973, 2.8973), 87.0),
    _revolute(2, (0.0, 0.0, 0.0), -pi / 2, (-1.7628, 1.7628), 87.0),
    _revolute(3, (0.0, -0.316, 0.0), pi / 2, (-2.8973, 2.8973), 87.0),
    _revolute(4, (0.0825, 0.0, 0.0), pi / 2, (-3.0718, -0.0698), 87.0),
    _revolute(5, (-0.0825, 0.384, 0.0), -pi / 2, (-2.8973, 2.8973), 12.0),
    _revolute(6, (0.0, 0.0, 0.0), pi / 2, (-0.0175, 3.7525), 12.0),
    _revolute(7, (0.088, 0.0, 0.0), pi / 2, (-2.8973, 2.8973), 12.0),
    Joint("panda_hand_joint", "fixed", "panda_link7", "panda_hand", (0.0, 0.0, 0.107), (0.0, 0.0, -pi / 4)),
    _prismatic(1, "panda_leftfinger", "Y"),
    _prismatic(2, "panda_rightfinger", "-Y"),
)


def write(path: Path = PATH) -> None:
    """Writes the Panda to `path`."""
    comment = "Written by make_panda.py, which names the source of every number and says which shapes are approximate."
    write_robot(path, "panda", LINKS, JOINTS, comment=comment)


if __name__ == "__main__":
    write()
