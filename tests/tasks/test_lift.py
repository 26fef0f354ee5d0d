"""The gripper can really lift: the scripted expert solves the lift task within its own episode."""

from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import make_env

pytestmark = pytest.mark.sim


def test_the_expert_brings_the_cube_to_the_goal():
    num_envs, steps = 16, 250
    with closing(make_env("Lift", num_envs=num_envs, device="cpu", seed=0)) as env:
        scene, expert = env.unwrapped.scene, env.expert
        assert expert is not None

        def cube() -> torch.Tensor:
            return scene["object"].data.root_pos_w.torch - scene.env_origins

        start = cube().clone()
        goal = env.unwrapped.command_manager.get_command("object_pose")[:, :3].clone()
        obs, returns = env.get_observations(), torch.zeros(num_envs)
        for _ in range(steps - 1):
            obs, rewards, dones, _ = env.step(expert(obs))
            returns += rewards
            assert not dones.any()
        distance = torch.linalg.norm(cube() - goal, dim=1)
        assert (distance < 0.02).sum() >= 13, distance  # what is dropped on the way is grasped again
        assert returns.mean() > 120.0, returns

        _, _, dones, extras = env.step(expert(obs))
        assert dones.all()
        assert extras["time_outs"].all()
        assert env.success_rate(extras) >= 15 / 16
        assert torch.linalg.norm(cube() - start, dim=1).max() < 0.6  # back on the table, elsewhere
        assert torch.allclose(cube()[:, 2], torch.tensor(0.025), atol=0.002)


def test_a_task_without_a_script_has_no_expert():
    with closing(make_env("Cartpole", num_envs=1, device="cpu", seed=0)) as env:
        assert env.expert is None
