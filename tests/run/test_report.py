from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from difftori_isaac.run.config import TrainConfig, to_dict
from difftori_isaac.run.curves import curve_name
from difftori_isaac.run.metrics import MetricsFile
from difftori_isaac.run.panels import arrange
from difftori_isaac.run.report import try_report, write_report
from difftori_isaac.scripts.plot import main as plot
from difftori_isaac.scripts.report import main

VOID = ("meta", "br", "link", "img", "input")


class Page(HTMLParser):
    """Fails where tags are not closed in turn; collects texts and what the page asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.text, self.sources = "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += " " + " ".join(data.split())


def make_run(path: Path, *, policy: str = "trajopt", seed: int = 0, task: str = "Reach", rows: int = 3) -> Path:
    path.mkdir(parents=True)
    config = to_dict(TrainConfig(task=task, policy=policy, seed=seed, save_interval=7, num_envs=4, max_iterations=3))
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = MetricsFile(path / "metrics.csv", keep_until=0)
    for i in range(1, rows + 1):
        row = {"iteration": i, "env_steps": 1000 * i, "wall_time_s": 2.0 * i, "mean_return": -2.5 + i + seed}
        row |= {"success_rate": None if i == 1 else 0.25, "nonfinite_envs": i, "value": 0.1, "grad_encoder": 0.5}
        solver = {"solver_converged": 0.5, "solver_failures": 2.0, "update_solver_converged": 0.75, "grad_prior": 0.1}
        metrics.write(row | (solver if policy == "trajopt" else {}))
    return path


def test_curves_are_grouped_by_what_they_tell():
    names = {
        "mean_return": "train/mean_return",
        "env_steps_per_s": "time/env_steps_per_s",
        "update_solver_converged": "solver/update_converged",
        "plan_shift": "solver/plan_shift",
        "grad_reward_head": "grad/reward_head",
        "model_value": "loss/model_value",
        "replay_steps": "train/replay_steps",
    }
    assert {column: curve_name(column) for column in names} == names
    panels = arrange([*names, "iteration", "solver_converged", "grad_encoder"], together=True)
    assert list(panels) == ["Training", "Planner", "Losses", "Gradient norms", "Speed"]
    assert panels["Planner"][0].columns == {"in updates": "update_solver_converged", "executed": "solver_converged"}
    assert panels["Gradient norms"][0].columns == {"reward_head": "grad_reward_head", "encoder": "grad_encoder"}


def test_page_of_a_run_holds_everything(tmp_path: Path):
    run = make_run(tmp_path / "run", task="<Reach>")
    result = {"mean": 0.5, "std": 0.1, "interval_95": [0.42, 0.58]}
    evaluation = {"num_episodes": 9, "iteration": 3, "seed": 1, "nonfinite_episodes": 0, "success_rate": 0.875}
    (run / "eval.json").write_text(json.dumps(evaluation | {"return": result, "episode_length": result}))
    (run / "videos").mkdir()
    (run / "videos" / "a.mp4").write_bytes(b"film")
    start = {"time": "T", "iteration": 0, "command": "python train.py 'a<b'", "versions": {"torch": "2", "x": None}}
    start |= {"git": {"revision": "abc", "dirty": True}, "hardware": {"gpus": [], "cpus": 2, "system": "Linux"}}
    (run / "run.json").write_text(json.dumps({"starts": [start]}))
    page = Page(write_report(run))
    assert page.count["svg"] == 7 and page.count["video"] == 1
    outside = [source for source in page.sources if not source.startswith(("data:", "#"))]
    assert outside == [] and "http" not in "".join(page.sources)
    for text in ("<Reach>", "finished, 3 of 3 iterations", "final return 0.5", "final success rate 25%", "0:06 min"):
        assert text in page.text
    for text in ("steps per second 500", "plans converged, mean 50.0%", "plans failed, total 6", "a<b"):
        assert text in page.text
    assert "other settings" not in page.text
    for text in ("0.42 to 0.58", "87.5%", "save_interval 7 25", "torch 2", "abc , with changes"):
        assert text in page.text
    assert "non-finite, total 6" in page.text


def test_what_an_evaluation_changed_is_beside_it(tmp_path: Path):
    run = make_run(tmp_path / "run")
    result = {"mean": 0.5, "std": 0.1, "interval_95": [0.42, 0.58]}
    evaluation = {"num_episodes": 9, "iteration": 3, "seed": 1, "nonfinite_episodes": 0, "success_rate": None}
    evaluation |= {"changed": {"trajopt.prior_weight": 1000.0, "env_overrides": ["env.a=1"]}}
    (run / "eval.json").write_text(json.dumps(evaluation | {"return": result, "episode_length": result}))
    text = Page(write_report(run)).text
    assert "With other settings than the training: trajopt.prior_weight=1000.0 , env_overrides=[env.a=1]" in text


def test_large_video_is_linked_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("difftori_isaac.run.report.MOST_EMBEDDED_BYTES", 3)
    run = make_run(tmp_path / "run")
    (run / "videos").mkdir()
    (run / "videos" / "a b.mp4").write_bytes(b"film")
    assert "videos/a%20b.mp4" in Page(write_report(run)).sources


def test_page_of_a_run_that_just_began(tmp_path: Path):
    page = Page(write_report(make_run(tmp_path / "run", rows=0)))
    assert "not finished, 0 of 3 iterations" in page.text and "svg" not in page.count


def test_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for policy, seed in (("mlp", 1), ("mlp", 2), ("trajopt", 1)):
        make_run(tmp_path / policy / str(seed), policy=policy, seed=seed)
    write_report(tmp_path / "mlp" / "2")
    monkeypatch.chdir(tmp_path)
    assert main(["runs='*/*'", "output=pages/all.html"]) == 0
    page = Page(Path("pages/all.html"))
    assert "3 runs by policy" in page.text and page.count["svg"] == 9
    assert [source for source in page.sources if not source.startswith("#")] == ["../mlp/2/report.html"]
    assert "seed 1 (2), 2 (1)" in page.text and "learner.gamma" not in page.text
    svg = re.findall(r"<svg.*?</svg>", Path("pages/all.html").read_text(encoding="utf-8"), re.DOTALL)
    colours = [{colour for colour in ("#3b82f6", "#f97316") if colour in picture} for picture in svg]
    assert colours[0] == {"#3b82f6", "#f97316"}  # a return of both policies
    assert {"#f97316"} in colours and {"#3b82f6"} not in colours  # a solver of one, in its own colour


def test_a_comparison_leaves_out_a_mean_of_curves_that_have_nothing_in_common(tmp_path: Path):
    for seed, steps in enumerate(((8, 16), (24, 32))):
        rows = (f"{iteration},{step},{seed}" for iteration, step in enumerate(steps, 1))
        run = make_run(tmp_path / str(seed), seed=seed, rows=0)
        (run / "metrics.csv").write_text("\n".join(["iteration,env_steps,mean_return", *rows, ""]))
    page = tmp_path / "all.html"
    assert main([f"runs={tmp_path}/?", f"output={page}"]) == 0
    assert "2 runs by policy" in Page(page).text and "stroke: #3b82f6" not in page.read_text()


def test_runs_without_a_finished_iteration_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, rows in (("a", 0), ("b", 3)):
        make_run(tmp_path / name, rows=rows)
    for write, output in ((main, "all.html"), (plot, "all.png")):
        assert write([f"runs={tmp_path}/?", f"output={tmp_path}/{output}"]) == 0
        assert f"note: {tmp_path}/a/metrics.csv has no row yet: left out\n" in capsys.readouterr().out
        assert write([f"runs={tmp_path}/a", f"output={tmp_path}/none"]) == 2
        text = capsys.readouterr().err
        assert f"{tmp_path}/a, where no metrics.csv has a row yet; allowed: runs that have one" in text
    assert "1 run by policy" in Page(tmp_path / "all.html").text


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = make_run(tmp_path / "runs" / "one")
    nothing = [[], ["run_dir=a", "runs=b"], [f"run_dir={tmp_path}"], [f"runs={tmp_path}/*"]]
    for arguments in (*nothing, [f"run_dir={run}", "x=time"], [f"runs={run}", "label=colour"]):
        assert main(arguments) == 2
        assert "allowed: " in capsys.readouterr().err


def test_an_axis_without_values_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = make_run(tmp_path / "run", rows=1)
    for which in (f"run_dir={run}", f"runs={run}"):
        assert main([which, "x=success_rate"]) == 2
        text = capsys.readouterr().err
        assert "x is 'success_rate', which is empty in" in text
        assert "allowed: a column with values: iteration, env_steps, " in text and ", success_rate" not in text


@pytest.mark.parametrize("name", ["eval.json", "run.json"])
def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    run = make_run(tmp_path / "run")
    for damage in (b'{"starts": [', b"\xff"):
        (run / name).write_bytes(damage)
        assert main([f"run_dir={run}"]) == 2
        assert f"{run}/{name} is no JSON (" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = make_run(tmp_path / "run")
    (run / "eval.json").write_text("{")
    try_report(run)
    out = capsys.readouterr().out
    assert out.startswith("report not written: ") and out.count("\n") == 1
    assert not (run / "report.html").exists()
