"""Demonstrations beside what a learner collects."""

from pathlib import Path

import pytest
import torch
from small_cart import CHEAP, build, collect, train

from difftori_isaac.data.demonstrations import Demonstration, writing
from difftori_isaac.learners.demo_replay import demo_replay, mixed

LENGTHS = (4, 7, 5)


def demonstrations() -> list[Demonstration]:
    """Demonstration i has observations and rewards i + 0.01 t, and twice that as actions."""
    demos = []
    for number, length in enumerate(LENGTHS):
        values = number + 0.01 * torch.arange(length)
        obs = {"policy": values[:, None].repeat(1, 2)}
        demos.append(Demonstration(obs, 2.0 * values[:, None], values))
    return demos


def test_what_is_replayed_is_what_was_shown():
    torch.manual_seed(0)
    batch = demo_replay(demonstrations(), 5.0, device="cpu").sample(2000, 3)
    first = batch.obs["policy"][:, 0, 0]
    expected = first[:, None] + 0.01 * torch.arange(4)
    valid = batch.valid.bool()
    assert valid[:, 0].all(), "nothing is drawn behind a demonstration's end"
    assert torch.allclose(batch.actions[..., 0][valid], 2.0 / 5.0 * expected[:, :3][valid])
    assert torch.allclose(batch.rewards[valid], expected[:, :3][valid])
    assert torch.allclose(batch.obs["policy"][:, 1:, 0][valid], expected[:, 1:][valid])
    assert not batch.terminated.any()
    drawn = first[valid[:, 0]]
    starts = [number + 0.01 * t for number, length in enumerate(LENGTHS) for t in range(length - 1)]
    assert torch.allclose(drawn.unique(), torch.tensor(starts)), "every step but the last of each"
    steps = (drawn[:, None] - torch.tensor(starts)).abs().argmin(dim=1).bincount()
    assert steps.min() > 0.5 * steps.float().mean(), "as often as each other"


def test_actions_beyond_the_scale_are_refused():
    with pytest.raises(ValueError, match=r"learner.action_scale is 2.0, but demonstrations have actions of 4.08"):
        demo_replay(demonstrations(), 2.0, device="cpu")


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7])
def test_actions_at_the_scale_are_replayed(scale: float):
    demos = [demo._replace(actions=torch.full_like(demo.actions, scale)) for demo in demonstrations()]
    assert demo_replay(demos, scale, device="cpu").sample(8, 2).actions.amax().item() == pytest.approx(1.0)


def test_what_was_executed_is_replayed():
    executed = [demo._replace(executed=demo.actions + 0.5) for demo in demonstrations()]
    plain, noisy = (demo_replay(demos, 5.0, device="cpu").rows["action"] for demos in (demonstrations(), executed))
    assert torch.allclose(noisy[:3], plain[:3] + 0.1)


def test_demonstrations_without_rewards_are_refused():
    with pytest.raises(
        ValueError, match="1 of 3 demonstrations have no rewards; allowed with learner=model_based: files"
    ):
        demo_replay([*demonstrations()[:2], demonstrations()[2]._replace(rewards=None)], 5.0, device="cpu")


def test_demonstrations_of_one_step_are_refused():
    short = [
        demo._replace(obs={"policy": demo.obs["policy"][:1]}, actions=demo.actions[:1], rewards=demo.rewards[:1])
        for demo in demonstrations()
    ]
    with pytest.raises(ValueError, match="demonstrations have one step each; allowed: at least one of two"):
        demo_replay(short, 5.0, device="cpu")


def test_a_batch_is_mixed():
    torch.manual_seed(0)
    own, shown = (demo_replay(demonstrations(), scale, device="cpu") for scale in (5.0, 10.0))
    own, shown = own.sample(6, 3), shown.sample(2, 3)
    batch = mixed(own, shown)
    assert batch.obs.batch_size == (8, 4) and batch.index is own.index
    assert torch.equal(batch.actions, torch.cat((own.actions, shown.actions)))


def test_a_learner_sees_demonstrations_from_the_start(tmp_path: Path):
    path = tmp_path / "demos.hdf5"
    with writing(path, {}) as writer:
        for demo in demonstrations():
            writer.add(demo)
    settings = CHEAP | {"batch_size": 16, "demo_share": 0.25, "action_scale": 5.0}
    env, algorithm = build(**settings, dataset=str(path))
    algorithm.train_mode()
    collect(env, algorithm, env.get_observations(), 8)
    algorithm._set_rewards()
    rewards = torch.cat((algorithm.replay.rewards(), *(demo.rewards[:-1] for demo in demonstrations())))
    assert algorithm.world_model.reward_scale.item() == pytest.approx(rewards.std(correction=0).item())
    batches = []
    algorithm._step = lambda batch, kind: batches.append(batch)
    train(env, algorithm, 256)
    assert len(batches) > 2
    for batch in batches:
        seen = batch.obs["policy"][:, 0]
        assert (seen[12:, 0] == seen[12:, 1]).all() and not (seen[:12, 0] == seen[:12, 1]).any()


def test_demonstrations_of_another_robot_are_refused(tmp_path: Path):
    path = tmp_path / "demos.hdf5"
    with writing(path, {}) as writer:
        for demo in demonstrations():
            writer.add(demo._replace(actions=demo.actions.repeat(1, 3)))
    _, algorithm = build(**CHEAP, dataset=str(path))
    with pytest.raises(ValueError, match=r"have actions of shape \(3,\); allowed here: \(1,\)"):
        algorithm.train_mode()


@pytest.mark.parametrize("demo_coef, learned", [(100.0, True), (0.0, False)])
def test_the_prior_learns_demonstrated_actions(tmp_path: Path, demo_coef: float, learned: bool):
    path = tmp_path / "demos.hdf5"
    with writing(path, {}) as writer:
        for demo in demonstrations():
            writer.add(demo)
    settings = CHEAP | {"demo_coef": demo_coef, "action_scale": 5.0}
    env, algorithm = build(**settings, dataset=str(path))
    algorithm.train_mode()
    collect(env, algorithm, env.get_observations(), 16)
    model, obs = algorithm.world_model, torch.cat([demo.obs["policy"] for demo in demonstrations()])
    wanted = torch.cat([demo.actions for demo in demonstrations()]) / 5.0
    for _ in range(100):
        algorithm._update_once()
    with torch.no_grad():
        error = (model.pi(model.encode(obs)) - wanted).square().mean().item()
    assert (error < 0.02) == learned, error
