"""PPO whose policy is a trajectory optimizer: rsl_rl's PPO, with world-model losses beside it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.env import VecEnv
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import resolve_obs_groups
from tensordict import TensorDict

from difftori_isaac.learners import averaging
from difftori_isaac.learners.config import ALGORITHM_SETTINGS, ModelLossConfig, PPOConfig
from difftori_isaac.learners.losses import sample_sequences
from difftori_isaac.learners.model_fit import model_fit
from difftori_isaac.learners.model_step import ModelStep
from difftori_isaac.learners.observed import check_sets
from difftori_isaac.policies.feature_model import FeatureModel
from difftori_isaac.policies.planner import TrajOptPlanner
from difftori_isaac.policies.trajopt_actor import TrajOptActor
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.encoders import GroupEncoders
from difftori_isaac.world_models.latent import LatentWorldModel


class ScaledAdam(torch.optim.Adam):
    """Adam whose parameter groups may have an ``lr_scale``, a factor on the learning rate that a schedule sets."""

    def step(self, closure: Any = None) -> Any:
        """See torch."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        result = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result


class TrajOptPPO(PPO):
    """rsl_rl's PPO for a :class:`~difftori_isaac.policies.trajopt_actor.TrajOptActor`.

    The clipped surrogate reaches encoder, dynamics, reward, value and prior through the plan. After it, the model is
    trained on the same rollout with losses and an optimizer of its own. Use it in any rsl_rl configuration by its
    path, ``class_name="difftori_isaac.learners.ppo:TrajOptPPO"``.
    """

    def __init__(
        self,
        *args: Any,
        plan_lr_scale: float = 0.1,
        model_losses: ModelLossConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the learner; plans get its discount unless they have their own.

        Args:
            *args: See rsl_rl's PPO.
            plan_lr_scale: Factor on the surrogate's learning rate for dynamics, reward and value heads.
            model_losses: Settings of the model losses, or a mapping of their names to values.
            **kwargs: See rsl_rl's PPO.

        Raises:
            ValueError: If the sub-sequences are longer than the rollout, or another optimizer than Adam is asked for.
        """
        super().__init__(*args, **kwargs)
        if kwargs.get("optimizer", "adam") != "adam":
            raise ValueError(f"optimizer is {kwargs['optimizer']!r}; allowed with a trajectory optimizer: adam")
        if not isinstance(model_losses, ModelLossConfig):
            model_losses = ModelLossConfig(**(model_losses or {}))
        if model_losses.horizon > self.storage.num_transitions_per_env:
            raise ValueError(
                f"learner.model_losses.horizon is {model_losses.horizon}; allowed: at most "
                f"learner.num_steps_per_env = {self.storage.num_transitions_per_env}"
            )
        if not self.planner.layer.config.train_through_plan:
            raise ValueError(
                "trajopt.train_through_plan is False, which leaves PPO no gradient of the policy; "
                "allowed: true, or learner=model_based"
            )
        planner = self.planner
        planner.layer = TrajOptLayer(planner.layer.config.discounted_by(self.gamma))
        model = self.world_model
        plan = [*model.dynamics.parameters(), *model.reward_head.parameters(), *model.value_head.parameters()]
        planned = set(plan)
        rest = [p for net in (self.actor, self.critic) for p in net.parameters() if p not in planned]
        self.optimizer = ScaledAdam(
            [{"params": rest}, {"params": plan, "lr_scale": plan_lr_scale}], lr=self.learning_rate, fused=True
        )
        self.plan_lr_scale = plan_lr_scale
        self.model_loss_config = model_losses
        self.model_step = ModelStep(self._trajopt_actor, model_losses, max_grad_norm=self.max_grad_norm)
        self._last_obs: TensorDict | None = None
        self._rewards = torch.zeros(self.storage.rewards.shape[:2], device=self.device)
        self._rewarded = torch.zeros_like(self._rewards, dtype=torch.bool)

    @property
    def planner(self) -> TrajOptPlanner:
        """The planner that is the policy."""
        return self._trajopt_actor.planner

    @property
    def _trajopt_actor(self) -> TrajOptActor:
        return cast("TrajOptActor", self._raw_actor)

    @property
    def world_model(self) -> LatentWorldModel:
        """The model the plan is optimised against."""
        return self.planner.world_model

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, torch.Tensor]
    ) -> None:
        """See rsl_rl; keeps rewards for the model as they are, without the values that bootstrap time-outs."""
        super().process_env_step(obs, rewards, dones, extras)
        step = self.storage.step - 1
        self._rewards[step] = rewards
        self._rewarded[step] = ~extras.get("nonfinite", torch.zeros_like(dones)).bool()

    def compute_returns(self, obs: TensorDict) -> None:
        """See rsl_rl; keeps the observation behind the rollout for the consistency loss."""
        super().compute_returns(obs)
        self._last_obs = obs

    def update(self) -> dict[str, float]:
        """PPO's epochs, then the model's; returns mean losses, gradient norms per module and solver statistics."""
        losses = super().update()
        losses |= {f"grad_{name}": norm for name, norm in self._gradient_norms().items()}
        losses |= self._update_model()
        return losses | self.planner.statistics.pop()

    def save(self) -> dict[str, Any]:
        """See rsl_rl; adds the model's optimizer."""
        return super().save() | {"model_optimizer_state_dict": self.model_step.optimizer.state_dict()}

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool) -> bool:
        """See rsl_rl; restores the model's optimizer with PPO's, at the learning rates of this configuration."""
        load_iteration = super().load(loaded_dict, load_cfg, strict)
        if load_cfg is None or load_cfg.get("optimizer"):
            self.model_step.load_state_dict(loaded_dict["model_optimizer_state_dict"])
            self.optimizer.param_groups[1]["lr_scale"] = self.plan_lr_scale
        return load_iteration

    def _gradient_norms(self) -> dict[str, float]:
        """Norm of the last mini-batch's gradient, after it was clipped, in each part of the model that it reached."""
        norms = {
            name: torch.stack(grads).norm()
            for name, module in (*self.world_model.named_children(), ("features", self._trajopt_actor.encoders))
            if (grads := [p.grad.norm() for p in module.parameters() if p.grad is not None])
        }
        return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))

    def _update_model(self) -> dict[str, float]:
        """Train the model on sub-sequences of the rollout; how well it predicted it before comes first."""
        config, st, model, actor = self.model_loss_config, self.storage, self.world_model, self._trajopt_actor
        if config.num_updates == 0 or self._last_obs is None:
            return {}
        with torch.no_grad():
            model.update_return_statistics(averaging.join(st.returns, dim=1))
            groups = (*actor.encoders.flat, *actor.encoders)
            parts = [part.select(*groups) for part in (st.observations, self._last_obs.unsqueeze(0))]
            steps = (st.actions, self._rewards, st.returns.squeeze(-1), st.dones.squeeze(-1))
            latents = torch.stack([actor.encode(cast("TensorDict", step)) for part in parts for step in part])
            fit = model_fit(model, latents, *steps)
        states = self.model_step.states(parts, latents)
        sizes = {"length": config.horizon, "batch_size": config.batch_size}
        sums: dict[str, torch.Tensor] = {}
        for _ in range(config.num_updates):
            losses = self.model_step(sample_sequences(states, *steps, self._rewarded, **sizes))
            sums = {name: sums.get(name, 0.0) + loss for name, loss in losses.items()}
        return fit | {f"model_{name}": (value / config.num_updates).item() for name, value in sums.items()}


