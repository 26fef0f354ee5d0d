"""Progress of a training: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from difftori_isaac.run.metrics import COLUMNS, Row

SOLVER = {"solver_iterations": "iterations", "solver_failures": "failures"}
"""Solver statistics among a learner's losses, beside the converged share, and how they are called."""

EPISODES = ("mean_return", "mean_episode_length", "success_rate")
"""Statistics of finished episodes; None in a row in which none ended."""


def tell(text: str) -> None:
    """Prints a line; where it cannot be written, nothing more is."""
    try:
        print(text, flush=True)
    except OSError:
        with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Progress:
    """Shows one row per iteration: return, losses, solver statistics, speed and remaining time.

    A training goes on where nobody looks any more: once the output cannot be written, nothing more is shown.
    """

    def __init__(self, title: str, *, first: int, total: int, console: Console | None = None) -> None:
        """Prepares the display.

        Args:
            title: What runs.
            first: Iterations done before this start.
            total: Iterations in total.
            console: Where to print; None is the standard output.
        """
        self.console = console or Console(highlight=False)
        self._title, self._first, self._total = title, first, total
        self._began = time.perf_counter()
        self._episodes: Row = {}
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        """Begins the display; the remaining time is estimated from here."""
        self._began = time.perf_counter()
        if self._live is None:
            self._print(self._title)
        else:
            self._show(self._live.start)
            if self.console.quiet:
                self._live = None  # it has not begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display; its last state stays on the screen."""
        if self._live is not None:
            self._show(self._live.stop)

    def update(self, row: Row) -> None:
        """Shows a row of metrics.csv; where no episode ended in it, what those before it had."""
        self._episodes |= {name: row[name] for name in EPISODES if row.get(name) is not None}
        row = row | self._episodes
        remaining = self._remaining(int(row["iteration"] or 0))
        if self._live is None:
            self._print(self._line(row, remaining))
        else:
            live, table = self._live, self._table(row, remaining)
            self._show(lambda: live.update(table, refresh=True))

    def _print(self, text: str) -> None:
        self._show(lambda: self.console.print(text, markup=False, soft_wrap=True))
        self._show(self.console.file.flush)

    def _show(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, SystemExit):  # which is rich's answer to a closed pipe
            self.console.quiet = True
            with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), self.console.file.fileno())

    def _remaining(self, iteration: int) -> timedelta:
        pace = (time.perf_counter() - self._began) / max(iteration - self._first, 1)
        return timedelta(seconds=round(pace * (self._total - iteration)))

    def _line(self, row: Row, remaining: timedelta) -> str:
        parts = [f"{row['iteration']:>5}/{self._total}", f"return {number(row['mean_return'])}"]
        if row["success_rate"] is not None:
            parts.append(f"success {row['success_rate']:.0%}")
        parts += [f"{name} {number(value)}" for name, value in losses(row).items()]
        if solver := solver_text(row):
            parts.append(f"solver {solver}")
        if row["nonfinite_envs"]:
            parts.append(f"nonfinite environments {row['nonfinite_envs']}")
        return "  ".join([*parts, f"{row['env_steps_per_s']:,.0f} steps/s", f"ETA {remaining}"])

    def _table(self, row: Row, remaining: timedelta) -> Table:
        table = Table(title=self._title, show_header=False, min_width=60)
        table.add_column(style="cyan")
        table.add_column()
        iteration = row["iteration"] or 0
        table.add_row("iteration", f"{iteration} of {self._total}")
        table.add_row("", ProgressBar(total=self._total, completed=iteration, width=40))
        table.add_row("environment steps", f"{row['env_steps']:,} at {row['env_steps_per_s']:,.0f} per second")
        table.add_row("remaining", str(remaining), end_section=True)
        table.add_row("mean return", number(row["mean_return"]))
        table.add_row("mean episode length", number(row["mean_episode_length"]))
        if row["success_rate"] is not None:
            table.add_row("success rate", f"{row['success_rate']:.1%}")
        table.add_row("non-finite environments", number(row["nonfinite_envs"]), end_section=True)
        if solver := solver_text(row):
            table.add_row("solver", solver, end_section=True)
        for name, value in losses(row).items():
            table.add_row(name.replace("_", " "), number(value))
        return table


def losses(row: Row) -> Row:
    """The learner's own numbers in a row that are worth a glance; metrics.csv has all of them."""
    hidden = (*COLUMNS, *SOLVER)
    return {key: value for key, value in row.items() if key not in hidden and not key.startswith(("grad_", "update_"))}


def solver_text(row: Mapping[str, float | None]) -> str:
    """Solver statistics of a row in words; empty if the policy has no solver."""
    if row.get("solver_converged") is None:
        return ""
    counts = [f"{number(row[key])} {name}" for key, name in SOLVER.items() if row.get(key) is not None]
    return ", ".join([f"{row['solver_converged']:.0%} converged", *counts])


def number(value: float | None) -> str:
    """A number in at most four significant digits; a dash for none."""
    return "-" if value is None else f"{value:.4g}"
