"""Collecting demonstrations: episodes of a policy, written to a file that the imitation learner reads."""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from difftori_isaac.data import demonstrations
from difftori_isaac.data.demonstrations import Demonstration
from difftori_isaac.run import build, locate, rollout
from difftori_isaac.run.compose import Overrides, setting
from difftori_isaac.run.config import CollectConfig
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.evaluate import summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from difftori_isaac.envs.vec_env import VecEnv

MOST_TRIES = 10
"""Episodes per demonstration after which to give up, unless asked otherwise."""

REPORTS = 10
"""Lines of progress, about."""


def collect(overrides: Overrides) -> None:
    """Writes episodes of a policy without noise.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If the file cannot be written, or too few episodes are good enough.
    """
    config, origin = rollout.configure(CollectConfig, overrides)
    config = rollout.with_num_envs(config, config.num_demos)
    folder = Path() if origin is None or origin.run_dir is None else origin.run_dir
    path = locate.output_file(config.output, folder / "demos.hdf5")
    made_in = {
        "env_name": config.task,
        "type": "difftori_isaac",
        "env_kwargs": {"env_overrides": list(config.env_overrides), "seed": config.seed},
        "policy": config.policy if origin is None else str(origin.path),
    }
    returns: list[float] = []
    with closing(build.make_environment(config)) as env:
        policy = rollout.make_policy(config, env, origin)
        try:
            with demonstrations.writing(path, made_in) as writer:
                for number, demo in _episodes(config, env, policy):
                    writer.add(demo, number)
                    returns.append(demo.episode_return)
                    if writer.num_demos % max(config.num_demos // REPORTS, 1) == 0:
                        print(f"{writer.num_demos} of {config.num_demos} demonstrations", flush=True)
        except OSError as error:
            raise RunError(f"cannot write to {path}: {error}; give output=<file>.hdf5") from error
    result = summary(returns)
    std = "" if result["std"] is None else f" ± {result['std']:.4g}"
    print(f"{writer.num_demos} demonstrations of {writer.num_samples:,} steps, return {result['mean']:.4g}{std}")
    learn = f"{shlex.join((f'task={config.task}', *config.env_overrides))} learner=imitation"
    print(f"written to {path}; learn from it with scripts/train.py {learn} {setting('learner.dataset', path)}")


def _own_seed(seed: int) -> int:
    """A seed whose episodes do not begin where those of ``seed`` do in training and evaluation.

    Otherwise a policy would be judged where it has been shown what to do.
    """
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def _episodes(config: CollectConfig, env: VecEnv, policy: rollout.Policy) -> Iterator[tuple[int, Demonstration]]:
    """The first good episodes of every environment, the same number in each up to one: short ones count no more.

    They come as they end, with their numbers: first the first one of each environment. They hold the observation groups
    that a learner can observe, which are tensors.
    """
    wanted = rollout.episodes_per_env(config.num_demos, env.num_envs)
    left = list(wanted)
    steps: list[list[_Step]] = [[] for _ in left]
    most, tried = config.max_episodes or MOST_TRIES * config.num_demos, 0
    obs = rollout.reset(replace(config, seed=_own_seed(config.seed)), env)
    groups = [name for name, group in obs.items() if isinstance(group, torch.Tensor)]
    if terms := [str(name) for name in obs.keys() if name not in groups]:  # noqa: SIM118
        print(f"note: left out as dictionaries, which no learner observes: observation groups {', '.join(terms)}")
    while any(left):
        with torch.inference_mode():
            actions = policy(obs)
            noise = config.action_noise * torch.randn_like(actions) if config.action_noise else 0.0
            executed = actions + noise
            if env.clip_actions is not None:
                executed = executed.clamp(-env.clip_actions, env.clip_actions)
            following, rewards, dones, extras = env.step(executed)
        row = obs.select(*groups).clone().cpu()
        action, done, reward = (x.clone().cpu() for x in (actions, executed, rewards))
        bad, obs = extras["nonfinite"].tolist(), following
        for index, ended in enumerate(dones.bool().tolist()):
            if not left[index]:
                continue
            steps[index].append(_Step(row[index], action[index], done[index], reward[index]))
            if not ended:
                continue
            demo, steps[index], tried = _demonstration(steps[index]), [], tried + 1
            if not bad[index] and (config.min_return is None or demo.episode_return >= config.min_return):
                yield (wanted[index] - left[index]) * env.num_envs + index, demo
                left[index] -= 1
            if tried >= most and any(left):
                raise RunError(
                    f"{config.num_demos - sum(left)} of {tried} episodes are finite and return min_return="
                    f"{config.min_return} or more, but {config.num_demos} are asked for; nothing was written: "
                    "give a smaller min_return, fewer num_demos or more max_episodes"
                )


class _Step(NamedTuple):
    obs: TensorDict
    action: torch.Tensor
    executed: torch.Tensor
    reward: torch.Tensor


def _demonstration(steps: list[_Step]) -> Demonstration:
    groups = {str(name): torch.stack([step.obs[name] for step in steps]) for name in steps[0].obs.keys()}  # noqa: SIM118
    actions, executed, rewards = (
        torch.stack([getattr(step, name) for step in steps]) for name in ("action", "executed", "reward")
    )
    return Demonstration(groups, actions, rewards, None if torch.equal(actions, executed) else executed)
