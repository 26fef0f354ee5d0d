"""What an environment step of model-based learning costs: its plan, and its share of the updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import cast

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from difftori_isaac.benchmarks.config import BenchmarkConfig, Size
from difftori_isaac.benchmarks.measure import times_ms
from difftori_isaac.benchmarks.row import Reference, Row
from difftori_isaac.learners.model_based import ModelBased, build_model_based
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run.build import resolve_device
from difftori_isaac.run.compose import compose, parse
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.world_models.td_config import TdWorldModelConfig

REFERENCE = Reference("DiffTORI, published code", same=())
_OBS_DIM, _ACTION_DIM, _EPISODE_STEPS = 24, 6, 500  # of the walker of the DeepMind Control suite
_COLLECTED = 16
PRESETS = ("td", "td_wide", "td_large", "difftori", "tdmpc2")
"""World models, by their files in configs/world_model."""
LEARNERS = {
    "with batches of 128": ("learner=model_based", "learner.batch_size=128"),
    "with batches of 512": ("learner=model_based", "learner.batch_size=512"),
    "in parallel": ("learner=model_based_parallel",),
}
"""Learners: an optimizer step per environment step, with the learner's own batch or DiffTORI's; and one for several."""


def _quoted(solver: str, *, plan_ms: float, plan_gradient_ms: float | None, update_ms: float, note: str) -> Row:
    return Row(
        suite="model_based",
        solver=solver,
        num_envs=1,
        forward_ms=plan_ms,
        forward_backward_ms=plan_gradient_ms,
        update_ms=update_ms,
        solves_per_s=1e3 / plan_ms,
        env_steps_per_s=1e3 / ((plan_gradient_ms or plan_ms) + update_ms),
        measured=False,
        device="cpu",
        dtype="float32",
        note=f"quoted; {note}",
    )


QUOTED = (
    _quoted(REFERENCE.solver, plan_ms=1012.0, plan_gradient_ms=1172.0, update_ms=384.0, note="an update each step"),
    _quoted("TD-MPC2", plan_ms=780.0, plan_gradient_ms=None, update_ms=690.0, note="an update of 256 each step"),
)


class _Observed:
    """Random observations of the walker's size, for a learner to be built for; nothing moves."""

    num_actions, max_episode_length = _ACTION_DIM, _EPISODE_STEPS

    def __init__(self, num_envs: int, device: str) -> None:
        self.num_envs, self.device = num_envs, device

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": torch.randn(self.num_envs, _OBS_DIM, device=self.device)}, [self.num_envs])


def build(preset: str, learner: str, size: Size, device: str) -> tuple[ModelBased, TensorDict]:
    """A learner with replayed steps, and observations of all environments."""
    overrides = parse(["task=walker-walk", *LEARNERS[learner], f"world_model={preset}"], TrainConfig)
    config = compose(TrainConfig, overrides)
    assert isinstance(config.learner, ModelBasedConfig) and isinstance(config.world_model, TdWorldModelConfig)
    num_envs, trajopt = size.num_envs, replace(config.trajopt, horizon=size.horizon, iterations=size.iterations)
    env = _Observed(num_envs, device)
    algorithm = build_model_based(
        cast("VecEnv", env),
        policy="trajopt",
        trajopt=trajopt,
        world_model=config.world_model,
        learner=replace(config.learner, seed_steps=0, horizon_start=size.horizon),
        device=device,
    )
    none = torch.zeros(num_envs, dtype=torch.bool, device=device)
    with torch.inference_mode():
        for _ in range(_COLLECTED):
            algorithm.act(env.get_observations())
            algorithm.process_env_step(env.get_observations(), torch.randn(num_envs, device=device), none, {})
    return algorithm, env.get_observations()


def model_based(config: BenchmarkConfig) -> Iterator[Row]:
    """Plans for all environments and optimizer steps, with observations of 24 numbers and 6 actions."""
    device = resolve_device(config.device)
    if device == "cpu":
        yield from (row for row in QUOTED if config.wants(row.solver))
    for size in config.sizes(num_envs=(64,), horizon=(5,), iterations=(3,)):
        for preset in PRESETS:
            for learner in LEARNERS:
                if config.wants(solver := f"{preset} {learner}"):
                    algorithm, obs = build(preset, learner, size, device)
                    yield _measure(algorithm, obs, solver, device, config.repeats)


def _measure(algorithm: ModelBased, obs: TensorDict, solver: str, device: str, repeats: int) -> Row:
    def plan() -> None:
        with torch.inference_mode():
            algorithm.act(obs)

    def update() -> None:
        target = algorithm.num_updates + settings.plan_interval
        while (missing := target - algorithm.num_updates) > 0:  # few environments: some at a time
            algorithm.updates_due = float(missing)
            algorithm.update()

    settings, trajopt = algorithm.config, algorithm.policy.layers[-1].config
    times = times_ms((plan, update), device, repeats)
    plan_ms, updates_ms = (median(column) for column in zip(*times, strict=True))
    update_ms = updates_ms / settings.plan_interval
    return Row(
        suite="model_based",
        solver=solver,
        num_envs=len(obs),
        horizon=trajopt.horizon,
        iterations=trajopt.iterations,
        forward_ms=plan_ms,
        update_ms=update_ms,
        solves_per_s=1e3 * len(obs) / plan_ms,
        env_steps_per_s=1e3 / (plan_ms / len(obs) + settings.update_to_data * update_ms),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        dtype="float32",
        note=f"{settings.update_to_data:g} updates a step of {settings.batch_size}, {settings.plan_batch_size} plans "
        f"every {settings.plan_interval}",
    )
