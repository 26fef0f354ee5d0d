"""The scripts on the real cart-pole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml

from difftori_isaac.run import build
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.compose import parse
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.configure import configure
from difftori_isaac.run.loop import TrainingRun
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.scripts.evaluate import main as evaluate
from difftori_isaac.scripts.play import main as play
from difftori_isaac.scripts.plot import main as plot
from difftori_isaac.scripts.train import main as train

pytestmark = pytest.mark.sim

TRAIN_SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
SMALL = ("task=Cartpole", "num_envs=8", "learner.num_steps_per_env=12", "device=cpu", "save_interval=1", "logger=none")
TIMES = ("wall_time_s", "env_steps_per_s")


def start_training(folder: Path, *arguments: str) -> subprocess.Popen:
    log = (folder / "log.txt").open("w")
    return subprocess.Popen([sys.executable, TRAIN_SCRIPT, *arguments], cwd=folder, stdout=log, stderr=log)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, (Path(str(process.args[1])), path)
        time.sleep(0.002)


def numbers(run_dir: Path) -> list[dict[str, str]]:
    return [
        {key: value for key, value in row.items() if key not in TIMES} for row in read_metrics(run_dir / "metrics.csv")
    ]


def assert_same(first, second) -> None:
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that got SIGKILL once it had saved its second iteration."""
    folder = tmp_path_factory.mktemp("killed")
    process = start_training(folder, *SMALL, "run_dir=run", "max_iterations=1000", "keep_checkpoints=1000")
    wait_for(folder / "run" / "checkpoints" / "checkpoint_0000002.pt", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return folder / "run"


def test_two_resumes_of_a_killed_run_are_identical(killed: Path, tmp_path: Path):
    in_place = tmp_path / "run"
    shutil.copytree(killed, in_place)
    second = checkpoints.folder(in_place) / "checkpoint_0000002.pt"
    process = start_training(tmp_path, f"resume={second}", "max_iterations=4")
    forked = tmp_path / "forked"
    original = checkpoints.folder(killed) / "checkpoint_0000002.pt"
    assert process.wait(timeout=300) == 0, (tmp_path / "log.txt").read_text()
    assert train([f"resume={original}", f"run_dir={forked}", "max_iterations=4"]) == 0

    for run_dir in (in_place, forked):
        assert [row["iteration"] for row in numbers(run_dir)] == ["1", "2", "3", "4"]
        assert checkpoints.find(run_dir, "latest").name == "checkpoint_0000004.pt"
        assert yaml.safe_load((run_dir / "config.yaml").read_text())["max_iterations"] == 4
    assert numbers(in_place)[:2] == numbers(killed)[:2]
    assert numbers(in_place) == numbers(forked)
    first, other = (checkpoints.load(checkpoints.find(run_dir, "latest")) for run_dir in (in_place, forked))
    for name in ("learner", "learning_rate", "rng", "env", "episodes", "env_steps"):
        assert_same(getattr(first, name), getattr(other, name))
    assert len(json.loads((in_place / "run.json").read_text())["starts"]) == 2


def test_learner_after_loading_is_the_saved_one(killed: Path):
    path = checkpoints.folder(killed) / "checkpoint_0000002.pt"
    config, start = configure(parse([f"resume={path}"], TrainConfig))
    assert start is not None and config.num_envs == 8
    with closing(build.make_environment(config)) as env:
        run = TrainingRun(config, env, start)
        assert_same(start.learner, run.alg.save())
        assert_same(start.rng, checkpoints.rng_state())
        assert_same(start.env, env.state_dict())
        assert run.alg.learning_rate == start.learning_rate
        assert (run.iteration, run.env_steps) == (2, 2 * 8 * 12)


def test_sigterm_saves_and_exits_cleanly(tmp_path: Path):
    process = start_training(tmp_path, *SMALL, "policy=mlp", "run_dir=run", "save_interval=1000", "seed=1")
    wait_for(tmp_path / "run" / "metrics.csv", process)
    while not numbers(tmp_path / "run"):
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 0
    last = numbers(tmp_path / "run")[-1]["iteration"]
    assert checkpoints.load(checkpoints.find(tmp_path / "run", "latest")).iteration == int(last)
    log = (tmp_path / "log.txt").read_text()
    assert f"SIGTERM: saved iteration {last} of" in log and "resume=latest run_dir=run" in log
    assert "report written to run/report.html" in log and (tmp_path / "run" / "report.html").is_file()
    assert "Traceback" not in log


def test_sigint_saves_and_a_resume_goes_on(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    metrics = Path("run/metrics.csv")

    def interrupt() -> None:
        while not (metrics.exists() and numbers(metrics.parent)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert train([*SMALL, "policy=mlp", "run_dir=run"]) == 0
    thread.join()
    assert "SIGINT: saved iteration" in capsys.readouterr().out
    done = int(numbers(Path("run"))[-1]["iteration"])
    arguments = ["task=Cartpole", "policy=mlp", "run_dir=run", "resume=latest"]
    assert train([*arguments, f"max_iterations={done + 1}"]) == 0
    assert [int(row["iteration"]) for row in numbers(Path("run"))] == list(range(1, done + 2))
    assert train([*arguments, f"max_iterations={done}"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_same_seed_same_numbers(in_tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train([*SMALL, f"run_dir={name}", f"seed={seed}", "max_iterations=2"]) == 0
    assert numbers(Path("a")) == numbers(Path("b")) != numbers(Path("c"))


def test_evaluate_writes_a_reproducible_result(killed: Path, in_tmp_path: Path):
    for name in ("first.json", "second.json"):
        assert evaluate([f"run_dir={killed}", "num_episodes=5", "num_envs=4", "device=cpu", f"output={name}"]) == 0
    result = json.loads(Path("first.json").read_text(encoding="utf-8"))
    assert result == json.loads(Path("second.json").read_text(encoding="utf-8"))
    assert (result["task"], result["policy"], result["num_episodes"]) == ("Cartpole", "trajopt", 5)
    low, high = result["return"]["interval_95"]
    assert low < result["return"]["mean"] < high and result["return"]["std"] > 0
    assert result["nonfinite_episodes"] == 0 and result["success_rate"] is not None


def test_evaluating_all_checkpoints_gives_what_each_gives_alone(killed: Path, in_tmp_path: Path):
    arguments = ["num_episodes=3", "num_envs=2", "device=cpu"]
    run = Path(shutil.copytree(killed, "run"))
    paths = checkpoints.numbered(run)
    assert evaluate([f"run_dir={run}", "checkpoint=all", *arguments]) == 0
    rows = read_metrics(run / "eval.csv")
    assert [f"checkpoint_{int(row['iteration']):07d}.pt" for row in rows] == [path.name for path in paths]
    for row, path in zip(rows[:2], paths[:2], strict=True):
        assert evaluate([f"checkpoint={path}", *arguments]) == 0
        alone = json.loads((run / "eval.json").read_text())
        assert float(row["mean_return"]) == alone["return"]["mean"]
        assert float(row["mean_episode_length"]) == alone["episode_length"]["mean"]
        assert int(row["env_steps"]) == alone["env_steps"]
    assert plot([f"runs={run}", "file=eval.csv", "output=curve.png"]) == 0
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


def test_play_films_a_policy(killed: Path, in_tmp_path: Path):
    import imageio.v3 as imageio

    arguments = ["device=cpu", "num_steps=5", "video=true"]
    assert play([f"checkpoint={killed}", *arguments, "video_path=trained.mp4"]) == 0
    assert play(["task=Cartpole", "policy=random", *arguments, "video_path=new/random.mp4"]) == 0
    for path in ("trained.mp4", "new/random.mp4"):
        frames = imageio.imread(path, plugin="FFMPEG")
        assert frames.shape == (5, 480, 640, 3) and frames.std() > 1


def test_nonfinite_physics_is_counted_and_stops_training_with_a_saved_state(
    in_tmp_path: Path, capsys: pytest.CaptureFixture
):
    arguments = [*SMALL, "policy=mlp", "max_iterations=2", "env.action_scale=1e38"]
    assert train([*arguments, "run_dir=contained", "learner.max_nonfinite_share=1"]) == 0
    assert all(int(row["nonfinite_envs"]) > 0 for row in numbers(Path("contained")))
    assert train([*arguments, "run_dir=stopped"]) == 1
    assert "of 8 environments gave NaN or Inf in iteration 1; allowed: 1, by" in capsys.readouterr().err
    assert checkpoints.load(checkpoints.find(Path("stopped"), "latest")).iteration == 1


def test_bad_isaac_lab_input_is_one_line(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    for argument in ("env.sim.dtt=0.1", "physics=bullet", "env.sim.dt=fast"):
        assert train([*SMALL, argument]) == 2
        text = capsys.readouterr().err
        assert "error: " in text and argument.partition("=")[0] in text and "Traceback" not in text
    assert not Path("runs").exists()
