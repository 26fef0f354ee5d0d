from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from difftori_isaac.envs.camera import PinholeCamera

INTRINSICS = torch.tensor([[500.0, 0.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
LOOKING_ALONG_X = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Right is −y, down is −z, forward is x."""


def test_known_points():
    camera = PinholeCamera(INTRINSICS, torch.tensor([1.0, 2.0, 3.0]), LOOKING_ALONG_X)
    ahead, left_and_up, behind = camera.project(torch.tensor([[6.0, 2.0, 3.0], [3.0, 3.0, 4.0], [0.0, 2.0, 3.0]]))
    assert ahead.tolist() == [320.0, 240.0]
    assert left_and_up.tolist() == [320.0 - 500.0 / 2, 240.0 - 400.0 / 2]
    assert behind.isnan().all()


@given(angle=st.floats(-math.pi, math.pi), depth=st.floats(0.1, 50.0), right=st.floats(-3, 3), down=st.floats(-3, 3))
def test_a_point_placed_in_the_cameras_frame_is_seen_there(angle, depth, right, down):
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ LOOKING_ALONG_X
    camera = PinholeCamera(INTRINSICS, torch.tensor([0.5, -1.0, 2.0]), rotation)
    point = camera.position + rotation @ (depth * torch.tensor([right, down, 1.0]))
    expected = torch.tensor([320.0 + 500.0 * right, 240.0 + 400.0 * down])
    torch.testing.assert_close(camera.project(point[None])[0], expected, rtol=1e-3, atol=0.05)
