"""Batched convex quadratic programs over a box: the step of a bounded Levenberg-Marquardt iteration."""

from __future__ import annotations

from typing import NamedTuple

import torch

from difftori_isaac.trajopt import cholesky
from difftori_isaac.trajopt.gradients import free_block
from difftori_isaac.trajopt.host import readable

MAX_PIVOTS = 8
"""Pivots that are tried where the host sees when nothing changes any more."""
_BLIND_PIVOTS = 3
"""Pivots where it does not; of 5,760 steps of three trained policies one needed a fourth."""


class _BoxQP(NamedTuple):
    hessian: torch.Tensor
    gradient: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def rows(self, rows: torch.Tensor) -> _BoxQP:
        """Those of some environments."""
        return _BoxQP(*(tensor[rows] for tensor in self))


class _Held(NamedTuple):
    at_low: torch.Tensor
    """Components held at their lower bound, bool of shape (num_envs, n)."""
    at_high: torch.Tensor
    """Those held at their upper bound."""


def box_step(hessian: torch.Tensor, gradient: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Minimise ``½ δᵀHδ + gᵀδ`` over ``low <= δ <= high`` for every environment, shape (num_envs, n).

    Block principal pivoting (Portugal, Júdice, Vicente, 1994): components beyond a bound are moved onto it, components
    whose multiplier has the wrong sign are released, all at once, a fixed number of times or, where the host can see
    it, in the environments in which something still changes. The result is always within the bounds; in the rare
    environment that needs more pivots it is not the minimum, and accept/reject decides.

    Args:
        hessian: Positive definite, shape (num_envs, n, n).
        gradient: Shape (num_envs, n).
        low: At most 0, shape (num_envs, n).
        high: At least 0, shape (num_envs, n).
    """
    qp, step = _BoxQP(hessian, gradient, low, high), None
    with torch.no_grad():
        held = _Held((low == 0) & (gradient > 0), (high == 0) & (gradient < 0))
        if readable(gradient):
            held, step = _pivoted(qp, held, MAX_PIVOTS)
        else:
            for _ in range(_BLIND_PIVOTS):
                held = _revised(qp, held, _step(qp, held))
    if step is None or torch.is_grad_enabled():
        step = _step(qp, held)
    return torch.minimum(torch.maximum(step, low), high)


def _pivoted(qp: _BoxQP, held: _Held, num_pivots: int) -> tuple[_Held, torch.Tensor]:
    """The components to hold at last, and the step with these held; where the host can see what changes."""
    step = _step(qp, held)
    if num_pivots == 0:
        return held, step
    revised = _revised(qp, held, step)
    changed = (revised.at_low ^ held.at_low) | (revised.at_high ^ held.at_high)
    rows = changed.any(dim=1).nonzero()[:, 0]
    if len(rows) > 0:
        part_held, part_step = _pivoted(qp.rows(rows), _Held(*(mask[rows] for mask in revised)), num_pivots - 1)
        held = _Held(*(mask.index_copy(0, rows, part) for mask, part in zip(held, part_held, strict=True)))
        step = step.index_copy(0, rows, part_step)
    return held, step


def _revised(qp: _BoxQP, held: _Held, step: torch.Tensor) -> _Held:
    """The components to hold after ``step``, which some were held in; ONNX has no choice between booleans."""
    slope = qp.gradient + (qp.hessian @ step[..., None])[..., 0]
    free = ~(held.at_low | held.at_high)
    return _Held(
        at_low=(free & (step < qp.low)) | (held.at_low & (slope > 0)),
        at_high=(free & (step > qp.high)) | (held.at_high & (slope < 0)),
    )


def _step(qp: _BoxQP, held: _Held) -> torch.Tensor:
    """The unbounded minimum with some components held at their bounds."""
    hessian, gradient, low, high = qp
    free = ~(held.at_low | held.at_high)
    there = torch.where(held.at_low, low, torch.where(held.at_high, high, torch.zeros_like(gradient)))
    slope = (gradient + (hessian @ there[..., None])[..., 0]) * free
    return there - cholesky.solution(free_block(hessian, free), slope)
