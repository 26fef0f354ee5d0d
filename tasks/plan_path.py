"""Where a plan of joint position targets leads an arm's end effector: what a video draws for Reach and Lift."""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from isaaclab.envs import ManagerBasedRLEnv
from isaaclab.utils.math import combine_frame_transforms


def hand_path(env: ManagerBasedRLEnv, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Path of the Panda's hand in Reach, and the commanded position; see :func:`joint_target_path`."""
    command: Any = env.command_manager.get_term("ee_pose")
    return joint_target_path(env, actions, body="panda_hand"), _goal(command)


def grasp_path(env: ManagerBasedRLEnv, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Path of the point between the Panda's fingertips in Lift, and the cube's commanded position."""
    tip = env.scene["ee_frame"].cfg.target_frames[0].offset.pos
    command: Any = env.command_manager.get_term("object_pose")
    return joint_target_path(env, actions, body="panda_hand", offset=tip), _goal(command)


def joint_target_path(
    env: ManagerBasedRLEnv,
    actions: torch.Tensor,
    *,
    body: str,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    term: str = "arm_action",
) -> torch.Tensor:
    """Positions of a point of the first environment's robot, now and with its joints at each planned target.

    Joints that the action term does not move stay where they are. The arm follows its targets with a lag, so that it
    cuts the corners of this path.

    Args:
        env: An environment with a fixed-base ``robot`` in Newton.
        actions: Planned actions, shape (horizon, num_actions).
        body: Body that carries the point.
        offset: The point in the body's frame [m].
        term: The joint position action with a default offset and one scale.

    Returns:
        Positions in the world frame [m], shape (horizon + 1, 3).
    """
    robot, manager = env.scene["robot"], env.action_manager
    cfg: Any = manager.get_term(term).cfg
    index = manager.active_terms.index(term)
    first = sum(manager.action_term_dim[:index])
    joint_ids, names = robot.find_joints(cfg.joint_names)
    joint_pos = robot.data.joint_pos.torch[0].repeat(len(actions) + 1, 1)
    targets = cfg.scale * actions[:, first : first + len(names)]
    joint_pos[1:, joint_ids] = targets + robot.data.default_joint_pos.torch[0, joint_ids]
    poses = _body_poses(robot, joint_pos, body)
    points, _ = combine_frame_transforms(poses[:, :3], poses[:, 3:], poses.new_tensor(offset).expand(len(poses), 3))
    return points


def _body_poses(robot: Any, joint_pos: torch.Tensor, body: str) -> torch.Tensor:
    """Newton's forward kinematics of the first robot in a state of its own, shapes (n, num_joints) to (n, 7)."""
    view = robot.root_view
    order = [robot.joint_names.index(name) for name in view.joint_dof_names]
    state = view.model.state()
    poses = []
    for row in joint_pos[:, order]:
        view.set_dof_positions(state, wp.from_torch(row.expand(view.world_count, 1, -1).contiguous()))
        view.eval_fk(state)
        poses.append(wp.to_torch(view.get_link_transforms(state))[0, 0, view.link_names.index(body)].clone())
    return torch.stack(poses)


def _goal(command: Any) -> torch.Tensor:
    """Commanded position of the first environment in the world frame [m], shape (3,)."""
    robot = command.robot.data
    goal, _ = combine_frame_transforms(robot.root_pos_w.torch[:1], robot.root_quat_w.torch[:1], command.command[:1, :3])
    return goal[0]
