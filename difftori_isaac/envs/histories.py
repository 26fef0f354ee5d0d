"""Observations of Isaac Lab's managers that have a history or a delay: what to do where no step records a frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

_BUFFERS = ("_group_obs_term_history_buffer", "_group_obs_term_delay_buffer")
"""Attributes of an observation manager: buffers by observation group and term."""


@contextmanager
def newest_frames(manager: Any) -> Iterator[None]:
    """Lets a manager that is asked to record no frame return, with histories, what it would return if it did.

    Isaac Lab asks for the last observations of episodes so; they would be those before the last step.

    Args:
        manager: The observation manager of an environment, or None.
    """
    if not _has_buffers(manager):
        yield
        return
    compute = manager.compute

    def look(update_history: bool = False) -> dict[str, Any]:
        if update_history:
            return compute(update_history=True)
        with _copied_buffers(manager):
            return compute(update_history=True)

    manager.compute = look
    try:
        yield
    finally:
        manager.compute = compute


def _has_buffers(manager: Any) -> bool:
    return any(terms for name in _BUFFERS for terms in getattr(manager, name, {}).values())


@contextmanager
def _copied_buffers(manager: Any) -> Iterator[None]:
    """Puts copies in the place of a manager's buffers, which stay as they are."""
    kept = {name: getattr(manager, name) for name in _BUFFERS}
    vars(manager).update(deepcopy(kept))
    try:
        yield
    finally:
        vars(manager).update(kept)
