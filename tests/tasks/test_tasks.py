"""What the tasks promise: sizes, timing, physics presets, registration that needs no simulator."""

import subprocess
import sys
from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import compose_env_cfg, make_env
from difftori_isaac.run.compose import parse
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.configure import configure


def run_python(*arguments: str, folder) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def test_registration_imports_no_simulator(tmp_path):
    program = (
        "import sys, difftori_isaac.tasks; print([m for m in ('isaaclab', 'torch', 'warp', 'pxr') if m in sys.modules])"
    )
    assert run_python("-c", program, folder=tmp_path) == "[]\n"


@pytest.mark.parametrize("task", ["Ant", "Cartpole", "CartpolePixels", "Lift", "LiftPointCloud", "Reach"])
def test_physics_presets_compose(task):
    kinds = {
        preset: type(compose_env_cfg(task, [f"physics={preset}"] if preset else []).sim.physics).__name__
        for preset in ("", "newton_mjwarp", "isaacsim_physx", "physx")
    }
    assert kinds == {
        "": "NewtonCfg",
        "newton_mjwarp": "NewtonCfg",
        "isaacsim_physx": "PhysxCfg",
        "physx": "PhysxAutoCfg",
    }


@pytest.mark.parametrize(("task", "action_scale"), [("Ant", 0.3), ("Cartpole", 1.0), ("Reach", 2.0)])
def test_tasks_say_how_large_an_action_of_the_model_based_learner_is(task, action_scale):
    asked = (f"task={task}", "device=cpu", "run_dir=run")
    model_based, _ = configure(parse([*asked, "learner=model_based_parallel"], TrainConfig))
    assert model_based.learner.action_scale == action_scale and model_based.learner.batch_size == 512
    ppo, _ = configure(parse(asked, TrainConfig))
    assert ppo.learner.name == "ppo"


def test_lift_physics_holds_the_cube():
    cfg = compose_env_cfg("Lift")
    solver = cfg.sim.physics.solver_cfg
    assert (cfg.sim.dt, cfg.decimation, cfg.sim.physics.num_substeps) == (0.01, 2, 2)
    assert (solver.cone, solver.impratio, solver.iterations) == ("pyramidal", 1.0, 20)


@pytest.mark.sim
@pytest.mark.parametrize(
    ("task", "num_obs", "num_actions", "episode_length"),
    [("Ant", 60, 8, 960), ("Cartpole", 4, 1, 300), ("Lift", 36, 8, 250), ("Reach", 32, 7, 360)],
)
def test_sizes_and_finite_values(task, num_obs, num_actions, episode_length):
    with closing(make_env(task, num_envs=8, device="cpu", seed=0)) as env:
        assert env.get_observations()["policy"].shape == (8, num_obs)
        assert (env.num_actions, env.max_episode_length) == (num_actions, episode_length)
        env.episode_length_buf = torch.full_like(env.episode_length_buf, episode_length - 20)
        for _ in range(20):
            obs, rewards, dones, extras = env.step(2.0 * torch.randn(8, num_actions))
            assert obs["policy"].shape == (8, num_obs)
            assert rewards.shape == dones.shape == (8,)
            assert not extras["nonfinite"].any()
            if dones.any():
                assert env.success_rate(extras) is not None
        assert dones.sum() > 0
        assert torch.equal(env.episode_length_buf == 0, dones.bool())


@pytest.mark.sim
def test_isaac_lab_lists_and_trains_our_tasks_from_any_folder(tmp_path):
    listing = run_python("-m", "isaaclab", "list_envs", "--keyword", "DiffTori", folder=tmp_path)
    for task in ("Ant-Direct", "Cartpole-Direct", "Lift-Franka", "Lift-Franka-IK-Abs", "Reach-Franka"):
        assert f"DiffTori-{task} " in listing
    command = (
        "-m isaaclab train --rl_library rsl_rl --task DiffTori-Lift-Franka --num_envs 4 --max_iterations 1 "
        "--device cpu agent.device=cpu agent.num_steps_per_env=4"
    )
    run_python(*command.split(), folder=tmp_path)
    assert list((tmp_path / "logs" / "rsl_rl" / "difftori_lift").glob("*/model_*.pt"))
