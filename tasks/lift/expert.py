"""A scripted policy that lifts the cube: what ``policy=expert`` does in Lift."""

from __future__ import annotations

from typing import Any

import torch
from isaaclab.controllers import DifferentialIKController, DifferentialIKControllerCfg
from isaaclab.envs import ManagerBasedRLEnv
from isaaclab.utils.math import combine_frame_transforms, quat_apply
from tensordict import TensorDict

HOVER = 0.1
"""Height above the cube from which the hand comes down on it [m]."""
SLOPE, ALIGNED = 4.0, 0.01
"""How much higher the hand is for each metre that it is beside the cube, beyond the second number [m]."""
GAIN, GAIN_CARRYING = 3.0, 1.0
"""How far ahead of the fingertips their target is, in distances that they still have to go: the arm lags behind."""
LEAD, LEAD_CARRYING = 0.1, 0.06
"""How far ahead it is at most [m]; what is carried faster is lost."""
TOUCH, HELD = 0.02, 0.04
"""Distances from fingertips to cube within which open fingers close, and closed ones stay closed [m]."""
CLOSED = 0.05
"""Distance between the fingers below which they hold the cube, which is 0.048 m wide and gives way [m]."""
OPEN_ACTION, CLOSE_ACTION = 1.0, -1.0


class GraspExpert:
    """Comes down on the cube from above, closes the fingers and carries it to its goal.

    It has no memory: what it does follows from where hand, fingers and cube are, so that it grasps again what it drops.
    """

    def __init__(self, env: ManagerBasedRLEnv) -> None:
        """Take an environment of the lift task whose actions are joint position targets."""
        self._scene, self._commands = env.scene, env.command_manager
        self._robot = env.scene["robot"]
        self._scale: Any = env.action_manager.get_term("arm_action").cfg.scale
        self._tip = torch.tensor(env.scene["ee_frame"].cfg.target_frames[0].offset.pos, device=env.device)
        self._hand = self._robot.find_bodies("panda_hand")[0][0]
        self._joints, self._fingers = (self._robot.find_joints(f"panda_{name}.*")[0] for name in ("joint", "finger"))
        cfg = DifferentialIKControllerCfg(command_type="pose", use_relative_mode=False, ik_method="dls")
        self._inverse_kinematics = DifferentialIKController(cfg, env.num_envs, str(env.device))
        self._down = torch.tensor([1.0, 0.0, 0.0, 0.0], device=env.device).expand(env.num_envs, 4)

    def __call__(self, obs: TensorDict) -> torch.Tensor:
        """Actions of the task, shape (num_envs, 8); the observations are not looked at, but the simulator's state."""
        data = self._robot.data
        hand = data.body_pos_w.torch[:, self._hand]
        tip = hand + quat_apply(data.body_quat_w.torch[:, self._hand], self._tip.expand_as(hand))
        cube = self._scene["object"].data.root_pos_w.torch
        command = self._commands.get_command("object_pose")[:, :3]
        goal, _ = combine_frame_transforms(data.root_pos_w.torch, data.root_quat_w.torch, command)

        to_cube = cube - tip
        closed = data.joint_pos.torch[:, self._fingers].sum(dim=1) < CLOSED
        near = to_cube.norm(dim=1) < torch.where(closed, HELD, TOUCH)
        carrying = (near & closed)[:, None]
        beside = to_cube[:, :2].norm(dim=1)
        to_cube[:, 2] += (SLOPE * (beside - ALIGNED)).clamp(0.0, HOVER)
        way = torch.where(carrying, GAIN_CARRYING * (goal - cube), GAIN * to_cube)
        lead = torch.where(carrying, LEAD_CARRYING, LEAD)
        way = way * (lead / torch.maximum(way.norm(dim=1, keepdim=True), lead))

        targets = self._joint_targets(hand + way)
        arm = (targets - data.default_joint_pos.torch[:, self._joints]) / self._scale
        gripper = torch.where(near, CLOSE_ACTION, OPEN_ACTION)
        return torch.cat([arm, gripper[:, None]], dim=1)

    def _joint_targets(self, position: torch.Tensor) -> torch.Tensor:
        """Arm joints that bring the hand to a position in the world frame, pointing down, shape (num_envs, 7) [rad]."""
        data = self._robot.data
        hand, orientation = (value.torch[:, self._hand] for value in (data.body_pos_w, data.body_quat_w))
        self._inverse_kinematics.set_command(torch.cat([position, self._down], dim=1), hand, orientation)
        # the fixed base has no row in the Jacobian
        jacobian = data.body_link_jacobian_w.torch[:, self._hand - 1][:, :, self._joints]
        return self._inverse_kinematics.compute(hand, orientation, jacobian, data.joint_pos.torch[:, self._joints])
