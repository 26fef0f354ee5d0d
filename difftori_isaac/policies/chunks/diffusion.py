"""Diffusion policy: a network learns what noise is in a noisy chunk, and an action is denoised from noise alone."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from difftori_isaac.policies.chunks.config import DiffusionConfig
from difftori_isaac.policies.chunks.head import ChunkHead
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.mlp import mlp


class DiffusionHead(ChunkHead):
    """``policy=diffusion`` (Chi et al., arXiv 2303.04137), with an MLP as the network.

    Noise levels follow the squared cosine (Nichol and Dhariwal, arXiv 2102.09672, equation 17), denoising is DDIM's
    without noise (Song et al., arXiv 2010.02502, equation 12); what is drawn comes from torch's global generator.
    """

    embedding: torch.Tensor
    """Sines and cosines of each noise level, shape (training_steps, embedding_dim)."""
    signal: torch.Tensor
    """Variance of the signal ᾱ at each noise level, from nearly 1 to nearly 0, shape (training_steps,)."""

    def __init__(
        self, feature_dim: int, chunk_dim: int, config: ChunkModelConfig, *, settings: DiffusionConfig
    ) -> None:
        """Build the network."""
        super().__init__(chunk_dim)
        self.settings = settings
        in_dim = feature_dim + chunk_dim + settings.embedding_dim
        self.net = mlp(in_dim, config.hidden_dims, chunk_dim, config.activation)
        times = (torch.arange(settings.training_steps) + 1.0) / settings.training_steps
        angles = (torch.cat((torch.zeros(1), times)) + 0.008) / 1.008 * math.pi / 2.0
        self.register_buffer("signal", (angles[1:].cos() / angles[0].cos()).square().clamp(min=1e-4))
        frequencies = torch.exp(torch.linspace(0.0, -math.log(1e4), settings.embedding_dim // 2))
        phases = torch.arange(settings.training_steps)[:, None] * frequencies
        self.register_buffer("embedding", torch.cat((phases.sin(), phases.cos()), dim=1))

    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """See :class:`ChunkHead`."""
        chunk = torch.randn(len(features), self.chunk_dim, device=features.device)
        levels = torch.linspace(self.settings.training_steps - 1, 0, self.settings.steps).round().long().tolist()
        for level, following in zip(levels, [*levels[1:], None], strict=True):
            signal = self.signal[level]
            noise = self._noise(features, chunk, torch.full((len(features),), level, device=features.device))
            clean = ((chunk - (1.0 - signal).sqrt() * noise) / signal.sqrt()).clamp(-1.0, 1.0)
            if following is None:
                return clean
            noise = (chunk - signal.sqrt() * clean) / (1.0 - signal).sqrt()
            signal = self.signal[following]
            chunk = signal.sqrt() * clean + (1.0 - signal).sqrt() * noise
        raise AssertionError("there is at least one step")

    def loss(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the noise at random levels."""
        levels = torch.randint(len(self.signal), (len(chunk),), device=chunk.device)
        signal, noise = self.signal[levels, None], torch.randn_like(chunk)
        noisy = signal.sqrt() * chunk + (1.0 - signal).sqrt() * noise
        return F.mse_loss(self._noise(features, noisy, levels), noise)

    def _noise(self, features: torch.Tensor, noisy: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat((features, noisy, self.embedding[levels]), dim=1))
