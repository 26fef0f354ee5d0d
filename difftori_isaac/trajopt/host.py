"""What the host may look at without waiting for a device."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor


def readable(tensor: torch.Tensor) -> bool:
    """Whether its values are there for the asking: a GPU would have to be waited for, a trace has none."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)


def capturable(tensor: torch.Tensor) -> bool:
    """Whether work on it can be captured in a CUDA graph here and now."""
    return tensor.is_cuda and not isinstance(tensor, FakeTensor) and not torch.cuda.is_current_stream_capturing()
