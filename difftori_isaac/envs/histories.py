"""Observations of Isaac Lab's managers that have a history or a delay: what to do where no step records a frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

_HISTORIES, _DELAYS = "_group_obs_term_history_buffer", "_group_obs_term_delay_buffer"
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
        del manager.compute


def compute_with_first_frames(manager: Any, selected: torch.Tensor) -> dict[str, Any]:
    """The observations of all environments, where those that were reset begin their histories.

    What a delay has seen of them begins with the next step.

    Args:
        manager: The observation manager of the environments.
        selected: Which were reset since their last observation, bool of shape (num_envs,); no frame of the others is
            recorded.

    Returns:
        The observation groups.
    """
    if not _has_buffers(manager):
        return manager.compute()
    with _copied_buffers(manager) as copies:
        obs = manager.compute(update_history=True)
    for group, terms in getattr(manager, _HISTORIES).items():
        for name, history in terms.items():
            begun = copies[_HISTORIES][group][name]
            history.buffer[selected] = begun.buffer[selected]
            history._num_pushes[selected] = begun._num_pushes[selected]
    return obs


def _has_buffers(manager: Any) -> bool:
    return any(terms for name in (_HISTORIES, _DELAYS) for terms in getattr(manager, name, {}).values())


@contextmanager
def _copied_buffers(manager: Any) -> Iterator[dict[str, Any]]:
    """Puts copies, which it gives, in the place of a manager's buffers, which stay as they are."""
    kept = {name: getattr(manager, name) for name in (_HISTORIES, _DELAYS)}
    copies = deepcopy(kept)
    vars(manager).update(copies)
    try:
        yield copies
    finally:
        vars(manager).update(kept)
