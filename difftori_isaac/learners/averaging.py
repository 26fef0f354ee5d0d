"""What learners in several processes share, over torch.distributed; a learner on its own keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rsl_rl.utils import reduce_gradients_in_buckets
from torch import distributed, nn

BUCKET_MB = 25.0
"""Gradients are packed into buffers of at most this size [MB], as in rsl_rl."""


def process_info() -> dict[str, int] | None:
    """This process among all, as rsl_rl's ``multi_gpu_cfg``; None if torch.distributed is not in use."""
    if not distributed.is_initialized():
        return None
    return {"global_rank": distributed.get_rank(), "world_size": distributed.get_world_size()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes; those of parameters without one stay None."""
    if distributed.is_initialized():
        reduce_gradients_in_buckets(parameters, distributed.get_world_size(), BUCKET_MB)


def join(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """The tensors of all processes, each of the same shape, one after the other along ``dim``."""
    if not distributed.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor)
    return torch.cat(parts, dim=dim)
