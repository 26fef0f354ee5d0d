"""Training in two processes on the real cart-pole; run as a script, this file is one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.distributed import ALONE, World
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.scripts.train import main as train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
SMALL = ("task=Cartpole", "num_envs=4", "learner.num_steps_per_env=8", "device=cpu", "logger=none", "save_interval=1")
KEEP = "keep_checkpoints=1000"


def test_how_it_was_started_and_what_was_asked_for_must_agree():
    alone, several = TrainConfig(task="any"), TrainConfig(task="any", distributed=True)
    pair = World(launched=True, rank=1, local_rank=1, size=2)
    ALONE.check(alone)
    pair.check(several)
    with pytest.raises(ConfigError, match="not started by torchrun; allowed: torchrun --nproc_per_node"):
        ALONE.check(several)
    with pytest.raises(ConfigError, match="torchrun started 2 processes; allowed: distributed=true"):
        pair.check(alone)
    with pytest.raises(ConfigError, match="learner is model_based; allowed with distributed=true: ppo"):
        pair.check(TrainConfig(task="any", distributed=True, learner=ModelBasedConfig()))
    with pytest.raises(ConfigError, match="device is cuda:1; allowed with distributed=true: auto, cuda"):
        pair.device_of("cuda:1")
    assert pair.device_of("cpu") == "cpu"


def test_every_process_has_a_seed_of_its_own_that_is_allowed():
    pair = World(launched=True, rank=1, local_rank=1, size=2)
    assert [pair.seed_of(seed) for seed in (0, 2**32 - 1)] == [1, 0]
    assert ALONE.seed_of(2**32 - 1) == 2**32 - 1


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen([*TORCHRUN, *arguments], cwd=folder, stdout=log, stderr=log)


def send(number: signal.Signals, rank: int, folder: Path, iteration: int, process: subprocess.Popen) -> None:
    """Sends a signal to one rank once both have done an iteration."""
    while not (checkpoints.folder(folder / "run") / f"checkpoint_{iteration:07d}.pt").exists():
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.01)
    os.kill(int((folder / f"pid_{rank}").read_text()), number)


def iterations(folder: Path) -> list[int]:
    return [int(row["iteration"]) for row in read_metrics(folder / "run" / "metrics.csv")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of which rank 1 got SIGKILL after two iterations."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder, *SMALL, KEEP, "distributed=true", "run_dir=run", "max_iterations=1000")
    send(signal.SIGKILL, 1, folder, 2, process)
    assert process.wait(timeout=120) != 0
    return folder


@pytest.mark.sim
@pytest.mark.slow
def test_ranks_learn_one_policy_from_different_rollouts(killed: Path):
    done = len(checkpoints.numbered(killed / "run"))
    assert done >= 2
    for iteration in range(done):
        first, other = (torch.load(killed / f"rank_{rank}_{iteration}.pt") for rank in range(2))
        assert not torch.equal(first.pop("observations"), other.pop("observations"))
        for key in first:
            assert torch.equal(first[key], other[key]), (iteration, key)
    rows = read_metrics(killed / "run" / "metrics.csv")
    assert [int(row["env_steps"]) for row in rows[:2]] == [2 * 4 * 8, 2 * 2 * 4 * 8]


@pytest.mark.sim
@pytest.mark.slow
def test_a_lost_rank_ends_the_job_which_resumes_and_stops_as_one(killed: Path):
    log = (killed / "log.txt").read_text()
    assert log.count("error: rank 0 of 2 lost another one") == 1 and "resume=latest run_dir=run" in log
    saved = checkpoints.load(checkpoints.find(killed / "run", "latest"))
    assert len(saved.others) == 1 and not torch.equal(saved.rng["torch"], saved.others[0]["rng"]["torch"])

    process = start(killed, "task=Cartpole", "run_dir=run", "resume=latest")
    send(signal.SIGTERM, 1, killed, saved.iteration + 1, process)
    assert process.wait(timeout=120) == 0
    last = iterations(killed)[-1]
    assert iterations(killed) == list(range(1, last + 1)) and last > saved.iteration
    assert checkpoints.load(checkpoints.find(killed / "run", "latest")).iteration == last
    assert f"SIGTERM: saved iteration {last} of 1000" in (killed / "log.txt").read_text()


@pytest.mark.sim
@pytest.mark.slow
def test_one_process_goes_on_where_two_were(killed: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(killed)
    resume = "resume=run/checkpoints/checkpoint_0000002.pt"
    assert train([resume, "run_dir=alone", "max_iterations=3"]) == 2
    assert "this process was not started by torchrun" in capsys.readouterr().err
    assert train([resume, "run_dir=alone", "max_iterations=3", "distributed=false"]) == 0
    assert "was saved by 2 processes, now there are 1" in capsys.readouterr().out
    assert [int(row["env_steps"]) for row in read_metrics(Path("alone/metrics.csv"))] == [64, 128, 160]


if __name__ == "__main__":
    from difftori_isaac.learners.ppo import TrajOptPPO

    rank, update, count = os.environ["RANK"], TrajOptPPO.update, 0

    def recorded_update(alg: TrajOptPPO) -> dict[str, float]:
        global count
        losses = update(alg)
        state = dict(alg.actor.state_dict(prefix="actor.")) | dict(alg.critic.state_dict(prefix="critic."))
        torch.save(state | {"observations": alg.storage.observations["policy"]}, f"rank_{rank}_{count}.pt")
        count += 1
        return losses

    Path(f"pid_{rank}").write_text(str(os.getpid()), encoding="utf-8")
    TrajOptPPO.update = recorded_update
    sys.exit(train(sys.argv[1:]))
