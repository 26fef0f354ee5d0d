"""Means of numbers that stay on their device until they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch


class Means:
    """Means of named numbers since the last call of :meth:`pop`; what is not finite does not count."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}

    @torch.no_grad()
    def add(self, names: Sequence[str], values: torch.Tensor) -> None:
        """Count one value of each name, shape (len(names),)."""
        finite = values.isfinite()
        added = torch.stack((values.where(finite, 0.0), finite.to(values.dtype)))
        self._sums[key] = self._sums[key] + added if (key := tuple(names)) in self._sums else added

    def pop(self) -> dict[str, float]:
        """The mean of each name over the times that it was counted, without the names that never were."""
        totals, times = Counter[str](), Counter[str]()
        for names, sums in self._sums.items():
            values, counts = sums.tolist()
            totals.update(dict(zip(names, values, strict=True)))
            times.update(dict(zip(names, counts, strict=True)))
        self._sums = {}
        return {name: totals[name] / count for name, count in times.items() if count}
