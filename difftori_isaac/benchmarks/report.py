"""Rows as a table on the terminal, as JSON and as Markdown."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from difftori_isaac.benchmarks.row import Row


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "solver": ("solver", str),
    "num_envs": ("envs", lambda value: f"{value:,}"),
    "horizon": ("horizon", str),
    "iterations": ("iterations", str),
    "forward_ms": ("solve [ms]", _short),
    "forward_backward_ms": ("solve and gradient [ms]", _short),
    "backward_ms": ("gradient alone [ms]", _short),
    "system_share": ("system share", "{:.0%}".format),
    "solves_per_s": ("solves/s", _short),
    "update_ms": ("update [ms]", _short),
    "env_steps_per_s": ("env-steps/s", _short),
    "peak_memory_mb": ("peak memory [MiB]", _short),
    "initial_cost": ("first cost", lambda value: f"{value:.4g}"),
    "final_cost": ("cost", lambda value: f"{value:.4g}"),
    "gradient_error": ("gradient error", lambda value: f"{value:.1e}"),
    "ratio": ("ratio", lambda value: f"{_short(value)}×"),
    "note": ("note", str),
}
"""Fields that are shown, their headings and how a value is written."""


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the columns that have a value in some row."""
    shown = [name for name in COLUMNS if any(getattr(row, name) not in (None, "") for row in rows)]
    references = {row.reference for row in rows if row.reference is not None}
    headings = [
        f"speed against {' or '.join(sorted(references))}" if name == "ratio" else COLUMNS[name][0] for name in shown
    ]
    lines = [
        ["" if getattr(row, name) is None else COLUMNS[name][1](getattr(row, name)) for name in shown] for row in rows
    ]
    return headings, lines


def print_table(rows: Sequence[Row]) -> None:
    """Prints the rows; quoted ones are dim, those whose cost differs from the reference's are red."""
    headings, lines = cells(rows)
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("solver", "note") else "right")
    for row, line in zip(rows, lines, strict=True):
        table.add_row(*line, style="red" if row.same_cost is False else None if row.measured else "dim")
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=240)
    console.print(table)


def json_text(rows: Iterable[Row]) -> str:
    """``{"rows": [...]}`` with the fields of :class:`Row` as keys, in their order."""
    return json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n"


def markdown_text(rows: Sequence[Row], command: str) -> str:
    """The command, the machine and the table."""
    headings, lines = cells(rows)
    rule = ["---" if heading in ("solver", "note") else "---:" for heading in headings]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))
    return f"```bash\n{command}\n```\n\n{machine(rows)}\n\n{table}\n"


def machine(rows: Iterable[Row]) -> str:
    """Processor, GPU if one was used, and versions, in one line."""
    found = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    gpus = sorted({row.device for row in rows if row.measured and row.device not in (None, "cpu")})
    parts = [f"{len(found)} × {found[0]}" if found else platform.processor(), *map(str, gpus)]
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
