"""Imitation: chunks of actions are learned from demonstrations, through the optimum where the policy is a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch.nn import functional as F

from difftori_isaac.data import demonstrations
from difftori_isaac.learners.chunk_dataset import ChunkDataset
from difftori_isaac.learners.gradients import accumulate, clipped_gradients
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.learners.means import Means
from difftori_isaac.learners.observed import observed_groups
from difftori_isaac.policies.chunks.diffusion import DiffusionHead
from difftori_isaac.policies.chunks.energy import EnergyHead
from difftori_isaac.policies.chunks.head import HeadPolicy
from difftori_isaac.policies.chunks.optimized import OptimizedChunks
from difftori_isaac.policies.chunks.policy import ChunkPolicy
from difftori_isaac.policies.chunks.regression import RegressionHead
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig

POLICIES = ("trajopt", "mlp", "diffusion", "ibc")
"""Names of the policies that it trains."""

VALIDATION_SAMPLES = 512
"""Most samples of which ``validation_error`` is the mean, evenly spread over the demonstrations held back."""


class Imitation:
    """Trains a policy on demonstrations while it acts, which only shows how far it has come.

    It has the surface of rsl_rl's PPO. Demonstrations are read when training begins, not to act.
    """

    def __init__(
        self, policy: ChunkPolicy, config: ImitationConfig, *, groups: list[str], device: torch.device | str
    ) -> None:
        """Build the optimizer; see :func:`build_imitation`."""
        self.policy, self.config, self.groups, self.device = policy, config, groups, torch.device(device)
        self.learning_rate, self.num_updates = config.learning_rate, 0
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
        if config.base_coef == 0.0 and isinstance(policy, OptimizedChunks) and policy.base is not None:
            policy.base.requires_grad_(False)
            policy.encoders.requires_grad_(False)  # or the base, which stays as it is, would see other features
        self._coefs = {
            "imitation": 1.0,
            "base": config.base_coef,
            "denoising": config.denoising_coef,
            "divergence": config.divergence_coef,
        }
        self._means = Means()
        self._has_units = False
        self._training: ChunkDataset | None = None
        self._validation: ChunkDataset | None = None

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Actions without noise, shape (num_envs, num_actions)."""
        return self.policy(obs)

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: Mapping[str, Any]
    ) -> None:
        """Nothing: only demonstrations are learned from."""

    def compute_returns(self, obs: TensorDict) -> None:
        """Nothing."""

    def update(self) -> dict[str, float]:
        """Take the optimizer steps of an iteration that are left; mean losses, gradient norm and solver statistics."""
        assert self._training is not None, "train_mode() comes first"
        left = max(self.config.total_updates - self.num_updates, 0)
        for _ in range(min(self.config.num_updates, left)):
            self._update_once(self._training)
        metrics = self._means.pop() | {"num_updates": float(self.num_updates)} | self.policy.solver_statistics()
        if self._validation is not None:
            metrics["validation_error"] = self._error(self._validation)
            self.policy.solver_statistics()  # of plans that are neither executed nor learned from
        return metrics

    def get_policy(self) -> ChunkPolicy:
        """The policy."""
        return self.policy

    def train_mode(self) -> None:
        """Read the demonstrations, unless that is done.

        Raises:
            ValueError: If there are none, or they do not fit the environment.
        """
        self.policy.train()
        if self._training is None:
            self._load_demonstrations()

    def eval_mode(self) -> None:
        """Prepare for acting alone."""
        self.policy.eval()

    def save(self) -> dict[str, Any]:
        """Everything that learning goes on from, but the demonstrations."""
        return {
            "policy_state_dict": self.policy.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "num_updates": self.num_updates,
        }

    def load(self, loaded_dict: Mapping[str, Any], load_cfg: Mapping[str, Any] | None, strict: bool) -> bool:
        """Restore what :meth:`save` gave; ``load_cfg`` may leave out the ``optimizer``."""
        self.policy.load_state_dict(loaded_dict["policy_state_dict"], strict=strict)
        if load_cfg is None or load_cfg.get("optimizer"):
            self.optimizer.load_state_dict(loaded_dict["optimizer_state_dict"])
        self.num_updates, self._has_units = loaded_dict["num_updates"], True
        return True

    def start_from(self, policy_state: Mapping[str, torch.Tensor]) -> None:
        """Let the prior plan be the chunk of a trained policy, of which this is ``policy_state_dict``.

        Raises:
            RuntimeError: If its networks have other shapes.
        """
        head = "head."
        state = {
            name.replace(head, "base.", 1) if name.startswith(head) else name: v for name, v in policy_state.items()
        }
        self.policy.load_state_dict(self.policy.state_dict() | state)
        self._has_units = True

    def _load_demonstrations(self) -> None:
        config, policy = self.config, self.policy
        demos = demonstrations.read(path := Path(config.dataset or ""), self.groups, config.num_demos)
        demonstrations.check_layouts(path, demos[0], policy.obs_like, policy.num_actions)
        share = round(config.validation_share * len(demos), 6)  # 0.07 * 100 is above 7
        held_back = min(math.ceil(share), len(demos) - 1)
        if share and not held_back:
            print(f"note: learner.validation_share is {config.validation_share}: not used, with one demonstration")
        parts = demos[: len(demos) - held_back], demos[len(demos) - held_back :]
        training, *validation = (ChunkDataset(part, policy.horizon, self.device) for part in parts if part)
        self._training, self._validation = training, validation[0] if validation else None
        if self._has_units:
            self._check_units(training.actions)
        else:
            policy.set_units(training.obs, training.actions)

    def _check_units(self, actions: torch.Tensor) -> None:
        """Look whether actions lie within the units of the demonstrations that the policy was trained with before."""
        if (largest := self.policy.normalized(actions).abs().max().item()) <= 1.0 + 1e-3:
            return
        found = f"learner.dataset has actions up to {largest:.3g} in the units of those that were learned from before"
        if isinstance(getattr(self.policy, "head", None), DiffusionHead | EnergyHead):
            raise ValueError(f"{found}; allowed with policy=diffusion and ibc, which reach no further: at most 1")
        print(f"note: {found}: validation_error is in those units")

    def _update_once(self, dataset: ChunkDataset) -> None:
        batch, config, policy = dataset.sample(self.config.batch_size), self.config, self.policy
        done = self.num_updates / config.total_updates
        self.learning_rate = 0.5 * config.learning_rate * (1.0 + math.cos(math.pi * done))
        losses = policy.losses(policy.features(policy.augmented(batch.obs)), policy.normalized(batch.actions))
        total = torch.stack([self._coefs[name] * loss for name, loss in losses.items()]).sum()
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        gradients, norms, finite = clipped_gradients(total, parameters, config.max_grad_norm)
        self.optimizer.zero_grad()
        accumulate(parameters, gradients)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.num_updates += 1
        counts = {name: loss.detach() for name, loss in losses.items()}
        counts |= {"grad_policy": torch.stack(norms).norm(), "nonfinite_losses": (~finite).to(total.dtype)}
        self._means.add(tuple(counts), torch.stack(list(counts.values())))

    @torch.no_grad()
    def _error(self, dataset: ChunkDataset) -> float:
        """Mean squared error of the chunks that the policy acts on, of actions within −1 to 1."""
        count = min(VALIDATION_SAMPLES, len(dataset))
        batch = dataset.rows(torch.linspace(0, len(dataset) - 1, count, device=self.device).long())
        chunks = self.policy.chunk(self.policy.features(batch.obs))
        return F.mse_loss(chunks, self.policy.normalized(batch.actions)).item()


