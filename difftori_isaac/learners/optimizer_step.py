"""One optimizer step of the model-based learner: all of its losses, their gradients, Adam and the slow copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import nn

from difftori_isaac.learners.gradients import accumulate, clipped_gradients
from difftori_isaac.learners.means import Means
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.replay import Replayed
from difftori_isaac.learners.td_losses import demo_loss, model_losses, plan_loss, prior_loss
from difftori_isaac.policies.plan_policy import PlanPolicy
from difftori_isaac.trajopt.cuda_graph import CudaGraph
from difftori_isaac.trajopt.host import capturable

MAXIMUM_LR_SCALE = 10.0
"""Factor on the learning rate of heads' maxima, single numbers that have to cross the whole range of returns."""

_OBS = "obs/"
_FIELDS = ("actions", "rewards", "terminated", "valid", "weights")


class StepKind(NamedTuple):
    """What an optimizer step does; steps of one kind differ in nothing but numbers on the device."""

    learning_rate: float
    """Learning rate of all networks, before their own factors."""
    planning_horizon: int
    """Horizon of the plans [steps]."""
    through_plan: bool
    """Whether the loss through the plan counts."""
    move_targets: bool
    """Whether the slow copies of the critics follow."""


class OptimizerStep:
    """Takes optimizer steps. Model losses, the prior's loss and the loss through the plan have a gradient each.

    Each is clipped on its own and dropped if it is not finite. Nothing waits for the device: on a GPU, steps of a kind
    are captured once and replayed (``trajopt.cuda_graph``).
    """

    def __init__(self, policy: PlanPolicy, config: ModelBasedConfig, *, discount: float, means: Means) -> None:
        """Build the optimizer.

        Args:
            policy: Has the model that is trained.
            config: Settings.
            discount: Discount γ.
            means: Where losses and the norm of each gradient, by the part of the model that it reaches, are counted.
        """
        self.policy, self.config, self.discount, self._means = policy, config, discount, means
        self._model = model = policy.world_model
        self._parts = model.parts()
        self._raw_critic_parameters = list(model.raw_critics.parameters())
        everything = [*self._parameters("dynamics", "reward", "q", "prior"), *self._raw_critic_parameters]
        maxima = model.maxima()
        rest = [parameter for parameter in everything if parameter not in set(maxima)]
        groups_and_scales = [(self._parts["encoder"], config.encoder_lr_scale), (rest, 1.0), (maxima, MAXIMUM_LR_SCALE)]
        self._lr_scales = [scale for _, scale in groups_and_scales]
        self.optimizer = torch.optim.Adam(
            [{"params": group} for group, _ in groups_and_scales], lr=config.learning_rate, fused=True
        )
        self._allow_capture()
        self._graphs: dict[StepKind, CudaGraph] = {}
        self._names: dict[StepKind, tuple[str, ...]] = {}

    def __call__(self, batch: Replayed, kind: StepKind) -> torch.Tensor:
        """Take a step; errors of the critics at the first steps of the sub-sequences, shape (batch,)."""
        fields = {name: getattr(batch, name) for name in _FIELDS}
        inputs = {_OBS + name: value for name, value in batch.obs.items()} | fields
        take = partial(self._take, batch, kind)
        if self.policy.layers[0].config.cuda_graph and capturable(batch.rewards):
            graph = self._graphs.setdefault(kind, CudaGraph(batch.rewards.device))
            values, td_error = graph(take, inputs)
        else:
            values, td_error = take(inputs)
        self._means.add(self._names[kind], values)
        return td_error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``optimizer.state_dict`` gave, on whatever device that was."""
        self.optimizer.load_state_dict(dict(state))
        self._allow_capture()
        self._graphs = {}  # they know the memory of the old state

    def _allow_capture(self) -> None:
        for group in self.optimizer.param_groups:
            group["capturable"] = self._parts["encoder"][0].is_cuda

    def _take(
        self, batch: Replayed, kind: StepKind, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a step on ``inputs``, which stand for the tensors of ``batch``; what to count, and critics' errors."""
        obs = {name.removeprefix(_OBS): value for name, value in inputs.items() if name.startswith(_OBS)}
        obs = self._model.augment(TensorDict(obs, batch.obs.batch_size))
        batch = batch._replace(obs=obs, **{name: inputs[name] for name in _FIELDS})
        config, model = self.config, self._model
        self.optimizer.zero_grad()
        result = model_losses(model, batch, config, self.discount)
        total = torch.stack([getattr(config, f"{name}_coef") * loss for name, loss in result.losses.items()]).sum()
        learned = self._parameters("encoder", "dynamics", "reward", "q")
        counts = self._backward("model", total, learned + self._raw_critic_parameters)
        prior, values, saturation = prior_loss(model, result.zs, result.weights, config)
        total = config.prior_coef * prior
        if (num_shown := config.num_shown) > 0:
            shown = (result.zs, batch.actions.transpose(0, 1), result.weights)
            counts["demo"] = demo_loss(model, *(value[:, -num_shown:] for value in shown))
            total = total + config.demo_coef * counts["demo"]
        counts |= self._backward("prior", total, self._parts["prior"])
        counts |= result.losses | {"prior": prior, "prior_saturation": saturation}
        if kind.through_plan:
            counts["plan"] = plan_loss(self.policy, batch, config.plan_batch_size)
            counts |= self._backward("plan", config.plan_coef * counts["plan"], self._parameters(*self._parts))
        for group, scale in zip(self.optimizer.param_groups, self._lr_scales, strict=True):
            group["lr"] = scale * kind.learning_rate
        self.optimizer.step()
        model.update_value_unit(values, config.tau)
        if kind.move_targets:
            model.update_targets(config.tau)
        self._names[kind] = tuple(counts)
        return torch.stack([value.detach() for value in counts.values()]), result.td_error

    def _parameters(self, *parts: str) -> list[nn.Parameter]:
        return [parameter for part in parts for parameter in self._parts[part]]

    def _backward(self, name: str, loss: torch.Tensor, parameters: list[nn.Parameter]) -> dict[str, torch.Tensor]:
        """Add the clipped gradient of a loss; its norm before, by the part of the model that it reaches."""
        gradients, norms, finite = clipped_gradients(loss, parameters, self.config.max_grad_norm)
        accumulate(parameters, gradients)
        of = dict(zip(parameters, norms, strict=True))
        parts = {part: [of[p] for p in items] for part, items in self._parts.items() if items[0] in of}
        counts = {f"grad_{name}_{part}": torch.stack(items).norm() for part, items in parts.items()}
        return counts | {f"nonfinite_{name}_losses": (~finite).to(loss.dtype)}
