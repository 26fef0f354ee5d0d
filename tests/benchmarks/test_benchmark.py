"""The script: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.model_based import _measure, build
from difftori_isaac.scripts.benchmark import main

SCHEMA = (
    "suite",
    "solver",
    "num_envs",
    "horizon",
    "iterations",
    "forward_ms",
    "forward_backward_ms",
    "solves_per_s",
    "peak_memory_mb",
    "final_cost",
    "measured",
)


@pytest.mark.slow
def test_rows_picture_and_table(tmp_path: Path, capsys: pytest.CaptureFixture):
    files = [f"{name}={tmp_path / 'new' / name}" for name in ("json", "markdown")] + [f"plot={tmp_path / 'plot.png'}"]
    sizes = ["num_envs=[2,256]", "horizon=2", "iterations=3"]
    arguments = ["suite=learned_model", "filter=gauss_newton implicit", "repeats=1", "device=cpu"]
    assert main([*arguments, *sizes, *files]) == 0
    content = json.loads((tmp_path / "new" / "json").read_text())
    assert list(content) == ["rows"]
    rows = [row for row in content["rows"] if row["solver"] == "gauss_newton implicit"]
    assert [row["num_envs"] for row in rows] == [2, 256]
    for row in rows:
        assert tuple(row)[: len(SCHEMA)] == SCHEMA
        assert (row["suite"], row["horizon"], row["iterations"], row["measured"]) == ("learned_model", 2, 3, True)
        assert row["forward_ms"] > 0 and row["forward_backward_ms"] > 0
        assert row["solves_per_s"] == pytest.approx(1e3 * row["num_envs"] / row["forward_ms"])
        assert 0 < row["final_cost"] < row["initial_cost"]
        assert 0 <= row["system_share"] <= 1
        assert row["ratio"] is None and row["same_cost"] is None  # there is no line of the reference
    assert rows[0]["peak_memory_mb"] + 1 < rows[1]["peak_memory_mb"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    markdown = (tmp_path / "new" / "markdown").read_text()
    assert "uv run scripts/benchmark.py suite=learned_model 'filter=gauss_newton implicit'" in markdown
    assert "| gauss_newton implicit | 256 | 2 | 3 |" in markdown
    assert "gauss_newton implicit" in capsys.readouterr().out


def test_quoted_rows_say_so(tmp_path: Path):
    assert main(["suite=published", "filter=DiffTORI", "device=cpu", f"json={tmp_path / 'rows.json'}"]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["forward_backward_ms"] for row in rows] == [1172.0, 170.0]
    assert all(row["measured"] is False and row["note"] == "quoted" for row in rows)


@pytest.mark.parametrize(("solver", "updates"), [("td with batches of 512", 1.0), ("td in parallel", 0.0625)])
def test_an_environment_step_of_model_based_learning_is_its_plan_and_its_share_of_updates(
    solver: str, updates: float, tmp_path: Path
):
    arguments = ["suite=model_based", f"filter={solver}", "num_envs=8", "horizon=2", "iterations=2"]
    assert main([*arguments, "repeats=1", "device=cpu", f"json={tmp_path / 'rows.json'}"]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["solver"] == solver
    assert (row["num_envs"], row["horizon"], row["iterations"]) == (8, 2, 2)
    assert row["forward_ms"] > 0 and row["update_ms"] > 0
    assert row["env_steps_per_s"] == pytest.approx(1e3 / (row["forward_ms"] / 8 + updates * row["update_ms"]))
    assert f"{updates:g} updates a step of 512" in row["note"]


def test_one_environment_is_timed_over_as_many_updates_as_several(monkeypatch: pytest.MonkeyPatch):
    algorithm, obs = build("td", "in parallel", Size(num_envs=1, horizon=2, iterations=1), "cpu")
    counts = []

    def times(functions, *_):
        for function in functions:
            before = algorithm.num_updates
            function()
            counts.append(algorithm.num_updates - before)
        return [(1.0, float(counts[-1]))]

    monkeypatch.setattr("difftori_isaac.benchmarks.model_based.times_ms", times)
    assert _measure(algorithm, obs, "td", "cpu", 1).update_ms == 1.0
    assert counts == [0, algorithm.config.plan_interval]


def test_a_peer_that_cannot_be_installed_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["suite=known_dynamics", "filter=mpc.pytorch", "peers=true", "num_envs=64", "horizon=10", "device=cpu"]
    with pytest.warns(UserWarning, match="mpc==0.0.6 is not installed and uv is not on the PATH"):
        assert main([*arguments, f"json={tmp_path / 'rows.json'}"]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (row["solver"], row["measured"]) == ("mpc.pytorch", False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("suite=fast", 2, "suite is 'fast'; allowed: learned_model, known_dynamics, published, training, model_based,"),
        ("", 2, "suite is missing"),
        ("suite=gradients num_envs=0", 2, "num_envs is [0]; allowed: one or more integers of at least 1"),
        ("suite=gradients horizon=[]", 2, "horizon is []; allowed"),
        ("suite=gradients iterations=[5,x]", 2, "iterations is 'x'; allowed: an integer"),
        ("suite=gradients filter=ipopt", 2, "filter is 'ipopt', which fits no solver of suite=gradients"),
        ("suite=gradients device=tpu", 2, "device is 'tpu'; allowed: auto, cpu, cuda:N"),
        ("suite=gradients repeats=0", 2, "repeats is 0"),
        ("suite=training plot=x.png", 2, "plot is set, but suite=training"),
        ("suite=training dtype=float64", 2, "dtype is float64, but suite=training trains in float32; allowed: float32"),
        ("suite=model_based dtype=float64", 2, "dtype is float64, but suite=model_based trains in float32"),
        ("suite=model_based filter=zzz", 2, "fits no solver of suite=model_based; leave it out\n"),
        ("suite=known_dynamics filter=zzz", 2, "no solver of suite=known_dynamics; leave it out, or set peers=true\n"),
        ("suite=training task=Cartpol", 2, "Unknown task 'Cartpol'"),
        ("suite=published filter=DiffTORI device=cpu json=/dev/null/x", 1, "cannot write /dev/null/x"),
    ],
)
def test_bad_input_is_one_line(arguments: str, code: int, message: str, capsys: pytest.CaptureFixture):
    assert main(arguments.split()) == code
    text = [line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("error: ")]
    assert len(text) == 1 and message in text[0]
