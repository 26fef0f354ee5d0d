"""Behaviour cloning: a network regresses the chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from difftori_isaac.policies.chunks.policy import ChunkPolicy
from difftori_isaac.world_models.mlp import mlp


class RegressedChunks(ChunkPolicy):
    """The feed-forward baseline, ``policy=mlp``."""

    def __init__(self, *args: Any) -> None:
        """Build the network; see :class:`ChunkPolicy`."""
        super().__init__(*args)
        config = self.config
        self.net = mlp(self.feature_dim, config.hidden_dims, self.chunk_dim, config.activation)

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkPolicy`."""
        return self.net(features)

    def losses(self, features: torch.Tensor, chunk: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean squared error."""
        return {"imitation": F.mse_loss(self.net(features), chunk)}
