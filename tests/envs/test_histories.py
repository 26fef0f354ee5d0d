"""Observations with a history, held against those without one: what is seen where episodes end and begin."""

from contextlib import closing
from typing import Any

import pytest
import torch

from difftori_isaac.envs.isaaclab import make_env

pytestmark = pytest.mark.sim

NUM_ENVS, FRAMES, LENGTH, STEPS, SPOILT_ENV, SPOILT_STEP = 3, 3, 4, 7, 1, 2
TERMS = {"joint_pos": 9, "joint_vel": 9, "pose_command": 7, "actions": 7}
Step = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]


def roll_out(*overrides: str) -> list[Step]:
    """Observations, ends and extras of the first state and of the same random steps, whatever is observed of them.

    One action is NaN, which ends an episode that is begun anew.
    """
    generator = torch.Generator().manual_seed(1)
    common = [f"env.episode_length_s={LENGTH / 30}", "env.observations.policy.enable_corruption=false"]
    with closing(make_env("Reach", num_envs=NUM_ENVS, device="cpu", seed=0, overrides=[*common, *overrides])) as env:
        steps: list[Step] = [(env.reset()[0]["policy"], torch.ones(NUM_ENVS).bool(), {})]
        for step in range(1, STEPS + 1):
            actions = torch.randn(NUM_ENVS, env.num_actions, generator=generator)
            if step == SPOILT_STEP:
                actions[SPOILT_ENV] = torch.nan
            obs, _, dones, extras = env.step(actions)
            assert torch.equal(env.get_observations()["policy"], obs["policy"])
            steps.append((obs["policy"], dones.bool(), extras))
    return steps


@pytest.fixture(scope="module")
def frames() -> list[Step]:
    return roll_out()


def stacked(history: torch.Tensor, with_history: list[str]) -> torch.Tensor:
    """What is observed of frames, oldest first, shape (FRAMES, NUM_ENVS, 32), where some terms have a history."""
    parts = zip(TERMS, history.split(list(TERMS.values()), dim=-1), strict=True)
    seen = [part if name in with_history else part[-1:] for name, part in parts]
    return torch.cat([part.transpose(0, 1).flatten(1) for part in seen], dim=-1)


@pytest.mark.parametrize("where", ["group", "terms"])
def test_the_newest_frame_counts_where_an_episode_ends_or_begins(frames: list[Step], where: str):
    names = list(TERMS) if where == "group" else ["joint_pos", "actions"]
    keys = ["policy"] if where == "group" else [f"policy.{name}" for name in names]
    steps = roll_out(*(f"env.observations.{key}.history_length={FRAMES}" for key in keys))
    history = frames[0][0].expand(FRAMES, -1, -1)
    for (frame, dones, extras), (obs, dones_too, extras_too) in zip(frames, steps, strict=True):
        assert torch.equal(dones, dones_too)
        if "final_obs" in extras:
            last = torch.cat((history[1:], extras["final_obs"]["policy"][None]))
            assert torch.equal(extras_too["final_obs"]["policy"][dones], stacked(last, names)[dones])
        history = torch.where(dones[:, None], frame, torch.cat((history[1:], frame[None])))
        assert torch.equal(obs, stacked(history, names))
    restarts = torch.stack([extras["nonfinite"] for _, _, extras in steps[1:]]).nonzero()
    assert restarts.tolist() == [[SPOILT_STEP - 1, SPOILT_ENV]]
    assert [step for step, (_, _, extras) in enumerate(steps) if "final_obs" in extras] == [
        LENGTH,
        SPOILT_STEP + LENGTH,
    ]
