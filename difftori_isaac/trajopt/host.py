"""What the host may look at without waiting for a device."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor


def readable(tensor: torch.Tensor) -> bool:
    """Whether its values are there for the asking: a GPU would have to be waited for, a trace has none."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)
