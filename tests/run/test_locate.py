from __future__ import annotations

import os
from pathlib import Path

import pytest

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import locate
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.record import write_atomic


def find(which: str, **given) -> Path:
    return locate.find_checkpoint(
        which, **({"run_dir": None, "task": "Cartpole", "policy": "mlp", "key": "resume"} | given)
    )


def test_latest_is_the_run_that_was_saved_last(in_tmp_path: Path, make_checkpoint):
    runs = [locate.runs_of("Cartpole", "mlp") / name for name in ("b", "a")]
    for age, run in enumerate(runs):
        path = checkpoints.save(make_checkpoint(4), run, keep=1, best=True)
        os.utime(path, (1e9 + age, 1e9 + age))
    (locate.runs_of("Cartpole", "mlp") / "killed_before_it_saved").mkdir()
    assert find("latest").parent.parent == runs[1]
    assert find("best").name == "best.pt"
    assert find("latest", run_dir=str(runs[0])).parent.parent == runs[0]
    named = Path("checkpoints")
    checkpoints.save(make_checkpoint(4), named, keep=1, best=False)
    assert find("checkpoints").parent.parent == named
    for folder in (runs[0], checkpoints.folder(runs[0])):
        assert find(str(folder)) == find("latest", run_dir=str(runs[0]))
    assert locate.run_dir_of(find("best")) is None, "a folder of this name alone makes no run"
    (runs[1] / "config.yaml").touch()
    assert locate.run_dir_of(find("best")) == runs[1]


def test_nothing_found(in_tmp_path: Path):
    with pytest.raises(ConfigError, match="finds no run of task Cartpole with policy mlp"):
        find("latest")
    with pytest.raises(ConfigError, match="needs to know the run"):
        find("latest", task=None)
    with pytest.raises(ConfigError, match="run_dir nowhere does not exist"):
        find("best", run_dir="nowhere")
    with pytest.raises(ConfigError, match="resume is nowhere, which does not exist"):
        find("nowhere")


def test_a_folder_below_a_broken_link_is_an_error(in_tmp_path: Path):
    Path("runs").symlink_to("/nowhere/scratch")
    with pytest.raises(RunError, match="cannot make runs/x: File exists; give a place that can be written"):
        locate.make_folder(Path("runs/x"))


def test_new_run_dir(in_tmp_path: Path):
    given = {"task": "pkg:Task/x", "policy": "mlp", "seed": 3}
    path = locate.new_run_dir(None, **given)
    assert path.parent == Path("runs/pkg_Task_x/mlp") and path.name.endswith("_seed3")
    Path("empty").mkdir()
    for _ in range(2):
        assert locate.new_run_dir("empty", **given) == Path("empty")
        Path("empty/.lock").touch()  # of a start that failed
    Path("full/checkpoints").mkdir(parents=True)
    Path("file").touch()
    for taken in ("full", "file"):
        with pytest.raises(ConfigError, match=f"run_dir {taken} exists; allowed: a new directory, or resume=latest"):
            locate.new_run_dir(taken, **given)


def test_a_folder_is_made_for_one_alone(in_tmp_path: Path):
    path = Path("runs/a/1.5_seed0")
    assert [locate.make_folder(path).name for _ in range(3)] == ["1.5_seed0", "1.5_seed0_2", "1.5_seed0_3"]
    Path("file").touch()
    with pytest.raises(RunError, match="cannot make file/run: Not a directory; give a place that can be written"):
        locate.make_folder(Path("file/run"))


def test_a_file_is_made_for_one_alone(in_tmp_path: Path):
    path = Path("videos/1.5.mp4")
    assert [locate.make_file(path).name for _ in range(3)] == ["1.5.mp4", "1.5_2.mp4", "1.5_3.mp4"]
    with pytest.raises(RunError, match=r"cannot make videos/1.5.mp4/x.mp4: File exists; give a place"):
        locate.make_file(path / "x.mp4")


def test_a_result_goes_to_a_file(in_tmp_path: Path):
    default = Path("run") / "eval.json"
    assert locate.output_file(None, default) == default
    assert locate.output_file("mine.json", default) == Path("mine.json")
    Path("here").mkdir()
    with pytest.raises(ConfigError, match="output is here, a directory; allowed: a file, such as here/eval"):
        locate.output_file("here", default)


def test_what_cannot_be_written_leaves_nothing_behind(in_tmp_path: Path):
    Path("here").mkdir()
    with pytest.raises(RunError, match="cannot write here"):
        write_atomic(Path("here"), "text")
    assert [path.name for path in in_tmp_path.iterdir()] == ["here"]
