"""Batched convex quadratic programs over a box: the step of a bounded Levenberg-Marquardt iteration."""

from __future__ import annotations

import torch

from difftori_isaac.trajopt import cholesky
from difftori_isaac.trajopt.gradients import free_block
from difftori_isaac.trajopt.host import readable

MAX_PIVOTS = 8
"""Pivots that are tried where the host sees when nothing changes any more."""
_BLIND_PIVOTS = 3
"""Pivots where it does not; of 5,760 steps of three trained policies one needed a fourth."""


def box_step(hessian: torch.Tensor, gradient: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Minimise ``½ δᵀHδ + gᵀδ`` over ``low <= δ <= high`` for every environment, shape (num_envs, n).

    Block principal pivoting (Portugal, Júdice, Vicente, 1994): components beyond a bound are moved onto it, components
    whose multiplier has the wrong sign are released, all at once, a fixed number of times or, where the host can see
    it, until nothing changes. The result is always within the bounds; in the rare environment that needs more pivots it
    is not the minimum, and accept/reject decides.

    Args:
        hessian: Positive definite, shape (num_envs, n, n).
        gradient: Shape (num_envs, n).
        low: At most 0, shape (num_envs, n).
        high: At least 0, shape (num_envs, n).
    """
    with torch.no_grad():
        at_low, at_high, step = _pivot(hessian, gradient, low, high)
    if step is None or torch.is_grad_enabled():
        step = _step_with_held(hessian, gradient, low, high, at_low, at_high)
    return torch.minimum(torch.maximum(step, low), high)


def _pivot(
    hessian: torch.Tensor, gradient: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Components to hold at each bound, and the step with these held if it is known."""
    at_low, at_high = (low == 0) & (gradient > 0), (high == 0) & (gradient < 0)
    for _ in range(MAX_PIVOTS if readable(gradient) else _BLIND_PIVOTS):
        step = _step_with_held(hessian, gradient, low, high, at_low, at_high)
        slope = gradient + (hessian @ step[..., None])[..., 0]
        free, held = ~(at_low | at_high), (at_low, at_high)
        at_low = torch.where(free, step < low, at_low & (slope > 0))
        at_high = torch.where(free, step > high, at_high & (slope < 0))
        if readable(step) and torch.equal(at_low, held[0]) and torch.equal(at_high, held[1]):
            return at_low, at_high, step
    return at_low, at_high, None


def _step_with_held(
    hessian: torch.Tensor,
    gradient: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    at_low: torch.Tensor,
    at_high: torch.Tensor,
) -> torch.Tensor:
    """The unbounded minimum with some components held at their bounds."""
    free = ~(at_low | at_high)
    held = torch.where(at_low, low, torch.where(at_high, high, torch.zeros_like(gradient)))
    slope = (gradient + (hessian @ held[..., None])[..., 0]) * free
    return held - cholesky.solution(free_block(hessian, free), slope)
