"""Files of a run: damaged ones are named in one line, evaluations of a future that is gone are deleted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import difftori_isaac
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.files import RunRecord, discard_evaluations_after, read_json, read_settings
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.run.record import write_record
from difftori_isaac.run.report import write_report
from difftori_isaac.scripts.plot import main as plot
from difftori_isaac.scripts.report import main as report

SETTINGS = {
    b"task: [": "is no YAML (",
    b"\xff": "is no YAML (",
    b"day: 2020-13-45": "is no YAML (",
    b"": "is damaged (Input should be a valid dictionary); allowed: the file as it was written",
    b"[1, 2]": "is damaged (Input should be a valid dictionary); allowed: ",
    b"task: 3": "is damaged (task: Input should be a valid string); allowed: ",
    b"policy: mlp": "has no task",
}

METRICS = {
    b"iteration,env_steps,mean_return\n1,16,much\n": "mean_return is 'much' in iteration 1 of ",
    b"iteration,env_steps,mean_return\n1,16,\xff\n": "metrics.csv is no table (",
    b"env_steps,mean_return\n16,2\n": "metrics.csv has the columns env_steps, mean_return; allowed: ",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("task: Reach\npolicy: mlp\nseed: 0\nmax_iterations: 3\n")
    (tmp_path / "metrics.csv").write_text("iteration,env_steps,mean_return\n1,16,2\n")
    return tmp_path


def fails(script: str, run: Path, capsys: pytest.CaptureFixture) -> str:
    """The one line with which a script refuses the run."""
    code = plot([f"runs={run}", f"output={run}/curves.png"]) if script == "plot" else report([f"run_dir={run}"])
    text = capsys.readouterr().err
    assert code == 2 and text.count("\n") == 1
    return text


@pytest.mark.parametrize("script", ["plot", "report"])
@pytest.mark.parametrize("damage", SETTINGS)
def test_damaged_settings_are_named(damage: bytes, script: str, run: Path, capsys: pytest.CaptureFixture):
    (run / "config.yaml").write_bytes(damage)
    assert f"{run}/config.yaml {SETTINGS[damage]}" in fails(script, run, capsys)


@pytest.mark.parametrize("script", ["plot", "report"])
@pytest.mark.parametrize("damage", METRICS)
def test_a_damaged_table_is_named(damage: bytes, script: str, run: Path, capsys: pytest.CaptureFixture):
    (run / "metrics.csv").write_bytes(damage)
    text = fails(script, run, capsys)
    assert METRICS[damage] in text and str(run / "metrics.csv") in text


@pytest.mark.parametrize("cut", ["2,3", "2,32,-", "2,32,1.2", "2,32,1.25"])
def test_a_last_row_that_was_cut_off_is_left_out(cut: str, run: Path):
    with (run / "metrics.csv").open("a") as file:
        file.write(cut)
    assert [row["iteration"] for row in read_metrics(run / "metrics.csv")] == ["1"]


@pytest.mark.parametrize("content", ["[1, 2]", '{"starts": [1]}', '{"starts": 3}', "{}"])
def test_a_record_of_the_wrong_shape_is_named(content: str, run: Path, capsys: pytest.CaptureFixture):
    (run / "run.json").write_text(content)
    assert f"{run}/run.json is damaged (" in fails("report", run, capsys)
    with pytest.raises(ConfigError, match=r"run\.json is damaged \(.*; allowed: the file as it was written"):
        write_record(run, iteration=1, processes=1, num_envs=1)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '{"return": 1.5}', '{"return": {"mean": "high"}}'])
def test_an_evaluation_of_the_wrong_shape_is_named(content: str, run: Path, capsys: pytest.CaptureFixture):
    (run / "eval.json").write_text(content)
    assert f"{run}/eval.json is damaged (" in fails("report", run, capsys)


def test_what_a_run_writes_is_read_back(run: Path):
    write_record(run, iteration=0, processes=1, num_envs=1)
    write_record(run, iteration=1, processes=1, num_envs=1)
    assert [start["iteration"] for start in read_json(run / "run.json", RunRecord)["starts"]] == [0, 1]
    assert read_settings(run, "task")["max_iterations"] == 3
    assert read_json(run / "none.json", RunRecord) == {}


def test_changes_of_any_encoding_are_kept_as_a_patch_that_applies(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    repository = tmp_path_factory.mktemp("repository")

    def git(*arguments: str) -> None:
        user = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.autocrlf=false")
        subprocess.run(["git", *user, *arguments], cwd=repository, check=True)

    source, changed = repository / "__init__.py", b"# gr\xfc\xdfe\r\nx = 2\r\n\r\n"
    source.write_bytes(b"x = 1\r\n")
    picture, pixels = repository / "picture.bin", bytes(range(256))
    picture.write_bytes(pixels[::-1])
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    source.write_bytes(changed)
    picture.write_bytes(pixels)
    monkeypatch.setattr(difftori_isaac, "__file__", str(source))
    write_record(run, iteration=0, processes=1, num_envs=1)
    (start,) = read_json(run / "run.json", RunRecord)["starts"]
    assert start["git"]["dirty"] and len(start["git"]["revision"]) == 40
    git("checkout", "-q", ".")
    git("apply", str(run / start["git"]["diff"]))
    assert source.read_bytes() == changed and picture.read_bytes() == pixels


def test_a_git_that_does_not_answer_leaves_open_whether_there_are_changes(run: Path, monkeypatch: pytest.MonkeyPatch):
    def answer(command: list[str], **options) -> SimpleNamespace | subprocess.CompletedProcess:
        if command[0] != "git":
            return ask(command, **options)
        if "diff" in command:
            raise subprocess.TimeoutExpired(command, 10)
        return SimpleNamespace(returncode=0, stdout=b"" if "ls-files" in command else b"abc\n")

    ask = subprocess.run
    with monkeypatch.context() as patch:
        patch.setattr("difftori_isaac.run.record.subprocess.run", answer)
        write_record(run, iteration=0, processes=1, num_envs=1)
    assert read_json(run / "run.json", RunRecord)["starts"][0]["git"] == {
        "revision": "abc",
        "dirty": None,
        "untracked": [],
    }
    assert "abc</code>, with changes or without: git did not say" in write_report(run).read_text()


def evaluate(run: Path, iteration: int | None) -> None:
    """Leaves the files of an evaluation of one checkpoint, and of all up to iteration 3."""
    statistics = {"mean": 1.0, "std": None, "interval_95": None}
    result = {"num_episodes": 1, "iteration": iteration, "seed": 0, "success_rate": None, "nonfinite_episodes": 0}
    (run / "eval.json").write_text(json.dumps(result | {"return": statistics, "episode_length": statistics}))
    (run / "eval.csv").write_text("iteration,std_return\n1,\n2,0.5\n3,0.25\n")


@pytest.mark.parametrize(("iteration", "stays"), [(2, True), (3, False), (None, True)])
def test_evaluations_after_the_resumed_iteration_are_deleted(iteration: int | None, stays: bool, run: Path):
    evaluate(run, iteration)
    discard_evaluations_after(run, 2)
    assert (run / "eval.csv").read_text() == "iteration,std_return\n1,\n2,0.5\n"
    assert (run / "eval.json").is_file() == stays
    discard_evaluations_after(run, 0)
    assert not (run / "eval.csv").exists()
    discard_evaluations_after(run, 0)  # where there is none


def test_damaged_evaluations_do_not_hinder_a_resume(run: Path):
    for name in ("eval.csv", "eval.json"):
        (run / name).write_bytes(b"\xff")
    discard_evaluations_after(run, 0)
    assert (run / "eval.csv").read_bytes() == (run / "eval.json").read_bytes() == b"\xff"
