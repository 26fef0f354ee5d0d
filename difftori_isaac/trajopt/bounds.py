"""Bounds of an action, one for each of its components."""

from __future__ import annotations

from functools import lru_cache
from math import inf, isinf
from numbers import Real
from typing import Annotated

import torch
from pydantic import AllowInfNan

_Number = Annotated[float, AllowInfNan(True)]
Bound = tuple[_Number | None, ...] | _Number | None
"""One bound per action component, or one for all of them; ``None`` and infinity are unbounded."""


def entries(bound: Bound, unbounded: float) -> tuple[float, ...]:
    """The bound of every component, or one that holds for all; ``None`` is replaced by ``unbounded``."""
    return tuple(unbounded if entry is None else entry for entry in (bound if isinstance(bound, tuple) else (bound,)))


def check(low: Bound, high: Bound) -> None:
    """See that the lower bound is below the upper one.

    Raises:
        ValueError: If it is not, or an entry is not a bound.
    """
    lows, highs = entries(low, -inf), entries(high, inf)
    for name, bound, values, beyond in (("action_low", low, lows, inf), ("action_high", high, highs, -inf)):
        if not all(isinstance(value, Real) and value == value != beyond for value in values):
            raise ValueError(
                f"trajopt.{name} is {bound}; allowed: null, a number, or a list with one of these per action component"
            )
    size = max(len(lows), len(highs))
    lows, highs = (values * size if len(values) == 1 else values for values in (lows, highs))
    if len(lows) != len(highs) or not all(a < b for a, b in zip(lows, highs, strict=True)):
        raise ValueError(
            f"trajopt.action_low is {low} and trajopt.action_high is {high}; allowed: action_low below action_high, "
            "component by component"
        )


@lru_cache(maxsize=64)
def bound_tensor(
    name: str, bound: Bound, unbounded: float, action_dim: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Bounds of all components, shape (action_dim,); ``None`` if no component is bounded.

    Raises:
        ValueError: If there are not as many entries as components.
    """
    values = entries(bound, unbounded)
    if len(values) not in (1, action_dim) or (isinstance(bound, tuple) and len(values) != action_dim):
        raise ValueError(
            f"trajopt.{name} has {len(values)} entries, but an action has {action_dim} components; "
            f"allowed: null, one number, or {action_dim} entries"
        )
    if all(isinf(value) for value in values):
        return None
    return torch.tensor(values, dtype=dtype, device=device).expand(action_dim)
