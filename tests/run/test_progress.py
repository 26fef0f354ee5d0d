from __future__ import annotations

import errno
import io
import sys
from itertools import count

import pytest
from rich.console import Console

from difftori_isaac.run.metrics import COLUMNS
from difftori_isaac.run.progress import Progress

ROW = dict.fromkeys(COLUMNS) | {
    "iteration": 3,
    "env_steps": 98304,
    "mean_return": 4.56789,
    "env_steps_per_s": 35012.3,
    "success_rate": 0.25,
    "solver_converged": 0.98,
    "solver_iterations": 3.125,
    "solver_failures": 2.0,
    "nonfinite_envs": 1,
    "surrogate": -0.0123,
    "grad_prior": 0.5,
}


def show(*rows, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    with Progress("Lift trajopt", first=2, total=13, console=console) as progress:
        for row in rows:
            progress.update(row)
    return stream.getvalue()


def test_plain_lines():
    title, line = show(ROW, terminal=False).splitlines()
    assert title == "Lift trajopt"
    for part in ("3/13", "return 4.568", "success 25%", "surrogate -0.0123", "35,012 steps/s", "ETA 0:00:0"):
        assert part in line
    assert "solver 98% converged, 3.125 iterations, 2 failures" in line
    assert "nonfinite environments 1" in line
    assert "grad_prior" not in line


def test_the_remaining_time_is_that_of_iterations_since_this_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.perf_counter", count(0, 6).__next__)
    assert "ETA 0:01:00" in show(ROW, terminal=False), "one of ten took 6 s"


def test_live_table():
    text = show(ROW, terminal=True)
    for part in ("3 of 13", "98,304", "mean return", "4.568", "98% converged", "remaining"):
        assert part in text


@pytest.mark.parametrize("num_writes", [0, 1, 2, 3])
@pytest.mark.parametrize("terminal", [True, False])
def test_output_that_is_gone_ends_nothing(terminal: bool, num_writes: int):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if next(writes) >= num_writes:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    before, writes = sys.stdout, count()
    with Progress("", first=0, total=3, console=Console(file=Gone(), force_terminal=terminal)) as progress:
        progress.update(ROW)
        progress.update(ROW)
    assert sys.stdout is before


def test_policy_without_solver_and_no_finished_episode():
    row = ROW | {"solver_converged": None, "mean_return": None, "success_rate": None, "nonfinite_envs": 0}
    line = show(row, terminal=False).splitlines()[1]
    assert "return -" in line and "solver" not in line and "success" not in line and "nonfinite" not in line


def test_the_return_of_the_last_finished_episodes_stays_on_the_screen():
    later = ROW | {"iteration": 4, "mean_return": None, "success_rate": None}
    line = show(ROW, later, terminal=False).splitlines()[2]
    assert "4/13" in line and "return 4.568" in line and "success 25%" in line
    assert "4.568" in show(ROW, later, terminal=True).split("4 of 13")[-1]
