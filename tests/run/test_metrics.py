from __future__ import annotations

import statistics
import warnings
from collections import deque
from pathlib import Path

import pytest
import torch

from difftori_isaac.run import metrics
from difftori_isaac.run.config import TrainConfig, WandbConfig
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.metrics import (
    COLUMNS,
    EpisodeStatistics,
    MetricsFile,
    TensorBoardWriter,
    make_writer,
    merged,
    read_metrics,
)


def no_success(extras):
    return None


def rsl_rl_window(rewards: torch.Tensor, dones: torch.Tensor) -> tuple[float, float]:
    """rsl_rl's bookkeeping, step by step."""
    returns, lengths = deque(maxlen=100), deque(maxlen=100)
    total, length = torch.zeros(2, rewards.shape[1])
    for reward, done in zip(rewards, dones, strict=True):
        total, length = total + reward, length + 1
        ended = done.nonzero().flatten()
        returns.extend(total[ended].tolist())
        lengths.extend(length[ended].tolist())
        total[ended], length[ended] = 0, 0
    return statistics.mean(returns), statistics.mean(lengths)


def test_window_is_rsl_rls():
    torch.manual_seed(0)
    rewards, dones = torch.randn(60, 16), torch.rand(60, 16) < 0.15
    episodes = EpisodeStatistics(16, "cpu", no_success)
    for start in range(0, 60, 20):
        with torch.inference_mode():
            for step in range(start, start + 20):
                episodes.step(rewards[step], dones[step].long(), {})
        row, _ = episodes.summary()
    expected = rsl_rl_window(rewards, dones)
    assert (row["mean_return"], row["mean_episode_length"]) == pytest.approx(expected, rel=1e-5)


def test_first_episodes_which_began_at_a_random_age_do_not_compare():
    """Episodes of 50 steps at a reward of -10 return -500; the first ones are shorter, also after a resume."""
    ages = torch.arange(10) * 5

    def fed(episodes: EpisodeStatistics, num_steps: int) -> float | None:
        for step in range(num_steps):
            episodes.step(torch.full((10,), -10.0), (ages + step + 1) % 50 == 0, {})
        episodes.summary()
        return episodes.whole_return

    first, second = (EpisodeStatistics(10, "cpu", no_success, max_episode_length=50) for _ in range(2))
    assert fed(first, 550) is None and fed(first, 50) == -500.0
    second.load_state_dict(first.state_dict())
    assert fed(second, 100) is None and fed(second, 50) == -500.0


def test_episodes_that_end_first_because_they_are_short_do_not_compare():
    """A reward of -10 a step, and falls: at first, the last 100 episodes are short, and their return far too high."""
    torch.manual_seed(0)
    ages, returns = torch.randint(50, (1000,)), []
    episodes = EpisodeStatistics(1000, "cpu", no_success, max_episode_length=50)
    for _ in range(400):
        ages += 1
        done = (ages >= 50) | (torch.rand(1000) < 0.005)
        episodes.step(torch.full((1000,), -10.0), done, {})
        episodes.summary()
        ages[done] = 0
        returns.append(episodes.whole_return)
    assert returns[:100] == [None] * 100
    assert max(returns[120:]) < -350.0 and sum(returns[120:]) / 280 == pytest.approx(-443.0, abs=5.0)


def test_the_environment_may_log_a_value_for_each_of_its_copies():
    episodes = EpisodeStatistics(2, "cpu", no_success)
    logged = {"height": torch.tensor([1.0, 3.0]), "weight": 0.25, "speeds": [1, 2], "name": "a"}
    episodes.step(torch.ones(2), torch.tensor([1, 1]), {"log": logged})
    assert episodes.summary()[1] == {"height": 2.0, "weight": 0.25, "speeds": 1.5}


