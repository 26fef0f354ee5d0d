"""Ends of Isaac Lab's episodes: which are not finite, and of which the simulator logs the means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict


def zero_where_nonfinite(obs: TensorDict) -> TensorDict:
    """The observations, with zeros for environments that have one that is not finite: the next step restarts these."""
    return obs.where(~nonfinite_rows(obs), torch.zeros_like(obs))


def nonfinite_rows(obs: TensorDict) -> torch.Tensor:
    """Which environments have a NaN or infinite observation, bool of shape (num_envs,)."""
    values = map(torch.as_tensor, obs.values(include_nested=True, leaves_only=True))
    return torch.stack([~torch.isfinite(value).flatten(1).all(dim=1) for value in values]).any(dim=0)


@contextmanager
def log_of(env: Any, counted: torch.Tensor | None) -> Iterator[None]:
    """Has a step log the finite episodes of some environments alone: others are reset before, in a call of their own.

    Args:
        env: Isaac Lab's environment.
        counted: Which, bool of shape (num_envs,); None changes nothing.
    """
    if counted is None:
        yield
        return
    reset, own = env._reset_idx, vars(env).get("_reset_idx")

    def reset_apart(env_ids: torch.Tensor) -> None:
        if "final_obs" not in env.extras:  # asked for from outside of a step
            reset(env_ids)
            return
        final_obs = TensorDict(env.extras["final_obs"], batch_size=[env.num_envs])
        logged = (counted & torch.isfinite(env.reward_buf) & ~nonfinite_rows(final_obs))[env_ids]
        before = env.extras["log"]
        for selected in (env_ids[~logged], env_ids[logged]):
            env.extras["log"] = dict(before)
            if len(selected):
                reset(selected)

    env._reset_idx = reset_apart
    try:
        yield
    finally:
        del env._reset_idx
        if own is not None:
            env._reset_idx = own