def build_ppo(
    env: VecEnv,
    *,
    policy: Literal["trajopt", "mlp"],
    trajopt: TrajOptConfig,
    world_model: WorldModelConfig,
    learner: PPOConfig,
    device: str,
) -> PPO:
    """Build the PPO of a trajectory-optimizer policy or, as its baseline, of rsl_rl's own MLP policy.

    Args:
        env: The environments, in rsl_rl's interface.
        policy: ``trajopt`` or ``mlp``.
        trajopt: Settings of the planner.
        world_model: Settings of the model.
        learner: Settings of PPO with no ``None`` left, see :meth:`PPOConfig.filled_from`.
        device: Device of the learner.

    Raises:
        ValueError: If a setting does not fit the environment.
    """
    settings: dict[str, Any] = asdict(learner)
    missing = [name for name, value in settings.items() if value is None and name != "obs_groups"]
    if missing:
        raise ValueError(f"learner.{missing[0]} is None; fill the configuration with PPOConfig.filled_from first")
    num_samples = env.num_envs * settings["num_steps_per_env"]
    if settings["num_mini_batches"] > num_samples:
        raise ValueError(
            f"learner.num_mini_batches is {settings['num_mini_batches']}; allowed: at most num_envs * "
            f"learner.num_steps_per_env = {num_samples}"
        )
    if num_samples < 2:
        raise ValueError(
            f"num_envs * learner.num_steps_per_env is {num_samples}; allowed: at least 2, as advantages are compared"
        )
    obs = env.get_observations().to(device)
    check_sets(obs, settings["obs_groups"])
    obs_groups = resolve_obs_groups(obs, settings["obs_groups"] or {}, ["actor", "critic"])
    actor = build_actor(
        obs, obs_groups, env.num_actions, policy=policy, trajopt=trajopt, world_model=world_model, learner=learner
    )
    critic = _build_mlp(
        obs, obs_groups, "critic", 1, settings["critic_hidden_dims"], learner, settings["obs_normalization"]
    )
    storage = RolloutStorage("rl", env.num_envs, settings["num_steps_per_env"], obs, [env.num_actions], device)
    algorithm = {name: settings[name] for name in ALGORITHM_SETTINGS}
    algorithm["multi_gpu_cfg"] = averaging.process_info()
    if policy == "trajopt":
        return TrajOptPPO(
            actor,
            critic,
            storage,
            device=device,
            plan_lr_scale=learner.plan_lr_scale,
            model_losses=learner.model_losses,
            **algorithm,
        )
    return PPO(actor, critic, storage, device=device, **algorithm)


