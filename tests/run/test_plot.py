from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.evaluate import summary
from difftori_isaac.run.plot import find_runs, mean_curve, read_curve
from difftori_isaac.run.results import Results
from difftori_isaac.scripts.plot import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, policy in enumerate(("mlp", "mlp", "trajopt")):
        path = tmp_path / policy / str(seed)
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(f"task: Cartpole\npolicy: {policy}\ntrajopt: {{solver: theseus}}\n")
        lines = ["iteration,env_steps,mean_return", "1,16,", *(f"{i},{16 * i},{i + seed}" for i in range(2, 5)), "5,8"]
        (path / "metrics.csv").write_text("\n".join(lines))
    return tmp_path


def test_empty_cells_and_torn_rows_are_left_out(runs: Path):
    xs, ys = read_curve(runs / "mlp" / "1" / "metrics.csv", "env_steps", "mean_return")
    assert xs.tolist() == [32, 48, 64] and ys.tolist() == [3, 4, 5]


def test_mean_and_interval():
    grid = np.array([0.0, 1.0, 2.0])
    xs, mean, half = mean_curve([(grid, grid), (grid, grid + 2), (grid[:2], grid[:2] + 4)])
    assert xs.tolist() == [0, 1] and mean.tolist() == [2, 3]
    assert half == pytest.approx(4.302653 * 2 / 3**0.5)
    assert mean_curve([(grid, grid)])[2].tolist() == [0, 0, 0]
    assert [values.tolist() for values in mean_curve([(grid, grid), (grid + 3, grid)])] == [[], [], []]


