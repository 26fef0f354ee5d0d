"""The drawn path is where the arm goes, and it is drawn on the arm."""

from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import VideoRequest, load_plan_path, make_env
from difftori_isaac.tasks.plan_path import joint_target_path


@pytest.mark.sim
def test_path_begins_at_the_hand_and_ends_where_the_arm_settles():
    plan_path = load_plan_path("Reach")
    assert plan_path is not None
    with closing(make_env("Reach", num_envs=2, device="cpu", seed=0, video=VideoRequest())) as env:
        robot = env.unwrapped.scene["robot"]
        hand = robot.body_names.index("panda_hand")
        offset = robot.data.joint_pos.torch - robot.data.default_joint_pos.torch
        stay = offset[0, : env.num_actions] / env.unwrapped.cfg.actions.arm_action.scale
        go = stay + torch.tensor([0.2, 0.3, 0.1, 0.2, 0.0, -0.2, 0.3])
        path, goal = plan_path(env.unwrapped, torch.stack((stay, go)))
        position = robot.data.body_pos_w.torch[0, hand]
        assert path.shape == (3, 3) and goal.shape == (3,)
        torch.testing.assert_close(path[:2], position.expand(2, 3), atol=1e-4, rtol=0.0)
        assert (path[2] - position).norm() > 0.05

        inside = joint_target_path(env.unwrapped, stay[None], body="panda_hand", offset=(0.0, 0.0, 0.03))
        right, down = env.camera.project(inside)[0].round().int().tolist()
        assert env.render_frame()[down, right].max() < 130  # the hand is dark, all that is behind it is bright

        for _ in range(60):
            env.step(go.expand(2, -1))
        torch.testing.assert_close(robot.data.body_pos_w.torch[0, hand], path[2], atol=0.01, rtol=0.0)
