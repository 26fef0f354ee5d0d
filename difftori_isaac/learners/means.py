"""Means of numbers that stay on their device until they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch


class Means:
    """Means of named numbers since the last call of :meth:`pop`; what is not finite counts as zero."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[torch.Tensor, int]] = {}

    @torch.no_grad()
    def add(self, names: Sequence[str], values: torch.Tensor) -> None:
        """Count one value of each name, shape (len(names),)."""
        total, times = self._sums.get(key := tuple(names), (torch.zeros_like(values), 0))
        self._sums[key] = (total + values.nan_to_num(0.0, 0.0, 0.0), times + 1)

    def pop(self) -> dict[str, float]:
        """The mean of each name over the times that it was counted."""
        totals, times = Counter[str](), Counter[str]()
        for names, (values, count) in self._sums.items():
            totals.update(dict(zip(names, values.tolist(), strict=True)))
            times.update(dict.fromkeys(names, count))
        self._sums = {}
        return {name: totals[name] / count for name, count in times.items()}