def test_picture(runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    picture = runs / "new" / "curves.png"
    for label in ("policy", "trajopt.solver"):
        assert main([f"runs={runs}/*/*", f"output={picture}", f"label={label}"]) == 0
        linear = picture.read_bytes()
        assert main([f"runs={runs}/*/*", f"output={picture}", f"label={label}", "log_x=true"]) == 0
        assert picture.read_bytes() != linear
        assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("difftori_isaac.run.plot.MOST_LABELS_INSIDE", 0)
    inside = picture.read_bytes()
    assert main([f"runs={runs}/*/*", f"output={picture}", "label=trajopt.solver", "log_x=true"]) == 0
    assert picture.read_bytes() != inside
    assert main([f"runs=[{runs}/mlp/0,{runs}/trajopt/2]", f"output={picture}"]) == 0
    assert "2 runs of mlp, trajopt" in capsys.readouterr().out
    assert main([f"runs={runs}/*/*", f"output={picture}", "label=[policy,trajopt.solver]"]) == 0
    assert "runs of policy=mlp solver=theseus, policy=trajopt solver=theseus written" in capsys.readouterr().out


def test_a_picture_without_suffix_is_a_png(runs: Path, capsys: pytest.CaptureFixture):
    assert main([f"runs={runs}/*/*", f"output={runs}/p1"]) == 0
    assert capsys.readouterr().out.endswith(f"written to {runs}/p1.png\n") and (runs / "p1.png").is_file()


def test_one_run_is_a_run(runs: Path, capsys: pytest.CaptureFixture):
    assert main([f"runs={runs}/mlp/0", f"output={runs}/one.png"]) == 0
    assert capsys.readouterr().out == f"1 run of mlp written to {runs}/one.png\n"


def test_a_run_of_several_names_is_one_run(runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(runs)
    (runs / "mlp" / "latest").symlink_to("1")
    assert find_runs("mlp/*") == [Path("mlp/0"), Path("mlp/1")]
    assert len(find_runs(["mlp/*", f"{runs}/mlp/*", "./mlp/../mlp/0"])) == 2


def test_a_logarithmic_axis_is_labelled_in_thousands(runs: Path, monkeypatch: pytest.MonkeyPatch):
    path = runs / "trajopt" / "2" / "metrics.csv"
    path.write_text("iteration,env_steps,mean_return\n1,12000,0\n2,40000,1\n3,110000,2\n")
    labels: list[str] = []

    def savefig(figure: Figure, *args: object, **kwargs: object) -> None:
        figure.draw_without_rendering()
        axis = figure.axes[0].xaxis
        low, high = axis.get_view_interval()
        labels.extend(tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
        labels.extend(tick.label1.get_text() for tick in axis.get_minor_ticks() if tick.label1.get_text())

    monkeypatch.setattr(Figure, "savefig", savefig)
    assert main([f"runs={path.parent}", f"output={runs}/curves.png", "log_x=true"]) == 0
    assert labels == ["20k", "50k", "100k"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["y=succes"], "has no column 'succes'; allowed: iteration, env_steps, mean_return"),
        (["label=solver"], "label is solver, which"),
        (["label=[policy,solver]"], "label is solver, which"),
        (["file=eval.csv"], "no directory has the file eval.csv"),
        (["output=/dev/null/x.png"], "cannot write /dev/null/x.png"),
    ],
)
def test_bad_input(arguments: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture):
    assert main([f"runs={runs}/*/*", *arguments]) != 0
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_a_directory_that_is_no_run_s_is_named(runs: Path, capsys: pytest.CaptureFixture):
    (runs / "mlp" / "0" / "config.yaml").unlink()
    assert main([f"runs={runs}/*/*", f"output={runs}/curves.png"]) == 2
    assert f"{runs}/mlp/0 has no config.yaml; allowed: the directory of a run" in capsys.readouterr().err


def test_runs_that_have_nothing_in_common_are_named(runs: Path, capsys: pytest.CaptureFixture):
    (runs / "mlp" / "0" / "metrics.csv").write_text("iteration,env_steps,mean_return\n1,8,1\n2,20,2\n")
    assert main([f"runs={runs}/*/*", f"output={runs}/curves.png"]) == 2
    assert "runs of mlp have no env_steps in common: 8 to 20, 32 to 64; leave" in capsys.readouterr().err
    assert not (runs / "curves.png").exists()


def test_an_axis_along_which_curves_go_back_is_refused(runs: Path, capsys: pytest.CaptureFixture):
    path = runs / "trajopt" / "2" / "metrics.csv"
    path.write_text("iteration,env_steps,mean_return,rate\n1,16,1,3\n2,32,2,1\n3,48,nan,9\n4,64,3,2\n")
    assert main([f"runs={path.parent}", "x=rate", f"output={runs}/p.png"]) == 2
    assert f"x is 'rate', which falls in {path}; allowed: a column that only rises" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="x is 'rate', which falls"):
        Results(path.parent).curve("rate", "mean_return")
    assert read_curve(path, "env_steps", "mean_return")[0].tolist() == [16, 32, 64]


def test_empty_column(runs: Path):
    path = runs / "mlp" / "0" / "metrics.csv"
    path.write_text("iteration,env_steps,mean_return\n1,16,\n")
    with pytest.raises(ConfigError, match=r"column 'mean_return' of .* is empty"):
        read_curve(path, "env_steps", "mean_return")
    with pytest.raises(ConfigError, match=r"column 'mean_return' of .* is empty"):
        read_curve(path, "mean_return", "env_steps")


def test_a_run_without_a_number_is_left_out(runs: Path, capsys: pytest.CaptureFixture):
    path = runs / "mlp" / "0" / "metrics.csv"
    path.write_text("iteration,env_steps,mean_return\n1,16,\n")
    assert main([f"runs='{runs}/*/*'", f"output={runs}/p.png"]) == 0
    printed = capsys.readouterr().out
    assert f"note: column 'mean_return' of {path} is empty: left out" in printed and "2 runs of" in printed
    assert main([f"runs='{runs}/*/0'", f"output={runs}/p.png"]) == 2
    assert f"column 'mean_return' of {path} is empty" in capsys.readouterr().err


def test_summary():
    assert summary([1.0]) == {"mean": 1.0, "std": None, "interval_95": None}
    result = summary([1.0, 2.0, 3.0])
    assert (result["mean"], result["std"]) == (2.0, 1.0)
    assert result["interval_95"] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5])
