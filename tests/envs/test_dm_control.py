"""The DeepMind Control suite behind the door."""

import sys
from contextlib import closing
from ctypes.util import find_library

import numpy as np
import pytest
import torch
from dm_env.specs import BoundedArray

from difftori_isaac.envs.dm_control import DmControlSettings, make_env
from difftori_isaac.envs.dm_control_tasks import BENCHMARK, TASKS
from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.envs.registry import TaskInfo, UnknownTaskError, open_simulator, resolve_task
from difftori_isaac.envs.settings import parse_settings
from difftori_isaac.envs.vec_env import VideoRequest

HERE = "env.num_workers=1"
needs_egl = pytest.mark.skipif(find_library("EGL") is None, reason="pictures need EGL")


def make(task: str, *overrides: str, num_envs: int = 2, seed: int = 0, **kwargs):
    return make_env(task, num_envs=num_envs, device="cpu", seed=seed, overrides=[HERE, *overrides], **kwargs)


def roll_out(env, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations and rewards of random steps, shapes (steps + 1, num_envs, ...) and (steps, num_envs)."""
    generator = torch.Generator().manual_seed(1)
    obs, rewards = [env.get_observations()], []
    for _ in range(steps):
        after, reward, _, _ = env.step(2 * torch.rand(env.num_envs, env.num_actions, generator=generator) - 1)
        obs.append(after)
        rewards.append(reward)
    return torch.stack([next(iter(group.values())) for group in obs]), torch.stack(rewards)


def test_the_names_are_those_of_the_installed_suite():
    from difftori_isaac.envs.dm_control_env import suite  # which chooses the renderer before the import

    assert {(task.domain, task.task) for task in TASKS.values()} == set(suite.ALL_TASKS)
    assert len(TASKS) == len(suite.ALL_TASKS)
    assert len(BENCHMARK) == 15
    assert {name: TASKS[name].action_repeat for name in BENCHMARK} == BENCHMARK
    assert TASKS["acrobot-swingup"].action_repeat == 2
    assert (TASKS["cup-catch"].domain, TASKS["cartpole-swingup-sparse"].task) == ("ball_in_cup", "swingup_sparse")


@pytest.mark.parametrize("task", BENCHMARK)
def test_every_task_of_the_benchmark_steps(task):
    with closing(make(task, num_envs=1)) as env:
        obs, rewards = roll_out(env, 2)
        assert obs.dtype == torch.float32 and obs.shape[:2] == (3, 1) and obs.isfinite().all()
        assert not torch.equal(obs[0], obs[1])
        assert ((rewards >= 0) & (rewards <= BENCHMARK[task])).all()
        assert env.max_episode_length == 1000 / BENCHMARK[task]


def test_an_action_is_held_and_its_rewards_are_summed():
    actions = torch.tensor([[0.3, -0.8, 5.0, 0.1, -0.5, 0.9]])
    with closing(make("walker-walk", "env.action_repeat=3", num_envs=1)) as env:
        obs, reward, _, _ = env.step(actions)
        assert env.step_dt == pytest.approx(3 * 0.025) and env.max_episode_length == 334
    with closing(make("walker-walk", "env.action_repeat=1", num_envs=1)) as env:
        steps = [env.step(actions.clamp(-1, 1)) for _ in range(3)]
    assert torch.equal(steps[-1][0]["policy"], obs["policy"])
    assert reward.item() == pytest.approx(sum(step[1].item() for step in steps)) != 0.0


@pytest.mark.parametrize(("bounds", "controls"), [((-2, 4), (4, -2, 1)), (None, (1, -1, 0))])
def test_actions_are_scaled_and_clipped(bounds, controls, monkeypatch):
    """The actuators of ``lqr`` have no bounds of their own."""
    if bounds is not None:
        monkeypatch.setattr("dm_control.suite.lqr.LQRLevel.action_spec", lambda *_: BoundedArray((1,), float, *bounds))
    env = TASKS["lqr-lqr-2-1"].make(action_repeat=1, pixels=False, frame=(1, 1))
    env.reset(seed=0)
    for action, control in zip((5.0, -1.0, 0.0), controls, strict=True):
        env.step(np.full(1, action))
        assert env._env.physics.control() == pytest.approx(control)
    env.close()


def test_what_a_task_draws_once_does_not_follow_from_the_seed():
    """Or a policy would be evaluated on another system than it has learned on."""
    stiffness = []
    for seed in (0, 1):
        with closing(make("lqr-lqr-2-1", num_envs=1, seed=seed)) as env:
            stiffness.append(env._envs._envs[0]._env.physics.model.jnt_stiffness.copy())
    assert (stiffness[0] == stiffness[1]).all() and stiffness[0].min() > 0


def test_the_time_limit_truncates():
    with closing(make("cartpole-swingup", "env.episode_steps=6")) as env:
        for step in range(1, 7):
            obs, _, dones, extras = env.step(torch.ones(2, 1))
            assert dones.tolist() == extras["time_outs"].long().tolist() == [int(step % 3 == 0)] * 2
            assert ("final_obs" in extras) == (step % 3 == 0)
        assert (extras["final_obs"]["policy"] != obs["policy"]).any(dim=1).all()


def test_diverging_physics_stays_in_its_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(make("cheetah-run")) as env:
        actions = torch.zeros(2, env.num_actions)
        actions[0] = torch.nan
        obs, rewards, dones, extras = env.step(actions)
        assert extras["nonfinite"].tolist() == [True, False]
        assert dones.tolist() == [1, 0] and rewards[0] == 0.0
        assert obs["policy"].isfinite().all() and extras["final_obs"]["policy"].isfinite().all()
        assert not env.step(torch.zeros_like(actions))[3]["nonfinite"].any()


def test_processes_and_seeds():
    with closing(make("reacher-easy", num_envs=3)) as env:
        obs, rewards = roll_out(env, 3)
    with closing(make("reacher-easy", "env.num_workers=2", num_envs=3)) as env:
        assert all(torch.equal(a, b) for a, b in zip(roll_out(env, 3), (obs, rewards), strict=True))
    with closing(make("reacher-easy", num_envs=3, seed=1)) as env:
        assert not torch.equal(roll_out(env, 3)[0], obs)


def test_resetting_follows_torchs_generator():
    with closing(make("reacher-easy")) as env:
        first = env.reset()[0]["policy"]
        torch.manual_seed(5)
        second, third = (env.reset()[0]["policy"] for _ in range(2))
        torch.manual_seed(5)
        again = env.reset()[0]["policy"]
    assert torch.equal(second, again)
    assert not torch.equal(first, second) and not torch.equal(second, third)


@needs_egl
def test_pictures():
    with closing(make("cheetah-run", "env.pixels=true", video=VideoRequest(width=64, height=48))) as env:
        obs, _ = roll_out(env, 3)
        frame = env.render_frame()
    assert obs.shape == (4, 2, 9, 84, 84) and obs.dtype == torch.uint8
    frames = obs.unflatten(2, (3, 3))
    assert torch.equal(frames[0, :, 0], frames[0, :, 2])  # at the start, three times the same
    for step in range(3):
        assert torch.equal(frames[step + 1, :, :2], frames[step, :, 1:])
        assert not torch.equal(frames[step + 1, :, 2], frames[step, :, 2])
    assert obs.float().std() > 10
    assert frame.shape == (48, 64, 3) and frame.std() > 10


@needs_egl
def test_pictures_without_shadows():
    pictures = []
    for shadows in ("true", "false"):
        with closing(make("cheetah-run", "env.pixels=true", f"env.shadows={shadows}")) as env:
            obs, _ = roll_out(env, 1)
            pictures.append(obs[0, 0, :3].float())
    with_shadows, without = pictures
    assert without.std() > 10, "the scene is still there"
    assert (without - with_shadows).max() > 10, "where the shadow was it is lighter"


def test_settings():
    overrides = ["env.pixels=true", "env.action_repeat=4"]
    assert parse_settings(DmControlSettings, overrides, "dm_control") == DmControlSettings(pixels=True, action_repeat=4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.sim.dt=0.1", "'env.sim.dt=0.1' is no setting of a dm_control task; allowed: env.action_repeat, "),
        ("physics=newton", "allowed: env.action_repeat, env.pixels, env.shadows, env.num_workers, env.episode_steps"),
        ("env.action_repeat=[", "'env.action_repeat=[' cannot be read (while parsing a flow node"),
        ("env.action_repeat=0", "env.action_repeat is 0; input should be greater than or equal to 1"),
        ("env.pixels=3", "env.pixels is 3; input should be a valid boolean"),
    ],
)
def test_wrong_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        make("walker-walk", override)
    assert message in str(error.value)


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(UnknownTaskError, match="'walker-fly'"):
        make("walker-fly")
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(
        ValueError, match=r"^walker-walk needs the package dm-control: pip install 'difftori-isaac\[dmc\]'"
    ):
        make("walker-walk")


def test_a_task_that_cannot_be_made_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "no-such-renderer")
    with pytest.raises(SimulatorError, match="no-such-renderer"):
        make("walker-walk", "env.num_workers=2")


def test_the_registry_knows_the_suite(monkeypatch):
    monkeypatch.setitem(sys.modules, "isaaclab_tasks", None)  # it is not imported for this
    assert resolve_task("cup-catch") == TaskInfo("cup-catch", None, "dm_control", "dm_control")
    assert open_simulator("walker-walk").__name__ == "difftori_isaac.envs.dm_control"
