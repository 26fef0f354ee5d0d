"""What all imitation policies share: features of observations, units of actions, and the first action of a chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.encoders import GroupEncoders, ImageEncoder, random_shift

MOST_DEVIATIONS = 10.0
"""Flat observations and points further than so many standard deviations from the demonstrations' mean are taken to be
there."""


class Normalizer(nn.Module):
    """Takes off the mean of samples and divides by their standard deviation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, dim: int) -> None:
        """Begin with values as they are, shape (..., dim)."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, samples: torch.Tensor) -> None:
        """Take mean and deviation from samples, shape (..., dim); what does not vary keeps its unit."""
        samples = samples.flatten(0, -2)
        std = samples.std(dim=0, unbiased=False)
        self.mean.copy_(samples.mean(dim=0))
        self.std.copy_(torch.where(std > 1e-4, std, 1.0))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values, of the same shape."""
        return ((values - self.mean) / self.std).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)


class ChunkPolicy(nn.Module, ABC):
    """Observation groups to a chunk of ``horizon`` actions.

    Inside, flat observations and the coordinates of points have mean 0 and standard deviation 1 over the
    demonstrations, and actions go from −1 to 1.
    """

    action_mean: torch.Tensor
    action_scale: torch.Tensor

    def __init__(
        self, obs: TensorDict, groups: list[str], num_actions: int, horizon: int, config: ChunkModelConfig
    ) -> None:
        """Size the encoders for ``obs``, batch size (num_envs,).

        Raises:
            ValueError: If an observation group has another shape than encoders know.
        """
        super().__init__()
        self.num_actions, self.horizon, self.config = num_actions, horizon, config
        self.obs_like = {name: obs[name][:0].clone() for name in groups}
        """Observation groups of no environment, each of shape (0, ...) and the type of those that are seen."""
        self.encoders = GroupEncoders(obs, groups, config.encoders)
        for encoder in self.encoders.values():
            if isinstance(encoder, ImageEncoder):
                encoder.cnn.init_weights()  # Kaiming's; with torch's, features of all pictures are nearly the same
        flat_dim = sum(obs[name].shape[1] for name in self.encoders.flat)
        self.feature_dim, self.chunk_dim = flat_dim + self.encoders.out_dim, horizon * num_actions
        images = [name for name, encoder in self.encoders.items() if isinstance(encoder, ImageEncoder)]
        self.normalizers = nn.ModuleDict(
            {name: Normalizer(obs[name].shape[-1]) for name in groups if name not in images}
        )
        """Of flat groups and of the coordinates of points."""
        self.register_buffer("action_mean", torch.zeros(num_actions))
        self.register_buffer("action_scale", torch.ones(num_actions))
        self.output_std = torch.zeros(num_actions)
        """No noise is added to the actions, shape (num_actions,)."""

    @abstractmethod
    def chunk(self, features: torch.Tensor) -> torch.Tensor:
        """Chunks that are acted on, shape (batch, chunk_dim), of features, shape (batch, feature_dim)."""

    @abstractmethod
    def losses(self, features: torch.Tensor, chunk: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars to be minimised, of features and demonstrated chunks, shape (batch, chunk_dim)."""

    def solver_statistics(self) -> dict[str, float]:
        """What metrics.csv shall show of the solver since the last call."""
        return {}

    @torch.no_grad()
    def set_units(self, obs: Mapping[str, torch.Tensor], actions: torch.Tensor) -> None:
        """Take the units of all demonstrations: observation groups (num_samples, ...), actions of each sample."""
        for name, normalizer in self.normalizers.items():
            assert isinstance(normalizer, Normalizer)
            normalizer.fit(obs[name])
        low, high = actions.amin(dim=0), actions.amax(dim=0)
        self.action_mean.copy_((low + high) / 2)
        self.action_scale.copy_(torch.where(high - low > 1e-6, (high - low) / 2, 1.0))

    def augmented(self, obs: TensorDict) -> TensorDict:
        """Observations to learn from, batch size (batch,): images are shifted at random."""
        images = [name for name in self.encoders if name not in self.normalizers]
        shifted = {name: random_shift(obs[name][:, None], self.config.pixel_shift)[:, 0] for name in images}
        return obs.clone(recurse=False).update(shifted)

    def features(self, obs: TensorDict) -> torch.Tensor:
        """Normalised flat groups and the features of all others, shape (batch, feature_dim)."""
        obs = obs.clone(recurse=False).update(
            {name: normalize(obs[name]) for name, normalize in self.normalizers.items()}
        )
        return torch.cat([*(obs[name] for name in self.encoders.flat), *self.encoders(obs)], dim=-1)

    def normalized(self, actions: torch.Tensor) -> torch.Tensor:
        """Flat chunks within −1 to 1, shape (batch, chunk_dim), of actions, shape (batch, horizon, num_actions)."""
        return ((actions - self.action_mean) / self.action_scale).flatten(1)

    def planned_actions(self, obs: TensorDict) -> torch.Tensor:
        """The whole chunks behind :meth:`forward`, shape (num_envs, horizon, num_actions)."""
        chunk = self.chunk(self.features(obs.to(self.action_mean.device)))
        return self.action_mean + self.action_scale * chunk.view(-1, self.horizon, self.num_actions)

    def forward(self, obs: TensorDict) -> torch.Tensor:
        """First actions of the chunks, as the environment takes them, shape (num_envs, num_actions)."""
        return self.planned_actions(obs)[:, 0]
