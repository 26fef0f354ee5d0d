from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from difftori_isaac.envs.registry import resolve_task
from difftori_isaac.run.config import PlayConfig
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.overlay import GOAL, draw_plan, find_plan_path


def test_path_and_goal_are_drawn_where_they_are():
    frame = np.full((60, 80, 3), 100, dtype=np.uint8)
    drawn = draw_plan(frame, np.array([[10.0, 20.0], [40.0, 20.0]]), np.array([60.0, 40.0]))
    assert drawn.shape == frame.shape and (frame == 100).all()
    rows, columns = np.nonzero((drawn != frame).any(axis=2))
    assert (rows.min(), columns.min()) == (15, 5) and (rows.max(), columns.max()) == (51, 71)
    assert drawn[20, 10].tolist() == [255, 214, 10] and drawn[20, 40].tolist() == [255, 61, 113]
    assert drawn[40, 60].tolist() == [100, 100, 100]  # inside the ring
    assert abs(drawn[40, 68].astype(int) - GOAL[:3]).max() < 60


def test_what_is_behind_the_camera_is_left_out():
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    nan = np.array([np.nan, np.nan])
    assert (draw_plan(frame, np.array([nan, nan]), nan) == frame).all()
    one = draw_plan(frame, np.array([nan, [20.0, 20.0], nan]))
    assert one[20, 20].any() and not one[:, :10].any() and not one[:, 30:].any()


def test_a_plan_path_that_is_not_there_is_bad_input(monkeypatch: pytest.MonkeyPatch):
    kwargs = gymnasium.spec(resolve_task("Reach").id).kwargs
    monkeypatch.setitem(kwargs, "difftori_plan_path_entry_point", "nowhere:path")
    with pytest.raises(ConfigError, match=r"plan_path_entry_point of Reach is nowhere:path, which cannot be loaded"):
        find_plan_path(PlayConfig(task="Reach", video=True))
