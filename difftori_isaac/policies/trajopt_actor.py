"""The trajectory optimizer as an rsl_rl actor."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.policies.export import OnnxPolicy, PlannedAction, script, trace
from difftori_isaac.policies.feature_model import FeatureModel
from difftori_isaac.policies.planner import TrajOptPlanner
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.encoder_config import EncoderConfig
from difftori_isaac.world_models.encoders import GroupEncoders


class TrajOptActor(FeatureModel):
    """rsl_rl's Gaussian actor with a planner in place of the network: ``N(first planned action, diag σ²)``.

    Use it in any rsl_rl configuration by its path, ``class_name="difftori_isaac.policies.trajopt_actor:TrajOptActor"``.
    """

    mlp: TrajOptPlanner
    """Observations and features to first planned action."""

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        *,
        trajopt: TrajOptConfig | dict[str, Any] | None = None,
        world_model: WorldModelConfig | dict[str, Any] | None = None,
        encoders: EncoderConfig | dict[str, Any] | None = None,
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Build the actor.

        Args:
            obs: Observations of the environment, groups that are flat, point clouds or images, see
                :class:`~difftori_isaac.world_models.encoders.GroupEncoders`.
            obs_groups: Observation groups of each observation set.
            obs_set: The set this actor observes.
            output_dim: Number of actions.
            trajopt: Settings of the planner, or a mapping of their names to values.
            world_model: Settings of the model, or a mapping of their names to values.
            encoders: Settings of the encoders of point clouds and images, or a mapping of their names to values.
            obs_normalization: Whether flat observations are normalised by their running mean and standard deviation.
            distribution_cfg: rsl_rl's settings of the action distribution, which may ask for means alone; ``None`` is
                deterministic.

        Raises:
            ValueError: If a setting is outside its range, an observation group has another shape, or the distribution
                asks for more than means.
        """
        encoders = encoders if isinstance(encoders, EncoderConfig) else EncoderConfig(**(encoders or {}))
        group_encoders = GroupEncoders(obs, obs_groups[obs_set], encoders)
        with torch.random.fork_rng(devices=[]):  # the network built here is replaced by the planner
            super().__init__(
                obs,
                obs_groups,
                obs_set,
                output_dim,
                group_encoders,
                hidden_dims=(1,),
                obs_normalization=obs_normalization,
                distribution_cfg=distribution_cfg,
            )
        if self.distribution is not None and self.distribution.input_dim != output_dim:
            raise ValueError(
                f"the action distribution is {type(self.distribution).__name__}, which asks for more than a mean of "
                "each action, all that a plan has; allowed: GaussianDistribution, or another of its input"
            )
        self.mlp = TrajOptPlanner(
            self._get_latent_dim(),
            output_dim,
            trajopt if isinstance(trajopt, TrajOptConfig) else TrajOptConfig(**(trajopt or {})),
            world_model if isinstance(world_model, WorldModelConfig) else WorldModelConfig(**(world_model or {})),
        )

    def encode(self, obs: TensorDict) -> torch.Tensor:
        """Latent states of the world model, shape (*batch_size, latent_dim), of observation groups."""
        return self.planner.world_model.encode(self.get_latent(obs))

    def planned_actions(self, obs: TensorDict) -> torch.Tensor:
        """The whole plans whose first actions the policy takes, shape (num_envs, horizon, num_actions)."""
        return self.planner.plan(self.get_latent(obs)).actions

    def as_jit(self) -> nn.Module:
        """The deterministic policy as TorchScript on the CPU, observations (num_envs, obs_dim) to actions.

        Raises:
            ValueError: If the planner's solver or objective, or an encoder, cannot be exported.
        """
        self.require_flat()
        return script(trace(PlannedAction(self.obs_normalizer, self.planner), self.obs_dim))

    def as_onnx(self, verbose: bool) -> nn.Module:
        """The deterministic policy in operations that ONNX has, on the CPU.

        Raises:
            ValueError: If the planner's solver or objective, or an encoder, cannot be exported.
        """
        self.require_flat()
        return OnnxPolicy(PlannedAction(self.obs_normalizer, self.planner), self.obs_dim)

    @property
    def planner(self) -> TrajOptPlanner:
        """The planner behind the actor."""
        return self.mlp
