"""rsl_rl's MLP model with images and point clouds among its observations."""

from __future__ import annotations

from typing import Any

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import nn

from difftori_isaac.world_models.encoders import GroupEncoders


class FeatureModel(MLPModel):
    """rsl_rl's MLP on flat observation groups and the features of all others.

    rsl_rl's ``CNNModel`` does the same for images; this one takes point clouds too, and uint8 images.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        encoders: GroupEncoders,
        hidden_dims: tuple[int, ...] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Build the model; flat groups are normalised on request.

        Args:
            obs: Observations of the environment.
            obs_groups: Observation groups of each observation set.
            obs_set: The set this model observes.
            output_dim: Width of the output.
            encoders: Encoders of that set's groups.
            hidden_dims: See rsl_rl.
            activation: See rsl_rl.
            obs_normalization: See rsl_rl.
            distribution_cfg: See rsl_rl.
        """
        self._flat_groups, self._feature_dim = encoders.flat, encoders.out_dim
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        self.encoders = encoders

    def get_latent(self, obs: TensorDict, masks: torch.Tensor | None = None, hidden_state: Any = None) -> torch.Tensor:
        """Normalised flat groups and the features of all others, shape (*batch_size, obs_dim + features)."""
        if not len(self.encoders):
            return super().get_latent(obs, masks, hidden_state)
        flat = [super().get_latent(obs, masks, hidden_state)] if self.obs_groups else []
        return torch.cat([*flat, *self.encoders(obs)], dim=-1)

    def update_normalization(self, obs: TensorDict) -> None:
        """See rsl_rl."""
        if self.obs_groups:
            super().update_normalization(obs)

    def as_jit(self) -> nn.Module:
        """See rsl_rl.

        Raises:
            ValueError: If the model observes images or point clouds.
        """
        self.require_flat()
        return super().as_jit()

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """See rsl_rl.

        Raises:
            ValueError: If the model observes images or point clouds.
        """
        self.require_flat()
        return super().as_onnx(verbose)

    def require_flat(self) -> None:
        """Raise a ValueError if the model observes images or point clouds, which exported policies cannot."""
        if len(self.encoders):
            raise ValueError(
                f"the policy observes {', '.join(self.encoders)}, which cannot be exported; "
                "allowed: flat observation groups"
            )

    def _get_obs_dim(self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str) -> tuple[list[str], int]:
        return self._flat_groups, sum(obs[name].shape[1] for name in self._flat_groups)

    def _get_latent_dim(self) -> int:
        return self.obs_dim + self._feature_dim
