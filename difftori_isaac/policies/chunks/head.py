"""What maps features of observations to chunks: of a whole policy, or of the prior plan of another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from difftori_isaac.policies.chunks.policy import ChunkPolicy
from difftori_isaac.world_models.chunk_config import ChunkModelConfig


class ChunkHead(nn.Module, ABC):
    """Features, shape (batch, feature_dim), to flat chunks of actions within −1 to 1, shape (batch, chunk_dim)."""

    def __init__(self, chunk_dim: int) -> None:
        """Take the width of a chunk; subclasses build their network."""
        super().__init__()
        self.chunk_dim = chunk_dim

    @abstractmethod
    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """Chunks that are acted on."""

    @abstractmethod
    def loss(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """A scalar to be minimised, of features and demonstrated chunks."""


class HeadPolicy(ChunkPolicy):
    """A policy whose chunks are those of a head."""

    def __init__(self, *args: Any, make_head: Callable[[int, int, ChunkModelConfig], ChunkHead]) -> None:
        """Build the head for the features; see :class:`ChunkPolicy`."""
        super().__init__(*args)
        self.head = make_head(self.feature_dim, self.chunk_dim, self.config)

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkPolicy`."""
        return self.head.chunk(features)

    def losses(self, features: torch.Tensor, chunk: torch.Tensor) -> dict[str, torch.Tensor]:
        """The head's loss."""
        return {"imitation": self.head.loss(features, chunk)}
