"""Behaviour cloning: a network regresses the chunk."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from difftori_isaac.policies.chunks.head import ChunkHead
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.mlp import mlp


class RegressionHead(ChunkHead):
    """The feed-forward baseline, ``policy=mlp``."""

    def __init__(self, feature_dim: int, chunk_dim: int, config: ChunkModelConfig) -> None:
        """Build the network."""
        super().__init__(chunk_dim)
        self.net = mlp(feature_dim, config.hidden_dims, chunk_dim, config.activation)

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkHead`."""
        return self.net(features)

    def loss(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """Mean squared error."""
        return F.mse_loss(self.net(features), chunk)