def build_actor(
    obs: TensorDict,
    obs_groups: dict[str, list[str]],
    num_actions: int,
    *,
    policy: Literal["trajopt", "mlp"],
    trajopt: TrajOptConfig,
    world_model: WorldModelConfig,
    learner: PPOConfig,
) -> MLPModel:
    """Build the actor alone; see :func:`build_ppo`."""
    distribution = {"class_name": "GaussianDistribution", "init_std": learner.init_std}
    common: dict[str, Any] = {"obs_normalization": learner.obs_normalization, "distribution_cfg": distribution}
    if policy == "trajopt":
        trajopt = trajopt.discounted_by(learner.gamma)
        models: dict[str, Any] = {"trajopt": trajopt, "world_model": world_model, "encoders": learner.encoders}
        return TrajOptActor(obs, obs_groups, "actor", num_actions, **models, **common)
    return _build_mlp(obs, obs_groups, "actor", num_actions, learner.actor_hidden_dims or (), learner, **common)


def _build_mlp(
    obs: TensorDict,
    obs_groups: dict[str, list[str]],
    obs_set: str,
    output_dim: int,
    hidden_dims: tuple[int, ...],
    learner: PPOConfig,
    obs_normalization: bool,
    distribution_cfg: dict[str, Any] | None = None,
) -> MLPModel:
    """Build rsl_rl's own MLP or, where a group is not flat, one with encoders before it."""
    settings = (hidden_dims, learner.activation or "", obs_normalization, distribution_cfg)
    encoders = GroupEncoders(obs, obs_groups[obs_set], learner.encoders)
    if not len(encoders):
        return MLPModel(obs, obs_groups, obs_set, output_dim, *settings)
    return FeatureModel(obs, obs_groups, obs_set, output_dim, encoders, *settings)
