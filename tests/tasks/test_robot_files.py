"""The robots' USD files are what their scripts write."""

import pytest
from pxr import Usd, UsdPhysics

from difftori_isaac.tasks.assets import make_cartpole, make_panda
from difftori_isaac.tasks.assets.robot_usd import box_inertia


@pytest.mark.parametrize("script", [make_cartpole, make_panda], ids=["cartpole", "panda"])
def test_the_committed_file_is_the_written_one(script, tmp_path):
    path = tmp_path / script.PATH.name
    script.write(path)
    assert path.read_text() == script.PATH.read_text()


@pytest.mark.parametrize("script", [make_cartpole, make_panda], ids=["cartpole", "panda"])
def test_every_link_but_the_first_hangs_on_one_joint(script):
    links = [link.name for link in script.LINKS]
    assert sorted(joint.child for joint in script.JOINTS) == sorted(links[1:])


def test_panda_hand_is_where_the_urdf_puts_it():
    stage = Usd.Stage.Open(str(make_panda.PATH))
    hand = stage.GetPrimAtPath("/panda/panda_hand").GetAttribute("xformOp:translate").Get()
    # zero configuration: 0.088 in front, 0.333 + 0.316 + 0.384 - 0.107 up
    assert tuple(hand) == pytest.approx((0.088, 0.0, 0.926), abs=1e-6)


def test_panda_mass_and_limits():
    stage = Usd.Stage.Open(str(make_panda.PATH))
    masses = [
        UsdPhysics.MassAPI(prim).GetMassAttr().Get() for prim in stage.Traverse() if prim.HasAPI(UsdPhysics.MassAPI)
    ]
    assert sum(masses) == pytest.approx(sum(link.mass for link in make_panda.LINKS))
    elbow = UsdPhysics.RevoluteJoint(stage.GetPrimAtPath("/panda/joints/panda_joint4"))
    assert elbow.GetLowerLimitAttr().Get() == pytest.approx(-176.0, abs=0.1)  # degrees
    assert elbow.GetUpperLimitAttr().Get() == pytest.approx(-4.0, abs=0.1)


def test_box_inertia():
    assert box_inertia(12.0, (1.0, 2.0, 3.0)) == (13.0, 0.0, 0.0, 10.0, 0.0, 5.0)
