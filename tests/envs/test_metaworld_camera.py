"""What MetaWorld's camera sees: clouds lie where things are, and pictures are the right way up."""

from __future__ import annotations

from contextlib import closing
from ctypes.util import find_library

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.envs import metaworld_camera
from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.envs.metaworld_camera import WORKSPACE, farthest_points
from difftori_isaac.envs.metaworld_env import MetaWorldEnv
from tests.envs.test_metaworld import make

needs_egl = pytest.mark.skipif(find_library("EGL") is None, reason="pictures need EGL")


@settings(max_examples=30, deadline=None)
@given(num_points=st.integers(1, 40), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_each_point_is_the_farthest_from_those_before(num_points, count, seed):
    points = np.random.default_rng(seed).random((num_points, 3), np.float32)
    chosen = farthest_points(points, count)
    assert len(chosen) == min(num_points, count) and len(np.unique(chosen, axis=0)) == len(chosen)
    if num_points <= count:
        assert np.array_equal(chosen, points)
        return
    distances = np.linalg.norm(points[:, None] - chosen, axis=2)
    for index in range(1, count):
        nearest = distances[:, :index].min(axis=1)
        np.testing.assert_allclose(nearest.max(), np.linalg.norm(chosen[:index] - chosen[index], axis=1).min(), 1e-4)


@pytest.fixture(scope="module")
def episode():
    """The state, and what is observed beside it, at ten steps of the expert on its way to the hammer."""
    seeing = MetaWorldEnv("hammer-v3", frame=(64, 48), num_points=512, pixels=True)
    knowing = MetaWorldEnv("hammer-v3", frame=(64, 48))
    with closing(seeing), closing(knowing):
        rows = [(knowing.reset(seed=3)[0]["policy"], seeing.reset(seed=3)[0])]
        for _ in range(9):
            for _ in range(4):
                action = rows[-1][1]["expert"]
                state, obs = knowing.step(action)[0]["policy"], seeing.step(action)[0]
            rows.append((state, obs))
    return rows


@needs_egl
def test_clouds_lie_where_things_are(episode):
    """Seen from the hand: fingers are at it, the hammer is where the state has it, and nothing else moves."""
    for state, obs in episode:
        assert obs["point_cloud"].shape == (512, 3) and obs["point_cloud"].dtype == np.float32
        points = obs["point_cloud"] + state[:3]
        assert (points > WORKSPACE[0] - 1e-3).all() and (points < WORKSPACE[1] + 1e-3).all()
        for place in (state[:3], state[4:7]):
            assert np.linalg.norm(points - place, axis=1).min() < 0.06
    standing = [obs["point_cloud"] + state[:3] for state, obs in episode]
    box = [points[(points[:, 0] > 0.15) & (points[:, 1] > 0.6)] for points in standing]  # the nail's
    assert len(box[0]) > 50
    apart = np.linalg.norm(box[0][:, None] - box[-1], axis=2).min(axis=1)
    assert np.quantile(apart, 0.9) < 0.03


@needs_egl
def test_the_first_observation_is_seen_from_the_same_place_as_all_others():
    with closing(MetaWorldEnv("hammer-v3", frame=(64, 48), num_points=64, pixels=True)) as env:
        first, second = (env.reset(seed=3)[0] for _ in range(2))
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@needs_egl
def test_of_the_state_only_the_robot_s_own_is_left(episode):
    for state, obs in episode:
        assert np.array_equal(obs["policy"], state[[0, 1, 2, 3, 18, 19, 20, 21]])


@needs_egl
def test_pictures_are_the_right_way_up_and_show_what_moves(episode):
    first, last = (episode[index][1]["pixels"] for index in (0, -1))
    assert first.shape == (3, 84, 84) and first.dtype == np.uint8
    assert first[:, :8].std() < 0.5 * first[:, -16:].std()  # the bare wall is behind the table, and above it
    assert (first != last).any(axis=0).mean() > 0.05


@needs_egl
def test_where_few_points_are_seen_they_are_repeated():
    with closing(make("reach-v3", "env.num_points=9000", num_envs=1)) as env:
        points = env.get_observations()["point_cloud"][0]
    unique = points.unique(dim=0)
    assert points.shape == (9000, 3) and 500 < len(unique) < 9000
    assert torch.equal(points[: 9000 - len(points) // 2].unique(dim=0), unique)


@needs_egl
def test_a_camera_that_sees_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(metaworld_camera, "WORKSPACE", np.zeros((2, 3)))
    with pytest.raises(SimulatorError, match="the camera sees nothing in the workspace"):
        make("reach-v3", "env.num_points=16", num_envs=1)
