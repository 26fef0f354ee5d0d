"""MetaWorld behind the door."""

from __future__ import annotations

from contextlib import closing
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch

from difftori_isaac.envs.metaworld import make_env
from difftori_isaac.envs.metaworld_tasks import TASKS
from difftori_isaac.envs.registry import TaskInfo, UnknownTaskError, list_tasks, open_simulator, resolve_task
from difftori_isaac.envs.vec_env import VideoRequest

needs_egl = pytest.mark.skipif(find_library("EGL") is None, reason="pictures need EGL")


def make(task: str, *overrides: str, num_envs: int = 2, seed: int = 0, num_workers: int = 1, **kwargs):
    overrides = (f"env.num_workers={num_workers}", *overrides)
    return make_env(task, num_envs=num_envs, device="cpu", seed=seed, overrides=overrides, **kwargs)


def follow_expert(env, steps: int):
    """Observations, rewards and success of each step."""
    obs, rows = env.get_observations(), []
    for _ in range(steps):
        obs, rewards, _, extras = env.step(obs["expert"])
        rows.append((obs["policy"], rewards, env.success_rate(extras)))
    return rows


def test_the_names_are_those_of_the_installed_package():
    from difftori_isaac.envs.metaworld_env import ENV_POLICY_MAP

    assert set(TASKS) == set(ENV_POLICY_MAP) and len(TASKS) == 50
    assert resolve_task("hammer-v3") == TaskInfo("hammer-v3", None, "metaworld", "metaworld")
    assert (
        resolve_task("hammer-v3") in list_tasks() and open_simulator("hammer-v3").load_task_defaults("hammer-v3") == {}
    )
    with pytest.raises(UnknownTaskError, match=r"Close matches: .*hammer-v3"):
        resolve_task("hamer-v3")


@pytest.mark.parametrize("task", ["assembly-v3", "hammer-v3", "peg-insert-side-v3"])
def test_experts_succeed_and_idle_hands_do_not(task):
    with closing(make(task)) as env:
        rows = follow_expert(env, 200)
        assert [success for _, _, success in rows[:-1]] == [None] * 199 and rows[-1][-1] == 1.0
        assert torch.stack([rewards for _, rewards, _ in rows[-20:]]).mean() > 1.0
        for _ in range(200):
            *_, dones, extras = env.step(torch.zeros(2, 4))
        assert dones.all() and extras["time_outs"].all() and env.success_rate(extras) == 0.0


def test_what_follows_from_a_seed_does_not_depend_on_workers():
    rows = []
    for seed, num_workers in ((3, 1), (3, 2), (4, 1)):
        with closing(make("reach-v3", "env.episode_steps=3", seed=seed, num_workers=num_workers)) as env:
            rows.append(torch.stack([obs for obs, _, _ in follow_expert(env, 7)]))
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    goals = rows[0][:, 0, -3:]
    assert torch.equal(goals[3], goals[4]) and not torch.equal(goals[1], goals[4])  # a new one for each episode


@pytest.mark.parametrize("task", ["window-open-v3", "dial-turn-v3"])
def test_the_first_observation_of_an_episode_is_of_its_scene(task):
    """MetaWorld moves bodies at a reset: they are seen where they still are one step later."""
    with closing(make(task, num_envs=1)) as env:
        for _ in range(3):
            first = env.reset()[0]["policy"][0]
            second = env.step(torch.zeros(1, 4))[0]["policy"][0]
            assert torch.equal(first[:18], first[18:36]) and torch.equal(first[:18], second[18:36])
            torch.testing.assert_close(first[4:7], second[4:7], rtol=0, atol=1e-3)


def test_scripted_policies_do_not_change_what_is_observed():
    """That of doors adds to the place of the handle where it reads it."""
    with closing(make("door-close-v3", num_envs=1)) as env:
        obs = env.step(torch.zeros(1, 4))[0]["policy"][0]
        handle = env._envs._envs[0]._env._get_pos_objects()
    torch.testing.assert_close(obs[4:7], torch.as_tensor(handle, dtype=torch.float32), rtol=0, atol=1e-5)


def test_actions_are_clipped():
    states = []
    for size in (1.0, 7.0):
        with closing(make("reach-v3", num_envs=1)) as env:
            states.append(env.step(torch.full((1, 4), size))[0]["policy"])
    assert torch.equal(*states)


def test_physics_that_diverges_is_not_finite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    with closing(make("reach-v3")) as env:
        for spoil in ("action", "velocity"):
            actions = torch.zeros(2, 4)
            assert not env.step(actions)[-1]["nonfinite"].any()
            if spoil == "action":
                actions[1, 0] = torch.nan
            else:
                env._envs._envs[1]._env.data.qvel[0] = 1e12
            obs, rewards, dones, extras = env.step(actions)
            assert extras["nonfinite"].tolist() == [False, True] and dones.tolist() == [0, 1]
            assert rewards[1] == 0.0 and env.episode_length_buf[1] == 0 and obs["policy"].isfinite().all()


@needs_egl
def test_pictures_are_the_right_way_up():
    with closing(make("hammer-v3", num_envs=1, video=VideoRequest(64, 48))) as env:
        frame = env.render_frame().astype(float)
    assert frame.shape == (48, 64, 3)
    assert frame[:12].std() < 0.8 * frame[-12:].std()  # but for the arm, the bare wall is behind the table and above it


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "env.action_repeat=2",
            "'env.action_repeat=2' is no setting of a metaworld task; allowed: env.pixels, ",
        ),
        ("env.episode_steps=501", "env.episode_steps is 501; input should be less than or equal to 500"),
        ("env.num_workers=0", "env.num_workers is 0"),
    ],
)
def test_bad_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        make_env("reach-v3", num_envs=1, device="cpu", seed=0, overrides=[override])
    with pytest.raises(UnknownTaskError, match="allowed: assembly-v3, "):
        make_env("walker-walk", num_envs=1, device="cpu", seed=0)