def build_imitation(
    env: VecEnv,
    *,
    policy: str,
    trajopt: TrajOptConfig,
    world_model: ChunkModelConfig,
    learner: ImitationConfig,
    device: str,
) -> Imitation:
    """Build the imitation learner.

    Args:
        env: The environments, in rsl_rl's interface.
        policy: One of :data:`POLICIES`.
        trajopt: ``horizon`` is the length of the chunks of all policies; the rest is the planner's.
        world_model: Settings of the networks.
        learner: Settings of the learner.
        device: Device of the learner.

    Raises:
        ValueError: If a setting does not fit the others or the environment.
    """
    obs = env.get_observations()
    groups = observed_groups(obs, learner.obs_groups)
    arguments = (obs.select(*groups).to("cpu"), groups, env.num_actions, trajopt.horizon, world_model)
    heads = {
        "mlp": RegressionHead,
        "diffusion": partial(DiffusionHead, settings=learner.diffusion),
        "ibc": partial(EnergyHead, settings=learner.ibc),
    }
    if policy == "trajopt":
        bases = {"zero": None, "regression": heads["mlp"], "diffusion": heads["diffusion"]}
        built = OptimizedChunks(*arguments, trajopt=trajopt, make_base=bases[world_model.base])
    elif policy in heads:
        built = HeadPolicy(*arguments, make_head=heads[policy])
    else:
        raise ValueError(f"policy is {policy!r}; allowed with learner=imitation: {', '.join(POLICIES)}")
    return Imitation(built.to(device), learner, groups=groups, device=device)
