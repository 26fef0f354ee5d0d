"""Sweeps: which trials there are, what is refused before any starts, and what is left of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.run.results import Results
from difftori_isaac.run.sweep_plan import check, make_plan, values_of
from difftori_isaac.run.trial import MAX_NAME, Progress, Trial, is_finished, read_records, trial_name, write_table
from difftori_isaac.scripts.train import main as train


def trials(*arguments: str) -> list[list[str]]:
    return check(make_plan(arguments))


def test_every_combination_is_a_trial():
    plan = make_plan(["task=Cartpole", "policy=glob(*p*)", "seed=range(1,4)", "learner.gamma=0.9"])
    assert plan.fixed == ("task=Cartpole", "learner.gamma=0.9")
    assert plan.swept == {"policy": "policy=mlp,trajopt", "seed": "seed=range(1,4)"}
    assert values_of("presets=a,b") == ["presets=a,b"]
    expected = [[f"policy={policy}", f"seed={seed}"] for policy in ("mlp", "trajopt") for seed in (1, 2, 3)]
    assert check(plan) == expected


def test_a_call_without_several_values_is_one_trial():
    assert trials("task=Cartpole", "seed=3") == [[]]
    assert trial_name([]) == "trial"


def test_the_command_line_wins_over_the_search_space_and_an_interval_is_checked_at_its_ends():
    plan = make_plan(["task=Cartpole", "sweeper=optuna", "trajopt.damping=0.1", "learner.gamma=interval(0.9,0.99)"])
    assert "trajopt.damping=0.1" in plan.fixed and "trajopt.damping" not in plan.swept
    assert not plan.is_grid and {"trajopt.horizon", "learner.entropy_coef", "learner.gamma"} <= plan.swept.keys()
    assert values_of("learner.gamma=interval(0.9,0.99)") == ["learner.gamma=0.9", "learner.gamma=0.99"]
    seen = {value for trial in check(plan) for value in trial}
    assert {"learner.gamma=0.9", "learner.gamma=0.99", "trajopt.horizon=3", "trajopt.horizon=8"} <= seen


REFUSED = {
    "task=Cartpole seed=1,x": "seed is 'x'; allowed: an integer",
    "task=Cartpole trajopt.horizon=3,0": "trajopt.horizon is 0; allowed: an integer of at least 1",
    "task=Cartpole trajopt.horizn=1,2": "unknown key 'trajopt.horizn'; did you mean trajopt.horizon",
    "task=Cartpole,Cartpol": "Unknown task 'Cartpol'",
    "task=Cartpole env.sim.dtt=0.01,0.02": "Unknown key 'env.sim.dtt'",
    "task=Cartpole seed=1,1": "the trial seed=1 comes twice",
    "task=Cartpole seed=interval(1,2)": "allowed with sweeper=grid: values",
    "task=Cartpole policy=glob(x*)": "fits nothing; allowed: diffusion, ibc, mlp, trajopt",
    "task=Cartpole seed=glob(*)": "fits nothing; allowed: one of a group",
    "task=Cartpole sweeper=optuna trajopt.horizon=0,3": "trajopt.horizon is 0",
    "task=Cartpole resume=latest": "resume is given, but with -m every trial has its own",
    "task=Cartpole run_dir=here": "allowed: sweep_dir=<directory>",
    "task=Cartpole distributed=false,true": "distributed is true, but with -m every trial is one process; allowed: dis",
    "task=Cartpole launcher=pbs": "launcher is 'pbs'; allowed: joblib, local, slurm",
    "task=Cartpole sweeper=random": "sweeper is 'random'; allowed: grid, optuna",
    "task=Cartpole objective=worst": "objective is 'worst'; allowed: last, best",
    "task=Cartpole hydra.launcher.n_jobs=3": "with launcher=local: none; other keys with launcher=joblib or slurm",
    "task=Cartpole launcher=joblib hydra.launcher.n_jobz=3": "hydra.launcher with launcher=joblib: n_jobs, backend,",
    "task=Cartpole hydra.lancher.n_jobs=3": "unknown key 'hydra.lancher.n_jobs'; keys of hydra: run, sweep, launcher,",
    "task=Cartpole hydra/launcher=ray": "come with the extra: pip install 'difftori-isaac[sweep]'",
    "task=Cartpole Lift": "'Lift' is not an override",
    "seed=1,2": "task is missing",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_sweep_is_one_line_and_starts_nothing(arguments: str, in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train(["-m", *arguments.split()]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    assert REFUSED[arguments] in text
    assert not list(in_tmp_path.iterdir())


def test_help_of_sweeps(capsys: pytest.CaptureFixture):
    assert train(["-m", "--help"]) == 0
    text = capsys.readouterr().out
    assert "launcher=local" in text and "sweep_dir=null" in text and "-m task=Cartpole" in text


def test_several_values_without_m_name_it(capsys: pytest.CaptureFixture):
    assert train(["task=Cartpole", "seed=1,2"]) == 2
    assert "or several with scripts/train.py -m" in capsys.readouterr().err


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(min_size=1), unique=True, min_size=2, max_size=4))
def test_names_of_trials_are_short_folder_names(overrides: list[str]):
    name = trial_name([f"key={value}" for value in overrides])
    assert len(name.encode()) <= MAX_NAME + 9 and "/" not in name and name not in (".", "..")


def test_names_of_trials_are_short_in_bytes(tmp_path: Path):
    names = [trial_name(["wandb.name=" + "ü" * 70 + end]) for end in "ab"]
    assert len(set(names)) == 2 and all(len(name.encode()) <= MAX_NAME + 9 for name in names)
    assert trial_name(["wandb.name=" + "ü" * 54]) == "wandb.name=" + "ü" * 54


def write_run(run_dir: Path, make_checkpoint, *, done: int, total: int) -> None:
    """The files of a run with so many iterations."""
    checkpoints.save(make_checkpoint(done), run_dir, keep=1, best=False)
    settings = {"task": "Cartpole", "policy": "mlp", "seed": 1, "max_iterations": total}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = "".join(f"{i},{'' if i == 1 else 10 - abs(i - 3)}\n" for i in range(1, done + 1))
    (run_dir / "metrics.csv").write_text("iteration,mean_return\n" + rows)


def test_a_run_is_finished_when_it_has_done_what_is_asked(tmp_path: Path, make_checkpoint):
    write_run(tmp_path, make_checkpoint, done=5, total=5)
    assert Progress.read(tmp_path) == Progress(iterations=5, total=5, last=8.0, best=10.0)
    assert is_finished(tmp_path, []) and is_finished(tmp_path, ["max_iterations=4"])
    assert not is_finished(tmp_path, ["max_iterations=6"])
    write_run(tmp_path, make_checkpoint, done=4, total=5)
    assert not is_finished(tmp_path, [])
    write_run(tmp_path, make_checkpoint, done=5, total=5)
    assert Results(tmp_path).finished
    checkpoints.find(tmp_path, "latest").rename(checkpoints.folder(tmp_path) / "checkpoint_0000004.pt")
    assert not is_finished(tmp_path, []) and not Results(tmp_path).finished, "its last checkpoint is missing"
    assert Progress.read(tmp_path / "none") == Progress()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
def test_a_damaged_run_is_a_trial_that_failed(name: str, in_tmp_path: Path, make_checkpoint, capsys):
    """The other trial is finished, so that nothing is trained."""
    for seed in (1, 2):
        write_run(Path(f"sweep/seed={seed}"), make_checkpoint, done=5, total=5)
    Path(f"sweep/seed=1/{name}").write_bytes(b"\xff")
    Path("sweep/sweep.yaml").write_text(yaml.safe_dump({"fixed": ["task=Cartpole"]}), encoding="utf-8")
    assert train(["-m", "task=Cartpole", "seed=1,2", "sweep_dir=sweep"]) == 1
    text = capsys.readouterr()
    assert f"failed: seed=1: {in_tmp_path}/sweep/seed=1/{name} is no " in text.err and "seed=2: is finished" in text.out
    first, second = read_records(Path("sweep"))
    assert (first.status, second.status) == ("failed", "finished")
    assert f"{name} is no " in first.reason and first.reason.count("\n") == 0


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_a_damaged_record_is_named_before_anything_starts(text: str, in_tmp_path: Path, capsys):
    path = Path("sweep/records/seed=1.json")
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    Path("sweep/sweep.yaml").write_text(yaml.safe_dump({"fixed": ["task=Cartpole"]}), encoding="utf-8")
    assert train(["-m", "task=Cartpole", "seed=2,3", "sweep_dir=sweep"]) == 2
    error = capsys.readouterr().err
    assert f"error: {in_tmp_path / path} is damaged (" in error
    assert error.count("\n") == 1 and "allowed: the file as it was written, or none" in error


@pytest.mark.slow
def test_a_sweep_goes_on_with_what_failed_and_leaves_the_rest(
    in_tmp_path: Path, make_checkpoint, capsys: pytest.CaptureFixture
):
    """The device is wrong, so every trial that starts fails at once; the one that is finished does not start."""
    write_run(Path("sweep/seed=1"), make_checkpoint, done=5, total=5)
    Path("sweep/sweep.yaml").write_text(
        yaml.safe_dump({"fixed": ["task=Cartpole", "policy=mlp", "max_iterations=3"]}), encoding="utf-8"
    )
    arguments = ["task=Cartpole", "policy=mlp", "max_iterations=5", "device=cuda:77", "sweep_dir=sweep"]
    assert train(["-m", *arguments, "seed=1,2"]) == 1
    text = capsys.readouterr()
    assert "seed=1: is finished" in text.out
    assert "failed: seed=2: device is cuda:77, but torch sees" in text.err
    assert "error: 1 of 2 trials did not finish; call the same command with sweep_dir=" in text.err
    first, second = read_records(Path("sweep"))
    assert (first.status, first.iterations, first.last_return, first.best_return) == ("finished", 5, 8.0, 10.0)
    assert (second.status, second.values) == ("failed", {"seed": "2"})
    with Path("sweep/trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    results = [(row["seed"], row["status"], row["best_return"]) for row in rows]
    assert results == [("1", "finished", "10.0"), ("2", "failed", "")]

    assert train(["-m", *arguments, "seed=1,2", "learner.gamma=0.5"]) == 2
    assert "differ in learner.gamma=0.5" in capsys.readouterr().err
    Path("other").mkdir()
    Path("other/file").touch()
    assert train(["-m", "task=Cartpole", "sweep_dir=other"]) == 2
    assert "exists and is no sweep" in capsys.readouterr().err
    for damage in ("fixed: [", "fixed: 3", "[1, 2]"):
        Path("other/sweep.yaml").write_text(damage, encoding="utf-8")
        assert train(["-m", "task=Cartpole", "seed=1,2", "sweep_dir=other"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: other/sweep.yaml is ") and error.count("\n") == 1


def test_a_search_maximises_the_return(in_tmp_path: Path, make_checkpoint, capsys: pytest.CaptureFixture):
    """Both trials are finished, so that nothing is trained."""
    for seed, done in ((1, 5), (2, 4)):
        write_run(Path(f"sweep/seed={seed}"), make_checkpoint, done=done, total=4)
    Path("sweep/sweep.yaml").write_text(yaml.safe_dump({"fixed": ["task=Cartpole"]}), encoding="utf-8")
    search = ["sweeper=optuna", "hydra.sweeper.params=null", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=1"]
    assert train(["-m", "task=Cartpole", "seed=1,2", "sweep_dir=sweep", *search]) == 0
    assert {record.last_return for record in read_records(Path("sweep"))} == {8.0, 9.0}
    best = yaml.safe_load(Path("sweep/hydra/optimization_results.yaml").read_text(encoding="utf-8"))
    assert best["best_value"] == 9.0 and [str(value) for value in best["best_params"].values()] == ["2"]


def test_a_trial_that_fails_again_says_why_this_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tries = iter(["error: the disk is full\n", "Traceback (most recent call last):\nMemoryError: résumé\n", ""])

    def fail(arguments, log: Path) -> int:
        with log.open("a", encoding="utf-8") as file:
            file.write(next(tries))
        return 1

    monkeypatch.setattr("difftori_isaac.run.trial._train", fail)
    trial = Trial(tmp_path, ("task=Cartpole",), "last")
    reasons = [trial.run(["seed=1"], 0).reason for _ in range(3)]
    assert reasons == ["the disk is full", "MemoryError: résumé", "exit code 1"]


def test_a_trial_without_a_checkpoint_begins_anew_and_one_with_resumes(tmp_path: Path, make_checkpoint):
    trial = Trial(tmp_path, ("task=Cartpole",), "last")
    run_dir = tmp_path / "seed=1"
    run_dir.mkdir()
    assert trial._arguments(["seed=1"], run_dir, 0) == ["task=Cartpole", "seed=1", f"run_dir='{run_dir}'"]
    assert not run_dir.exists()
    write_run(run_dir, make_checkpoint, done=2, total=5)
    asked = ["seed=1", "learner.learning_rate=0.1"]
    assert trial._arguments(asked, run_dir, 0) == ["task=Cartpole", "seed=1", f"run_dir='{run_dir}'", "resume=latest"]


def test_the_table_has_a_column_for_every_key_and_survives_a_full_disk(tmp_path: Path, full_disk):
    for number, values in enumerate(({"seed": "1"}, {"seed": "2", "policy": "mlp"})):
        record = {"number": number, "trial": f"t{number}", "values": values, "status": "finished"}
        (tmp_path / "records").mkdir(exist_ok=True)
        (tmp_path / "records" / f"t{number}.json").write_text(json.dumps(record))
    records = read_records(tmp_path)
    path = write_table(tmp_path, records)
    whole = path.read_text()
    with full_disk(), pytest.raises(RunError, match="cannot write"):
        write_table(tmp_path, 100 * records)
    assert path.read_text() == whole
    assert whole.splitlines()[0] == "seed,policy,status,iterations,last_return,best_return,run_dir,reason"


@pytest.mark.sim
def test_a_real_trial_in_a_submitted_job(in_tmp_path: Path):
    small = ["num_envs=4", "max_iterations=1", "learner.num_steps_per_env=8", "device=cpu", "logger=none"]
    arguments = ["task=Cartpole", "policy=mlp", *small, "sweep_dir=sweep", "hydra/launcher=submitit_local"]
    assert train(["-m", *arguments]) == 0
    assert len(read_metrics(Path("sweep/trial/metrics.csv"))) == 1
    assert [(item.trial, item.status) for item in read_records(Path("sweep"))] == [("trial", "finished")]
    assert checkpoints.find(Path("sweep/trial"), "latest").name == "checkpoint_0000001.pt"
