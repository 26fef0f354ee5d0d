"""The way of a benchmark: measure, compare, show, write."""

from __future__ import annotations

import multiprocessing
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from difftori_isaac.benchmarks import figure, report
from difftori_isaac.benchmarks.config import WITH_PEERS, BenchmarkConfig
from difftori_isaac.benchmarks.measure import single_threaded
from difftori_isaac.benchmarks.row import Row, compare
from difftori_isaac.run.cli import show
from difftori_isaac.run.compose import Overrides, compose
from difftori_isaac.run.errors import ConfigError, RunError


def benchmark(overrides: Overrides) -> None:
    """Runs a suite, prints its table and writes what was asked for.

    Raises:
        ConfigError: If nothing is left to measure.
        RunError: If a file cannot be written.
    """
    config = compose(BenchmarkConfig, overrides)
    suite = f"{__package__}.{config.suite}"
    # Processes that measure memory start with what every one of them imports.
    multiprocessing.set_forkserver_preload([suite, "difftori_isaac.trajopt.solvers.theseus_lm"])
    rows: list[Row] = []
    with single_threaded():
        for row in resolve_name(f"{suite}:{config.suite}")(config):
            rows.append(row)
            print(f"{len(rows)}: {row.solver}, {row.num_envs} environments", file=sys.stderr)
    if not rows:
        more = config.suite in WITH_PEERS and not config.peers
        remedy = "leave it out, or set peers=true" if more else "leave it out"
        raise ConfigError(f"filter is {config.filter!r}, which fits no solver of suite={config.suite}; {remedy}")
    if (reference := resolve_name(f"{suite}:REFERENCE")) is not None:
        rows = compare(rows, reference)
    report.print_table(rows)
    settings = (shlex.quote(f"{key}={show(value)}") for key, value in overrides.values.items())
    command = " ".join(["uv run scripts/benchmark.py", *settings])
    _write(config.json, lambda path: path.write_text(report.json_text(rows), encoding="utf-8"))
    _write(config.markdown, lambda path: path.write_text(report.markdown_text(rows, command), encoding="utf-8"))
    _write(config.plot, lambda path: figure.draw(rows, path))


def _write(path: str | None, write: Callable[[Path], Any]) -> None:
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(Path(path))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {path}: {error}") from error
