"""Demonstrations beside the steps that a learner collects itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch.nn.utils.rnn import pad_sequence

from difftori_isaac.data.demonstrations import Demonstration
from difftori_isaac.learners.replay import ReplayBuffer, Replayed


def demo_replay(
    demos: Sequence[Demonstration],
    action_scale: float,
    *,
    device: torch.device | str,
    storage_device: torch.device | str | None = None,
) -> ReplayBuffer:
    """A replay buffer of demonstrations, each in the place of an environment.

    The last step of a demonstration is left out, as the observation behind it is not in the file: that of the others is
    the next one's.

    Args:
        demos: Demonstrations, whose actions are those of the environment; executed ones are replayed.
        action_scale: What the environment is given for an action of 1.
        device: Device of what is drawn.
        storage_device: Device of the rows; the same if not given.

    Raises:
        ValueError: If an action is larger than ``action_scale``, a demonstration has no rewards, or all are too short.
    """
    known = [demo.rewards for demo in demos if demo.rewards is not None]
    if len(known) < len(demos):
        raise ValueError(
            f"{len(demos) - len(known)} of {len(demos)} demonstrations have no rewards; allowed with "
            "learner=model_based: files that have them"
        )
    executed = [demo.actions if demo.executed is None else demo.executed for demo in demos]
    largest = max(actions.abs().max().item() for actions in executed)
    if largest > action_scale * (1.0 + torch.finfo(torch.float32).eps):
        raise ValueError(
            f"learner.action_scale is {action_scale}, but demonstrations have actions of {largest:.4g}; allowed: at "
            "least that"
        )
    lengths = torch.tensor([len(demo.actions) for demo in demos])
    if lengths.max() < 2:
        raise ValueError(
            "demonstrations have one step each; allowed: at least one of two, as the last observation is not known"
        )
    actions = pad_sequence([actions / action_scale for actions in executed])
    rewards = pad_sequence(known)
    groups = {name: pad_sequence([demo.obs[name] for demo in demos]) for name in demos[0].obs}
    obs = TensorDict(groups, actions.shape[:2])
    replay = ReplayBuffer(
        obs[0],
        actions.shape[-1],
        capacity=max(4, len(actions)) * len(demos),
        device=device,
        storage_device=storage_device,
        priority_alpha=1.0,  # of equal priorities, but for what lies behind shorter demonstrations: it has none
    )
    none = torch.zeros(len(demos), dtype=torch.bool)
    for t in range(len(actions) - 1):
        replay.add(actions[t], rewards[t], obs[t + 1], dones=none, truncated=none, skip=t + 1 >= lengths)
    return replay


def mixed(own: Replayed, shown: Replayed) -> Replayed:
    """What was collected and what was shown as one batch, whose ``index`` is that of what was collected alone."""
    parts = {
        name: torch.cat((getattr(own, name), getattr(shown, name))) for name in Replayed._fields if name != "index"
    }
    return Replayed(**parts, index=own.index)
