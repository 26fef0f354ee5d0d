"""Torch tensors in Warp kernels: shared memory, the current torch stream."""

from __future__ import annotations

from typing import Any

import torch
import warp as wp


def scalar_type(dtype: torch.dtype) -> Any:
    """Warp's type of a floating point precision; starts Warp.

    Raises:
        ValueError: If there are no kernels of that precision.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the tensors are of type {dtype}; allowed in Warp kernels: float32, float64")
    wp.init()
    return wp.dtype_from_torch(dtype)


def packed(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose strides are those of its shape, also along dimensions of size 1, where torch allows any."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def view(tensor: torch.Tensor, dtype: Any = None) -> wp.array:
    """A tensor as an array of vectors or matrices, which are its last dimensions; nothing is copied."""
    return wp.from_torch(tensor.detach(), dtype=dtype, requires_grad=False)


def scratch(like: torch.Tensor, num_envs: int, length: int, dtype: Any) -> torch.Tensor:
    """Uninitialised memory for ``length`` values of a vector or matrix type in each environment.

    One environment's values are neighbours on a CPU, one time's values on a GPU, where threads read them together.
    """
    if like.is_cuda:
        return like.new_empty(length, num_envs, *dtype._shape_).transpose(0, 1)
    return like.new_empty(num_envs, length, *dtype._shape_)


def launch(kernel: Any, like: torch.Tensor, *args: Any) -> None:
    """Run one thread for each row of ``like``, on its device and in its current torch stream."""
    wp.launch(kernel, dim=len(like), inputs=args, **_place(like))


def launch_tiled(kernel: Any, like: torch.Tensor, num_blocks: int, block_dim: int, *args: Any) -> None:
    """Run blocks of threads on the device of ``like`` and in its current torch stream; a CPU block is one thread."""
    wp.launch_tiled(kernel, dim=[num_blocks], inputs=args, block_dim=block_dim, **_place(like))


def _place(like: torch.Tensor) -> dict[str, Any]:
    stream = wp.stream_from_torch(like.device) if like.is_cuda else None
    return {"device": wp.device_from_torch(like.device), "stream": stream}