def test_no_finished_episode_means_empty_cells():
    episodes = EpisodeStatistics(2, "cpu", no_success)
    episodes.step(torch.ones(2), torch.tensor([1, 0]), {})
    episodes.summary()
    episodes.step(torch.ones(2), torch.zeros(2), {})
    row, log = episodes.summary()
    assert row["mean_return"] is None and row["success_rate"] is None and log == {}


def test_environment_log_is_weighted_by_ended_episodes():
    episodes = EpisodeStatistics(4, "cpu", lambda extras: extras["log"].get("success_rate"))
    for dones, rate in (([1, 1, 1, 0], 1.0), ([0, 0, 0, 1], 0.0), ([0, 0, 0, 0], 0.5)):
        log = {"success_rate": rate, "Episode_Reward/lift": torch.tensor(rate)}
        episodes.step(torch.zeros(4), torch.tensor(dones), {"log": log})
    row, log = episodes.summary()
    assert row["success_rate"] == 0.75
    assert log == {"Episode_Reward/lift": 0.75}


def test_environment_log_leaves_nonfinite_episodes_out():
    episodes = EpisodeStatistics(4, "cpu", lambda extras: extras["log"]["success_rate"])
    for nonfinite, rate in (([0, 0, 0, 0], 1.0), ([1, 1, 1, 0], 0.0), ([1, 1, 1, 1], 0.0)):
        mask = torch.tensor(nonfinite).bool()
        episodes.step(torch.zeros(4), torch.ones(4), {"log": {"success_rate": rate, "height": rate}, "nonfinite": mask})
    row, log = episodes.summary()
    assert row["success_rate"] == log["height"] == 0.8


def test_nonfinite_environments_are_counted_once_per_iteration():
    episodes = EpisodeStatistics(3, "cpu", no_success)
    for mask in ([True, False, False], [True, True, False]):
        with torch.inference_mode():
            episodes.step(torch.zeros(3), torch.zeros(3), {"nonfinite": torch.tensor(mask)})
    assert episodes.summary()[0]["nonfinite_envs"] == 2
    episodes.step(torch.zeros(3), torch.zeros(3), {})
    assert episodes.summary()[0]["nonfinite_envs"] == 0


def test_window_survives():
    first, second = (EpisodeStatistics(1, "cpu", no_success) for _ in range(2))
    for value in (1.0, 3.0):
        first.step(torch.tensor([value]), torch.ones(1), {})
        first.summary()
    second.load_state_dict(first.state_dict())
    second.step(torch.tensor([5.0]), torch.ones(1), {})
    assert second.summary()[0]["mean_return"] == 3.0


def row(iteration: int, **more):
    return dict.fromkeys(COLUMNS) | {"iteration": iteration, "mean_return": iteration / 3} | more


def test_processes_report_what_one_with_all_environments_would():
    torch.manual_seed(0)
    rewards, dones = torch.randn(30, 6), torch.rand(30, 6) < 0.1
    successes = torch.rand(30, 6)

    def fed(columns: slice, gather=lambda collected: [collected]) -> tuple[dict, dict]:
        def success(extras):
            return extras["log"]["success"]

        episodes = EpisodeStatistics(rewards[:, columns].shape[1], "cpu", success, gather)
        for reward, done, rate in zip(rewards[:, columns], dones[:, columns], successes[:, columns], strict=True):
            log = {"success": rate[done].mean().item()} if done.any() else {"success": None}
            episodes.step(reward, done, {"log": log, "nonfinite": reward > 2.0})
        return episodes.summary()

    parts: list = []
    fed(slice(0, 2), lambda collected: [parts.append(collected) or collected])
    row, log = fed(slice(2, 6), lambda collected: [*parts, collected])
    expected, expected_log = fed(slice(0, 6))
    assert row == pytest.approx(expected) and log == pytest.approx(expected_log)
    assert row["nonfinite_envs"] == int((rewards > 2.0).any(dim=0).sum()) > 0


