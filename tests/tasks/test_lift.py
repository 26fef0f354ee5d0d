"""The gripper can really lift: a scripted grasp solves the lift task within its own episode."""

from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import make_env

pytestmark = pytest.mark.sim

OPEN, CLOSED = 1.0, -1.0


def test_scripted_grasp_brings_the_cube_to_the_goal():
    num_envs = 16
    with closing(make_env("DiffTori-Lift-Franka-IK-Abs", num_envs=num_envs, device="cpu", seed=0)) as env:
        scene = env.unwrapped.scene
        down = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(num_envs, 4)
        pads = torch.tensor([0.0, 0.0, -0.0036])  # the controlled point is 3.6 mm in front of the pads' centre

        def cube() -> torch.Tensor:
            return scene["object"].data.root_pos_w.torch - scene.env_origins

        start = cube().clone()
        goal = env.unwrapped.command_manager.get_command("object_pose")[:, :3].clone()
        above = start + torch.tensor([0.0, 0.0, 0.12])
        hand = above
        # where to, gripper, steps, share of the steps spent moving: five seconds in all
        for target, gripper, steps, moving in (
            (above, OPEN, 50, 0.8),
            (start, OPEN, 35, 0.7),
            (start, CLOSED, 15, 0.8),
            (goal, CLOSED, 149, 0.6),
        ):
            for step in range(1, steps + 1):
                waypoint = torch.lerp(hand, target, min(1.0, step / (moving * steps)))
                gripper_action = torch.full((num_envs, 1), gripper)
                _, _, dones, _ = env.step(torch.cat([waypoint + pads, down, gripper_action], dim=1))
                assert not dones.any()
            hand = target
        distance = torch.linalg.norm(cube() - goal, dim=1)
        assert (distance < 0.05).sum() >= 15, distance

        _, _, dones, extras = env.step(torch.cat([goal + pads, down, gripper_action], dim=1))
        assert dones.all()
        assert extras["time_outs"].all()
        assert env.success_rate(extras) >= 15 / 16
        assert torch.linalg.norm(cube() - start, dim=1).max() < 0.6  # back on the table, elsewhere
        assert torch.allclose(cube()[:, 2], torch.tensor(0.025), atol=0.002)
