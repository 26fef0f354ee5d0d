"""Replay: sub-sequences stay within their episode and end with its true last observation."""

import time

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from difftori_isaac.learners.replay import ReplayBuffer

NUM_ENVS = 3


class Counters:
    """Environments whose observation is (environment, episode, step) and whose action repeats it."""

    def __init__(self, buffer_rows, **settings):
        self.episode, self.step = torch.zeros(2, NUM_ENVS)
        self.replay = ReplayBuffer(self.obs(), 3, capacity=buffer_rows * NUM_ENVS, device="cpu", **settings)

    def obs(self):
        return TensorDict({"policy": self.state()}, [NUM_ENVS])

    def state(self):
        return torch.stack((torch.arange(NUM_ENVS).float(), self.episode, self.step), dim=1)

    def advance(self, dones, truncated, skip=None):
        actions = self.state()
        self.step = self.step + 1
        final_obs = self.obs()
        self.episode, self.step = self.episode + dones, torch.where(dones, 0.0, self.step)
        rewards = actions[:, 2]
        self.replay.add(actions, rewards, self.obs(), dones=dones, truncated=truncated, final_obs=final_obs, skip=skip)


def mask(values):
    return st.lists(values, min_size=NUM_ENVS, max_size=NUM_ENVS).map(torch.tensor)


STEPS = st.lists(st.tuples(mask(st.sampled_from((0, 0, 1, 2))), mask(st.sampled_from((False,) * 5 + (True,)))))


@settings(max_examples=60, deadline=None)
@given(steps=STEPS.filter(lambda steps: len(steps) > 2), rows=st.integers(6, 40), length=st.integers(1, 4))
def test_a_sub_sequence_is_a_piece_of_one_episode(steps, rows, length):
    counters, terminations, skipped = Counters(rows), set(), set()
    for end, skip in steps:
        where = counters.state().int().tolist()
        terminations |= {tuple(where[i]) for i in range(NUM_ENVS) if end[i] == 1}
        skipped |= {tuple(where[i]) for i in range(NUM_ENVS) if skip[i]}
        counters.advance(end > 0, end == 2, skip)
    batch = counters.replay.sample(64, length)
    obs, valid = batch.obs["policy"], batch.valid.bool()
    assert (valid[:, 1:] <= valid[:, :-1]).all(), "what follows the end of an episode is not valid"
    for k in range(length):
        before, after, ok = obs[:, k], obs[:, k + 1], valid[:, k]
        assert torch.equal(batch.actions[ok, k], before[ok])
        assert torch.equal(after[ok], before[ok] + torch.tensor([0.0, 0.0, 1.0])), "the true next observation"
        assert torch.equal(batch.rewards[ok, k], before[ok, 2])
        for row, terminated in zip(before[ok].int().tolist(), batch.terminated[ok, k].tolist(), strict=True):
            assert terminated == (tuple(row) in terminations)
            assert tuple(row) not in skipped


def test_every_stored_step_is_drawn_and_nothing_else():
    counters, none = Counters(8), torch.zeros(NUM_ENVS, dtype=torch.bool)
    for step in range(19):
        counters.advance(none | (step % 5 == 4), none)
    batch = counters.replay.sample(4000, 1)
    drawn = {tuple(row) for row in batch.obs["policy"][batch.valid[:, 0] > 0, 0].int().tolist()}
    newest = [(env, *divmod(step, 5)) for env in range(NUM_ENVS) for step in range(13, 19)]
    assert drawn == set(newest), "eight rows hold the last six steps, a last observation and the newest one"
    assert (batch.valid[:, 0] > 0).float().mean() > 0.99


