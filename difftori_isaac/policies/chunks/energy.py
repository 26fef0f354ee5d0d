"""Implicit behaviour cloning: demonstrated chunks get a low energy, and an action is searched where it is lowest."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from difftori_isaac.policies.chunks.config import EnergyConfig
from difftori_isaac.policies.chunks.head import ChunkHead
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.mlp import mlp

SEARCHED_AT_ONCE = 64
"""Chunks that are searched for together: each takes the memory of ``num_samples`` times its features."""


class EnergyHead(ChunkHead):
    """``policy=ibc``, the energy-based baseline (Florence et al., arXiv 2109.00137).

    Energies are trained to tell demonstrations from uniformly drawn chunks (InfoNCE), and searched by its optimizer
    without derivatives; what is drawn comes from torch's global generator.
    """

    def __init__(self, feature_dim: int, chunk_dim: int, config: ChunkModelConfig, *, settings: EnergyConfig) -> None:
        """Build the network."""
        super().__init__(chunk_dim)
        self.settings = settings
        self.net = mlp(feature_dim + chunk_dim, config.hidden_dims, 1, config.activation)

    def energies(self, features: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Shape (batch, num_chunks), of features, (batch, feature_dim), and chunks, (batch, num_chunks, chunk_dim)."""
        features = features[:, None].expand(-1, chunks.shape[1], -1)
        return self.net(torch.cat((features, chunks), dim=2))[..., 0]

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkHead`."""
        return torch.cat([self._search(part) for part in features.split(SEARCHED_AT_ONCE)])

    def loss(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """Cross entropy of telling the demonstrated chunk from random ones."""
        chunks = torch.cat((chunk[:, None], self._uniform(features, self.settings.num_negatives)), dim=1)
        first = torch.zeros(len(chunk), dtype=torch.long, device=chunk.device)
        return F.cross_entropy(-self.energies(features, chunks), first)

    def _search(self, features: torch.Tensor) -> torch.Tensor:
        settings, std = self.settings, self.settings.noise_std
        chunks = self._uniform(features, settings.num_samples)
        for _ in range(settings.iterations - 1):
            drawn = (-self.energies(features, chunks)).softmax(dim=1).multinomial(settings.num_samples, True)
            chunks = chunks.gather(1, drawn[..., None].expand_as(chunks))
            chunks = (chunks + std * torch.randn_like(chunks)).clamp(-1.0, 1.0)
            std = std * settings.noise_shrink
        best = self.energies(features, chunks).argmin(dim=1)
        return chunks[torch.arange(len(chunks), device=chunks.device), best]

    def _uniform(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return 2.0 * torch.rand(len(features), count, self.chunk_dim, device=features.device) - 1.0
