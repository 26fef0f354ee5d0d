"""One optimizer step of PPO's world model: all of its losses, their gradient and Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.learners import averaging
from difftori_isaac.learners.config import ModelLossConfig
from difftori_isaac.learners.losses import Sequences, model_losses
from difftori_isaac.policies.trajopt_actor import TrajOptActor

_LATENT = "latent"


class ModelStep:
    """Takes optimizer steps on the model losses.

    With several processes, the gradient is the mean of theirs: each weighs the same, however many of its steps count.
    """

    def __init__(self, actor: TrajOptActor, config: ModelLossConfig, *, max_grad_norm: float) -> None:
        """Build the optimizer.

        Args:
            actor: Has the model and its encoder.
            config: Settings.
            max_grad_norm: The gradient is clipped to this norm.
        """
        self.config, self._actor, self._max_grad_norm = config, actor, max_grad_norm
        self._model = actor.planner.world_model
        self._parameters = [*self._model.parameters(), *actor.encoders.parameters()]
        self.optimizer = torch.optim.Adam(self._parameters, lr=config.learning_rate, fused=True)

    def states(self, parts: list[TensorDict], latents: torch.Tensor) -> TensorDict:
        """What a step has to see of observations: themselves if they train the encoder, or their latent states.

        The observations come in parts, batch sizes (steps, num_envs); their copy as one is made where it is needed.
        """
        if self.config.train_encoder:
            return cast("TensorDict", torch.cat(parts))  # pyright: ignore[reportArgumentType, reportCallIssue]
        return TensorDict({_LATENT: latents}, latents.shape[:-1])

    def __call__(self, batch: Sequences) -> dict[str, torch.Tensor]:
        """Take a step on sub-sequences of :meth:`states`; the losses before it, without their coefficients."""
        losses = model_losses(self._model, self._encode, batch, self.config)
        if self.config.prior_coef > 0:
            losses["prior"] = self._prior_loss(batch.obs[:, 0])
        total = torch.stack([getattr(self.config, f"{name}_coef") * loss for name, loss in losses.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        averaging.average_gradients(self._parameters)
        nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``optimizer.state_dict`` gave, at the learning rate of this configuration."""
        self.optimizer.load_state_dict(dict(state))
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate

    def _encode(self, states: TensorDict) -> torch.Tensor:
        return self._actor.encode(states) if self.config.train_encoder else states[_LATENT]

    def _prior_loss(self, states: TensorDict) -> torch.Tensor:
        """Squared distance of prior actions from first planned actions; trains the prior alone."""
        with torch.no_grad():
            z0 = self._encode(states)
            planned = self._actor.planner.plan_from(z0).action
        return nn.functional.mse_loss(self._model.pi(z0), planned)