def test_priorities_decide_how_often_a_step_is_drawn():
    torch.manual_seed(0)
    counters, none = Counters(12, priority_alpha=1.0, priority_beta=1.0), torch.zeros(NUM_ENVS, dtype=torch.bool)
    for _ in range(8):
        counters.advance(none, none)
    replay = counters.replay
    batch = replay.sample(2000, 1)
    assert batch.valid.all() and batch.weights.allclose(torch.ones(2000)), "new steps are all alike"
    replay.update_priorities(batch.index, 1.0 + 3.0 * (batch.obs["policy"][:, 0, 2] == 2.0))
    batch = replay.sample(8000, 1)
    special = batch.obs["policy"][:, 0, 2] == 2.0
    assert special.float().mean().item() == pytest.approx(4 / 11, abs=0.03)
    assert batch.weights[special].unique().tolist() == pytest.approx([0.25], rel=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_saved_buffer_draws_the_same(alpha):
    none = torch.zeros(NUM_ENVS, dtype=torch.bool)
    counters, other = (Counters(10, priority_alpha=alpha) for _ in range(2))
    for step in range(13):
        counters.advance(none | (step == 6), none)
    other.replay.load_state_dict(counters.replay.state_dict())
    batches = []
    for replay in (counters.replay, other.replay):
        torch.manual_seed(3)
        batches.append(replay.sample(32, 2))
    assert torch.equal(batches[0].obs["policy"], batches[1].obs["policy"])
    assert len(other.replay) == len(counters.replay) == 10 * NUM_ENVS


def test_what_was_saved_without_priorities_is_drawn_with_them():
    counters, none = Counters(10), torch.zeros(NUM_ENVS, dtype=torch.bool)
    for _ in range(4):
        counters.advance(none, none)
    restored = Counters(10, priority_alpha=1.0).replay
    restored.load_state_dict(counters.replay.state_dict())
    restored.restart(counters.obs())
    torch.manual_seed(0)
    batch = restored.sample(300, 1)
    assert batch.valid.all() and batch.obs["policy"][:, 0, 2].unique().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_buffer_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="has 10 rows of 3 environments; allowed: 12 rows"):
        Counters(12).replay.load_state_dict(Counters(10).replay.state_dict())
    with pytest.raises(ValueError, match="buffer_capacity is 9; allowed: at least 4"):
        Counters(3)


def num_bytes(replay: ReplayBuffer) -> int:
    return sum(value.nbytes for value in replay.rows.values())


def test_a_buffer_larger_than_the_memory_is_refused():
    obs = TensorDict({"pixels": torch.zeros(4, 9, 84, 84, dtype=torch.uint8)}, [4])
    with pytest.raises(
        ValueError, match=r"is 1000000000, .*; allowed on cpu: at most .* GiB, and .*=\d+ leaves"
    ) as error:
        ReplayBuffer(obs, 3, capacity=10**9, device="cpu")
    suggested = int(str(error.value).rsplit("=", 1)[1].split()[0])
    assert num_bytes(ReplayBuffer(obs, 3, capacity=suggested, device="cpu")) < psutil.virtual_memory().available


def test_memory_is_taken_as_rows_are_written():
    process, obs = psutil.Process(), TensorDict({"pixels": torch.full((4, 9, 84, 84), 7, dtype=torch.uint8)}, [4])
    before = process.memory_info().rss
    replay = ReplayBuffer(obs, 3, capacity=20_000, device="cpu", priority_alpha=0.6)
    none = torch.zeros(4, dtype=torch.bool)
    for _ in range(3):
        replay.add(torch.zeros(4, 3), torch.zeros(4), obs, dones=none, truncated=none)
    assert replay.sample(8, 8).obs["pixels"].unique().tolist() == [0, 7], "what was never written is 0"
    replay.load_state_dict(replay.state_dict())
    assert process.memory_info().rss - before < 0.1 * num_bytes(replay)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_sample_of_a_million_steps_takes_milliseconds(alpha):
    obs = TensorDict({"policy": torch.zeros(64, 30)}, [64])
    replay = ReplayBuffer(obs, 6, capacity=1_000_000, device="cpu", priority_alpha=alpha)
    replay.rows["step"][:], replay.written[:] = True, 1_000_000
    replay.priorities.fill_(1.0)
    times = []
    for _ in range(10):
        start = time.process_time()
        assert replay.sample(256, 5).valid.all()
        times.append(time.process_time() - start)
    assert min(times) < (10e-3 if alpha else 3e-3)


def test_rows_in_host_memory_are_not_locked_there_for_a_gpu():
    obs = TensorDict({"policy": torch.zeros(NUM_ENVS, 2)}, [NUM_ENVS])
    replay = ReplayBuffer(obs, 1, capacity=8 * NUM_ENVS, device="cuda", storage_device="cpu")
    assert not any(value.is_pinned() for value in replay.rows.values())