def test_failures_are_added_up_and_losses_averaged():
    losses = [{"value": 1.0, "solver_failures": 3.0}, {"value": 2.0, "solver_failures": 1.0}]
    assert merged(losses) == {"value": 1.5, "solver_failures": 4.0}
    assert merged(losses[:1]) == losses[0]


def test_what_a_process_leaves_out_is_averaged_over_the_others():
    losses = [{"value": 1.0}, {"value": 2.0, "reward_error": 0.5}, {"value": 3.0, "reward_error": 1.5}]
    assert merged(losses) == {"value": 2.0, "reward_error": 1.0}


def test_rows_after_the_resumed_iteration_are_cut(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path, keep_until=0)
    for iteration in range(1, 5):
        file.write(row(iteration, value=0.1))
    with path.open("a") as stream:
        stream.write("5,0.12")  # killed while writing
    file = MetricsFile(path, keep_until=2)
    file.write(row(3, value=0.3, model_reward=0.5))
    file.write(row(4, value=0.4, model_reward=0.6))
    rows = read_metrics(path)
    assert [item["iteration"] for item in rows] == ["1", "2", "3", "4"]
    assert [item["model_reward"] for item in rows] == ["", "", "0.5", "0.6"]
    assert rows[0]["success_rate"] == "" and float(rows[2]["mean_return"]) == 1.0


def test_full_disk_is_one_line(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.csv", keep_until=0)
    file.path = Path("/dev/full")
    with pytest.raises(RunError, match="cannot write /dev/full: No space left on device"):
        file.write(row(1))


def test_tensorboard_goes_on_after_a_resume(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start in (0, 1):
        writer = TensorBoardWriter(tmp_path, start)
        for iteration in (start + 1, start + 2):
            writer.write({"train/mean_return": float(iteration)}, iteration)
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/mean_return")] == [1, 2, 3]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
def test_a_full_disk_ends_tensorboard_alone(tmp_path: Path, full_disk):
    writer = TensorBoardWriter(tmp_path, 0)
    with full_disk(), pytest.warns(UserWarning, match="TensorBoard cannot write .File too large.; .* metrics.csv has"):
        for iteration in range(1, 1000):
            writer.write({"train/mean_return": float(iteration)}, iteration)
    writer.close()


def test_every_run_has_one_id_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ids: list[str] = []
    monkeypatch.setattr("wandb.init", lambda **options: ids.append(options["id"]))
    config = TrainConfig(task="Cartpole", logger="wandb")
    first, second, moved = (tmp_path / name / "seed=1" for name in ("a", "b", "c"))
    for run_dir in (first, second, first):
        run_dir.mkdir(parents=True, exist_ok=True)
        make_writer(config, run_dir, 0)
    moved.parent.mkdir()
    make_writer(config, first.rename(moved), 0)
    assert ids[0] != ids[1] and ids[2] == ids[3] == ids[0]
    (moved / "wandb" / "id").write_text("")  # by a full disk
    (second / "wandb" / "id").unlink()
    (second / "wandb").rmdir()
    (second / "wandb").touch()
    for run_dir in (moved, second):
        make_writer(config, run_dir, 0)
    assert all(ids) and len(set(ids)) == 4


def test_a_tensorboard_that_cannot_be_opened_does_not_end_a_run(tmp_path: Path):
    (tmp_path / "tensorboard").write_bytes(b"no folder")
    with pytest.warns(
        UserWarning, match="TensorBoard cannot write .File exists.; there are no curves, metrics.csv has"
    ):
        writer = TensorBoardWriter(tmp_path, 0)
    writer.write({"train/mean_return": 1.0}, 1)
    writer.close()


def test_unreachable_wandb_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(metrics, "WANDB_TIMEOUT_S", 1)
    config = TrainConfig(task="Cartpole", logger="wandb", wandb=WandbConfig(mode="online"))
    with pytest.warns(UserWarning, match="wandb cannot be reached .* logging offline to"):
        writer = make_writer(config, tmp_path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.write({"train/mean_return": 1.0}, 1)
        writer.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
