"""The scripts on the DeepMind Control suite, which starts in no time."""

import json
import os
import shlex
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import yaml

from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.envs.gymnasium_vec_env import GymnasiumVecEnv
from difftori_isaac.run import build, lock
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.compose import parse, quoted
from difftori_isaac.run.config import TrainConfig
from difftori_isaac.run.configure import configure
from difftori_isaac.run.loop import TrainingRun
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.run.play import _append, _open_video
from difftori_isaac.scripts.evaluate import main as evaluate
from difftori_isaac.scripts.play import main as play
from difftori_isaac.scripts.plot import main as plot
from difftori_isaac.scripts.train import main as train

SMALL = (
    "task=cartpole-swingup",
    "policy=mlp",
    "num_envs=3",
    "env.num_workers=1",
    "env.episode_steps=20",
    "learner.num_steps_per_env=12",
    "device=cpu",
    "save_interval=1",
    "logger=none",
)


def test_train_resume_and_evaluate(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train([*SMALL, "run_dir=run", "max_iterations=2"]) == 0
    record = Path("run/run.json")
    whole = record.read_text(encoding="utf-8")
    record.write_text(whole[:-9], encoding="utf-8")
    assert train(["resume=run", "max_iterations=3"]) == 2
    assert "run/run.json is no JSON" in capsys.readouterr().err
    record.write_text(whole, encoding="utf-8")
    metrics = Path("run/metrics.csv")
    numbers = metrics.read_bytes()
    metrics.write_bytes(numbers + b"\xff")
    assert train(["resume=run", "max_iterations=3"]) == 2
    assert "run/metrics.csv is no table" in capsys.readouterr().err
    metrics.write_bytes(numbers)
    assert train(["resume=run", "max_iterations=3"]) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    assert [row["iteration"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["mean_return"]) > 0
    assert 0 < float(rows[-1]["mean_episode_length"]) < 10, "the first episodes begin at random ages"

    assert evaluate(["run_dir=run", "policy=mlp", "num_episodes=4", "device=cpu", "output=eval.json"]) == 0
    result = json.loads(Path("eval.json").read_text(encoding="utf-8"))
    assert (result["task"], result["num_episodes"], result["num_envs"]) == ("cartpole-swingup", 4, 4)
    assert result["episode_length"]["mean"] == 10
    assert 0 < result["return"]["mean"] <= 20 and result["return"]["std"] > 0


def test_runs_that_start_in_the_same_second_lie_apart(in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    for name in ("now_seed0", "now_seed0_2"):
        assert train([*SMALL, "max_iterations=1"]) == 0
        run = Path("runs/cartpole-swingup/mlp") / name
        assert len(read_metrics(run / "metrics.csv")) == 1
        assert yaml.safe_load((run / "config.yaml").read_text())["run_dir"] == str(run)


def test_one_process_trains_a_run(in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with lock.training(Path("run")):
        assert train(["resume=run", "max_iterations=2"]) == 1
        assert "error: another process trains run; wait for it to end" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with lock.training(Path("run")):
        monkeypatch.setattr("fcntl.flock", lambda *_: os.close(-1))  # a file system without locks
        assert train(["resume=run", "max_iterations=2"]) == 0


def test_what_another_process_saves_before_the_lock_is_kept(in_tmp_path: Path, monkeypatch, capsys):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0
    make_environment = build.make_environment

    def slowly(config):
        monkeypatch.setattr(build, "make_environment", make_environment)
        assert train(["resume=run", "max_iterations=3"]) == 0
        return make_environment(config)

    monkeypatch.setattr(build, "make_environment", slowly)
    assert train(["resume=run", "max_iterations=2"]) == 1
    assert "error: another process has trained run since this one began; start again" in capsys.readouterr().err
    assert checkpoints.newest(Path("run")) == 3 and len(read_metrics(Path("run/metrics.csv"))) == 3


@pytest.mark.parametrize("when", ["seed 0", "3/3"])
def test_a_training_goes_on_where_nobody_reads(in_tmp_path: Path, when: str):
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    arguments = [sys.executable, script, *SMALL, "run_dir=run", "max_iterations=3"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert any(f" {when} " in line for line in iter(process.stdout.readline, "")), "its title, or its last row"
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)
    assert checkpoints.load(checkpoints.find(Path("run"), "latest")).iteration == 3
    assert Path("run/report.html").is_file()


@pytest.mark.parametrize(
    ("name", "most", "share", "message"),
    [
        ("solver_failures", 3, 0.1, "4 of 36 plans failed in iteration 1; allowed: 3, by learner.max_nonfinite_share="),
        ("nonfinite_envs", 1, 0.1, "2 of 3 environments gave NaN or Inf in iteration 1; allowed: 1, by"),
        ("nonfinite_envs", 0, 0.0, "1 of 3 environments gave NaN or Inf in iteration 1; allowed: 0, by"),
    ],
)
def test_a_run_stops_with_a_saved_state_once_over_a_tenth_of_its_plans_or_environments_fail(
    name: str, most: int, share: float, message: str, in_tmp_path: Path, monkeypatch, capsys
):
    asked = [*SMALL, f"learner.max_nonfinite_share={share}", "max_iterations=2", "save_interval=9"]
    for failures, status, iterations in ((most, 0, 2), (most + 1, 1, 1)):
        monkeypatch.setattr("difftori_isaac.run.loop.merged", lambda _, count=failures: {name: float(count)})
        run = Path(f"run{status}")
        assert train([*asked, f"run_dir={run}"]) == status
        assert checkpoints.load(checkpoints.find(run, "latest")).iteration == iterations
    assert message in capsys.readouterr().err


def test_what_is_evaluated_is_drawn_with_the_command_that_is_printed(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    run = "o'neil's [sweep]/policy=mlp,seed=1"
    assert train([*SMALL, f"run_dir={quoted(run)}", "max_iterations=2"]) == 0
    command = capsys.readouterr().out.partition("; evaluate with: scripts/evaluate.py ")[2].splitlines()[0]
    asked = (*shlex.split(command), "policy=mlp", "checkpoint=all", "num_episodes=2", "device=cpu")
    assert evaluate([*asked, "output=other.csv"]) == 0
    assert capsys.readouterr().out.endswith("written to other.csv\n")
    assert evaluate(asked) == 0
    command = capsys.readouterr().out.partition(f"written to {run}/eval.csv; draw it with scripts/plot.py ")[2]
    assert plot(shlex.split(command)) == 0 and Path("curves.png").is_file()


def test_checkpoints_that_lie_in_no_run_are_evaluated(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train([*SMALL, "run_dir=run", "max_iterations=2"]) == 0
    Path("run/config.yaml").unlink()
    assert evaluate(["run_dir=run", "checkpoint=all", "num_episodes=1", "device=cpu"]) == 0
    assert capsys.readouterr().out.endswith("written to eval.csv\n")
    assert [row["iteration"] for row in read_metrics(Path("eval.csv"))] == ["1", "2"]


def test_a_plan_is_evaluated_beside_its_prior(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    """Settings of the checkpoint's own learner, which is not the first, are known."""
    model_based = ("task=cartpole-swingup", "learner=model_based", "num_envs=3", "learner.seed_steps=12")
    rest = ("env.num_workers=1", "env.episode_steps=20", "device=cpu", "logger=none", "max_iterations=1")
    assert train([*model_based, *rest, "run_dir=run"]) == 0
    asked = ("run_dir=run", "num_episodes=3", "device=cpu", "output=eval.json")
    returns = []
    for act_with in ("plan", "prior"):
        assert evaluate([*asked, f"learner.act_with={act_with}"]) == 0
        result = json.loads(Path("eval.json").read_text(encoding="utf-8"))
        returns.append(result["return"]["mean"])
    assert returns[0] != returns[1] and result["changed"] == {"learner.act_with": "prior"}
    horizons = []
    for horizon in (1, 2, 4):
        assert evaluate([*asked, f"trajopt.horizon={horizon}"]) == 0
        horizons.append(json.loads(Path("eval.json").read_text(encoding="utf-8"))["return"]["mean"])
    assert len(set(horizons)) == 3  # and not the one step that the schedule has arrived at
    capsys.readouterr()
    assert evaluate([*asked, "learner.gamma=0.9"]) == 2
    assert "learner.gamma is no setting of this learner, 'model_based'" in capsys.readouterr().err


def test_a_run_that_drops_its_losses_stops_with_a_saved_state(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    model_based = ("task=cartpole-swingup", "learner=model_based", "num_envs=3", "learner.seed_steps=12")
    rest = ("env.num_workers=1", "env.episode_steps=20", "device=cpu", "logger=none", "max_iterations=2")
    asked = [*model_based, *rest, "learner.reward_scale=1e-30", "run_dir=run"]
    assert train(asked) == 1
    assert "no loss of the model was finite in iteration 1, so that nothing is learned" in capsys.readouterr().err
    assert checkpoints.load(checkpoints.find(Path("run"), "latest")).iteration == 1


def test_a_run_whose_simulator_fails_stops_with_a_saved_state(in_tmp_path: Path, monkeypatch, capsys):
    step, count = GymnasiumVecEnv.step, iter(range(99))

    def dying(env, actions):
        if next(count) == 30:
            raise SimulatorError("the process of environment 0 died (exit code -9)")
        return step(env, actions)

    monkeypatch.setattr(GymnasiumVecEnv, "step", dying)
    assert train([*SMALL, "run_dir=run", "max_iterations=4", "save_interval=9"]) == 1
    resume = "resume=latest run_dir=run"
    message = "environment 0 died (exit code -9): saved iteration 2 of 4; continue with: scripts/train.py "
    assert capsys.readouterr().err.endswith(f"{message}{resume}\n")
    assert train(resume.split()) == 0
    assert [row["iteration"] for row in read_metrics(Path("run/metrics.csv"))] == ["1", "2", "3", "4"]


def test_a_resume_from_before_the_best_checkpoint_looks_for_a_new_one(in_tmp_path: Path):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0
    run = Path("run")
    first = checkpoints.load(checkpoints.find(run, "latest"))
    for iteration in (1, 5):
        later = replace(first, iteration=iteration, best_return=60.0)
        checkpoints.save(later, run, keep=9, best=iteration == 5)
    (run / "eval.csv").write_text("iteration,mean_return\n1,20\n5,60\n")
    assert train(["resume=run/checkpoints/checkpoint_0000001.pt", "max_iterations=2"]) == 0
    assert [path.name for path in sorted(checkpoints.folder(run).iterdir())] == [
        "checkpoint_0000001.pt",
        "checkpoint_0000002.pt",
    ]
    assert checkpoints.load(checkpoints.find(run, "latest")).best_return is None
    assert (run / "eval.csv").read_text() == "iteration,mean_return\n1,20\n"


def test_a_run_without_metrics_has_branches(in_tmp_path: Path):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0
    Path("run/metrics.csv").unlink()
    assert train(["resume=run/checkpoints/checkpoint_0000001.pt", "run_dir=fork", "max_iterations=2"]) == 0
    assert [row["iteration"] for row in read_metrics(Path("fork/metrics.csv"))] == ["2"]


def test_branches_with_other_seeds_are_other_runs(in_tmp_path: Path):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0

    def branch(name: str, *seed: str) -> str:
        path = checkpoints.folder(Path("run")) / "checkpoint_0000001.pt"
        assert train([f"resume={path}", f"run_dir={name}", *seed, "max_iterations=2"]) == 0
        return read_metrics(Path(name) / "metrics.csv")[-1]["value"]

    unseeded, first = branch("a"), branch("b", "seed=1")
    assert branch("c", "seed=0") == unseeded and branch("d", "seed=1") == first
    assert len({unseeded, first, branch("e", "seed=2")}) == 3
    assert branch("run", "seed=1") == unseeded, "in place, all goes on as it was"


@pytest.mark.parametrize("learner", [("learner.schedule=fixed",), ("learner=model_based", "policy=trajopt")])
def test_a_resume_sets_the_learning_rate_that_is_asked_for(in_tmp_path: Path, learner: tuple[str, ...]):
    small = [*SMALL, "learner.num_steps_per_env=4", *learner]
    small += ["learner.seed_steps=12", "learner.update_to_data=0.1"] if "learner=model_based" in learner else []
    assert train([*small, "run_dir=run", "max_iterations=2"]) == 0
    assert train(["resume=run", "max_iterations=3"]) == 0
    assert train(["resume=run", "max_iterations=4", "learner.learning_rate=1e-5"]) == 0
    assert train(["resume=run", "max_iterations=5"]) == 0
    rates = [float(row["learning_rate"]) for row in read_metrics(Path("run/metrics.csv"))]
    assert rates == [1e-3, 1e-3, 1e-3, 1e-5, 1e-5]
    state = checkpoints.load(checkpoints.find(Path("run"), "latest")).learner["optimizer_state_dict"]
    assert state["param_groups"][0]["lr"] <= 1e-5


def test_a_resume_with_more_environments_takes_the_steps_that_are_left(in_tmp_path: Path):
    model_based = [*SMALL, "policy=trajopt", "learner=model_based", "learner.save_replay=true"]
    steps = ("learner.num_steps_per_env=4", "learner.seed_steps=900", "learner.buffer_capacity=1000")
    assert train([*model_based, *steps, "learner.total_env_steps=24", "run_dir=run"]) == 0
    assert evaluate(["run_dir=run", "num_episodes=2", "num_envs=2", "device=cpu"]) == 0
    more = ("num_envs=6", "learner.total_env_steps=72", "learner.save_replay=false")
    assert train(["resume=run", *more]) == 0
    assert [row["env_steps"] for row in read_metrics(Path("run/metrics.csv"))] == ["12", "24", "48", "72"]


def test_a_resume_with_longer_iterations_takes_fewer_of_them(in_tmp_path: Path):
    model_based = [*SMALL, "policy=trajopt", "learner=model_based", "learner.seed_steps=900"]
    assert train([*model_based, "learner.num_steps_per_env=4", "learner.total_env_steps=36", "run_dir=run"]) == 0
    assert train(["resume=run/checkpoints/checkpoint_0000001.pt", "learner.num_steps_per_env=8"]) == 0
    assert [row["env_steps"] for row in read_metrics(Path("run/metrics.csv"))] == ["12", "36"]


@pytest.mark.parametrize("where", ["run", "fork", "moved"])
def test_episodes_of_another_run_do_not_choose_the_best_checkpoint(where: str, in_tmp_path: Path):
    assert train([*SMALL, "run_dir=run", "max_iterations=1"]) == 0
    path = checkpoints.find(Path("run"), "latest")
    start = checkpoints.load(path)
    start = replace(start, best_return=9.0, episodes=start.episodes | {"whole": [9.0] * 100})
    checkpoints.save(start, Path("run"), keep=1, best=True)
    if where == "moved":
        path = path.rename("start.pt")
    config, start = configure(parse([f"resume={path}", f"run_dir={where}"], TrainConfig))
    with closing(build.make_environment(config)) as env:
        run = TrainingRun(config, env, start)
        kept = run.episodes.state_dict()
        assert kept["window"] == start.episodes["window"] != [], "the mean return goes on"
        assert (len(kept["whole"]), run.best_return) == ((100, 9.0) if where == "run" else (0, None))


@pytest.mark.slow
def test_the_best_checkpoint_does_not_need_an_episode_that_ends_as_it_is_saved(in_tmp_path: Path):
    short = ("num_envs=4", "learner.num_steps_per_env=1", "learner.num_mini_batches=1", "learner.num_learning_epochs=1")
    assert train([*SMALL, *short, "run_dir=run", "max_iterations=276", "save_interval=276"]) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    assert sum(row["mean_return"] == "" for row in rows) > 100 and rows[-1]["mean_return"] == ""
    assert Path("run/checkpoints/best.pt").is_file()


def test_a_video_of_no_frames_leaves_no_file(in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(GymnasiumVecEnv, "step", lambda env, actions: next(iter(())))
    asked = ("task=cartpole-swingup", "policy=random", "env.num_workers=1", "device=cpu", "video=true")
    with pytest.raises(StopIteration):
        play(asked)
    assert not list(Path("videos").iterdir())


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_video_that_cannot_be_written_is_one_line(num_steps: int, in_tmp_path: Path, capsys: pytest.CaptureFixture):
    """A single frame is gone before anything has read it."""
    asked = ("task=cartpole-swingup", "policy=random", "env.num_workers=1", "device=cpu", f"num_steps={num_steps}")
    assert play([*asked, "video=true", "video_path=/proc/x.mp4"]) == 1
    text = capsys.readouterr()
    assert text.err.startswith("error: cannot write the video /proc/x.mp4: ") and text.err.count("\n") == 1
    assert text.err.endswith("; give video_path=<file>.mp4\n") and "video written" not in text.out


@pytest.mark.parametrize("step_dt", [1 / 60, 0.4, 2.5])
def test_a_video_plays_in_real_time(step_dt: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(GymnasiumVecEnv, "step_dt", step_dt)
    path = tmp_path / "video.mp4"
    with closing(_open_video(path, object.__new__(GymnasiumVecEnv))) as film:
        for shade in range(60):
            _append(film, np.full((48, 64, 3), shade, np.uint8), path)
    with closing(imageio.get_reader(path)) as film:
        assert film.get_meta_data()["duration"] == pytest.approx(60 * step_dt, abs=0.03)


@pytest.mark.parametrize("name", ["video", "video.jpg", "video.gif"])
def test_a_video_of_an_unknown_format_is_refused(name: str, in_tmp_path: Path, capsys: pytest.CaptureFixture):
    asked = ("task=cartpole-swingup", "policy=random", "env.num_workers=1", "device=cpu", "num_steps=3", "video=true")
    assert play([*asked, f"video_path={name}"]) == 2
    assert f"video_path is {name}; allowed: a file ending in .mp4, " in capsys.readouterr().err
    assert not Path(name).exists()


def test_bad_input_is_one_line(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    for argument in ("env.pixel=true", "env.action_repeat=fast"):
        assert train([*SMALL, "max_iterations=1", argument]) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and argument.partition("=")[0] in text and "Traceback" not in text
    assert train([*SMALL, "max_iterations=1", "env.pixels=true"]) == 2
    assert "learner.obs_groups has 'policy'; allowed: pixels" in capsys.readouterr().err
