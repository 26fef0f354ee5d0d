"""What all imitation policies share: features of observations, units of actions, and the first action of a chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.encoders import GroupEncoders, ImageEncoder, PointNet, random_shift

MOST_DEVIATIONS = 10.0
"""Flat observations and points further than so many standard deviations from the demonstrations' mean are taken to be
there."""


class ChunkPolicy(nn.Module, ABC):
    """Observation groups to a chunk of ``horizon`` actions.

    Inside, flat observations and the coordinates of points have mean 0 and standard deviation 1 over the
    demonstrations, and actions go from −1 to 1.
    """

    obs_mean: torch.Tensor
    obs_std: torch.Tensor
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
        self.obs_shapes = {name: tuple(obs[name].shape[1:]) for name in groups}
        """Shape of each observation group, without that of the batch."""
        self.encoders = GroupEncoders(obs, groups, config.encoders)
        for encoder in self.encoders.values():
            if isinstance(encoder, ImageEncoder):
                encoder.cnn.init_weights()  # Kaiming's; with torch's, features of all pictures are nearly the same
        flat_dim = sum(obs[name].shape[1] for name in self.encoders.flat)
        self.feature_dim, self.chunk_dim = flat_dim + self.encoders.out_dim, horizon * num_actions
        self.register_buffer("obs_mean", torch.zeros(flat_dim))
        self.register_buffer("obs_std", torch.ones(flat_dim))
        for name in self._clouds():
            point_dim = obs[name].shape[-1]
            self.register_buffer(f"cloud_{name}_mean", torch.zeros(point_dim))
            self.register_buffer(f"cloud_{name}_std", torch.ones(point_dim))
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
        if self.encoders.flat:
            flat = torch.cat([obs[name] for name in self.encoders.flat], dim=-1)
            _take_units(flat, self.obs_mean, self.obs_std)
        for name in self._clouds():
            _take_units(obs[name].flatten(0, 1), *self._cloud_units(name))
        low, high = actions.amin(dim=0), actions.amax(dim=0)
        self.action_mean.copy_((low + high) / 2)
        self.action_scale.copy_(torch.where(high - low > 1e-6, (high - low) / 2, 1.0))

    def augmented(self, obs: TensorDict) -> TensorDict:
        """Observations to learn from, batch size (batch,): images are shifted at random."""
        images = [name for name, encoder in self.encoders.items() if isinstance(encoder, ImageEncoder)]
        shifted = {name: random_shift(obs[name][:, None], self.config.pixel_shift)[:, 0] for name in images}
        return obs.clone(recurse=False).update(shifted)

    def features(self, obs: TensorDict) -> torch.Tensor:
        """Normalised flat groups and the features of all others, shape (batch, feature_dim)."""
        clouds = {}
        for name in self._clouds():
            mean, std = self._cloud_units(name)
            clouds[name] = ((obs[name] - mean) / std).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        encoded = self.encoders(obs.clone(recurse=False).update(clouds))
        if not self.encoders.flat:
            return torch.cat(encoded, dim=-1)
        flat = torch.cat([obs[name] for name in self.encoders.flat], dim=-1)
        flat = ((flat - self.obs_mean) / self.obs_std).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        return torch.cat([flat, *encoded], dim=-1)

    def normalized(self, actions: torch.Tensor) -> torch.Tensor:
        """Flat chunks within −1 to 1, shape (batch, chunk_dim), of actions, shape (batch, horizon, num_actions)."""
        return ((actions - self.action_mean) / self.action_scale).flatten(1)

    def planned_actions(self, obs: TensorDict) -> torch.Tensor:
        """The whole chunks behind :meth:`forward`, shape (num_envs, horizon, num_actions)."""
        chunk = self.chunk(self.features(obs.to(self.obs_mean.device)))
        return self.action_mean + self.action_scale * chunk.view(-1, self.horizon, self.num_actions)

    def forward(self, obs: TensorDict) -> torch.Tensor:
        """First actions of the chunks, as the environment takes them, shape (num_envs, num_actions)."""
        return self.planned_actions(obs)[:, 0]

    def _clouds(self) -> list[str]:
        return [name for name, encoder in self.encoders.items() if isinstance(encoder, PointNet)]

    def _cloud_units(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get_buffer(f"cloud_{name}_mean"), self.get_buffer(f"cloud_{name}_std")


def _take_units(samples: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Write mean and standard deviation of samples, shape (num_samples, dim); what does not vary keeps its unit."""
    deviation = samples.std(dim=0, unbiased=False)
    mean.copy_(samples.mean(dim=0))
    std.copy_(torch.where(deviation > 1e-4, deviation, 1.0))
