"""Steps of bounded iterations are minima over the box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.trajopt import box_qp
from difftori_isaac.trajopt.box_qp import box_step


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    scale=st.floats(0.01, 100.0),
    one_sided=st.booleans(),
    recording=st.booleans(),
)
def test_step_satisfies_the_optimality_conditions(size, seed, scale, one_sided, recording):
    generator = torch.Generator().manual_seed(seed)
    num_envs = 64
    root = torch.randn(num_envs, size + 2, size, generator=generator, dtype=torch.float64)
    hessian = root.mT @ root + 0.1 * torch.eye(size, dtype=torch.float64)
    gradient = scale * torch.randn(num_envs, size, generator=generator, dtype=torch.float64)
    low = -torch.rand(num_envs, size, generator=generator, dtype=torch.float64).round(decimals=1)
    high = torch.rand(num_envs, size, generator=generator, dtype=torch.float64).round(decimals=1)
    if one_sided:
        high = torch.full_like(high, torch.inf)
    with torch.set_grad_enabled(recording):
        step = box_step(hessian, gradient, low, high)
    assert (step >= low).all() and (step <= high).all()
    slope = gradient + (hessian @ step[..., None])[..., 0]
    violation = torch.where(step > low, slope.clamp(min=0), 0) - torch.where(step < high, slope.clamp(max=0), 0)
    optimal = violation.abs().amax(dim=1) < 1e-6 * max(scale, 1.0)
    assert optimal.float().mean() >= 0.9  # block pivoting is finite here, eight pivots are nearly always enough
    descended = (gradient * step).sum(dim=1) + 0.5 * torch.einsum("ni,nij,nj->n", step, hessian, step)
    assert (descended[optimal] <= 1e-12).all()


@pytest.mark.parametrize("recording", [True, False])
def test_without_active_bounds_it_is_the_newton_step(recording):
    torch.manual_seed(0)
    root = torch.randn(8, 5, 5, dtype=torch.float64)
    hessian = root.mT @ root + torch.eye(5, dtype=torch.float64)
    gradient = torch.randn(8, 5, dtype=torch.float64)
    bound = torch.full_like(gradient, 1e6)
    expected = -torch.linalg.solve(hessian, gradient)
    with torch.set_grad_enabled(recording):
        step = box_step(hessian, gradient, -bound, bound)
    torch.testing.assert_close(step, expected)


def test_unwatched_pivots_are_enough_where_few_bounds_are_met(monkeypatch):
    """On a GPU nobody sees when nothing changes any more; a prior block as large as the rest couples little."""
    torch.manual_seed(0)
    root = torch.randn(256, 6, 15, dtype=torch.float64) / 15**0.5
    hessian = root.mT @ root + torch.eye(15, dtype=torch.float64)
    gradient = torch.randn(256, 15, dtype=torch.float64)
    bound = torch.ones_like(gradient)
    watched = box_step(hessian, gradient, -bound, bound)
    assert (watched.abs() == 1.0).any(dim=1).float().mean() > 0.5
    monkeypatch.setattr(box_qp, "readable", lambda tensor: False)
    torch.testing.assert_close(box_step(hessian, gradient, -bound, bound), watched)
