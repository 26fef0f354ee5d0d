"""Curves of several runs: seeds of the same variant become a mean and its 95% interval."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import with_config
from scipy.special import stdtrit

from difftori_isaac.run.compose import Overrides, compose
from difftori_isaac.run.config import PYDANTIC
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.files import read_settings
from difftori_isaac.run.metrics import read_metrics

Curve = tuple[np.ndarray, np.ndarray]
"""Abscissae and ordinates, shapes (num_points,)."""

MOST_LABELS_INSIDE = 4
"""Labels that a legend may have among the curves; a longer one stands beside them."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """What `scripts/plot.py` takes."""

    runs: str | tuple[str, ...]
    """Run directories: a pattern such as runs/Cartpole/*/*, or a list of patterns."""
    output: str = "curves.png"
    """Picture to write, a PNG if it has no suffix."""
    file: Literal["metrics.csv", "eval.csv"] = "metrics.csv"
    """File of a run that is drawn: of the training, or of evaluate.py checkpoint=all."""
    x: str = "env_steps"
    """Column of the file along the horizontal axis."""
    log_x: bool = False
    """Whether the horizontal axis is logarithmic: learners that need different numbers of steps, in one picture."""
    y: str = "mean_return"
    """Column of the file along the vertical axis."""
    label: str | tuple[str, ...] = "policy"
    """Key of config.yaml whose value tells variants apart, such as policy or trajopt.solver, or a list of keys."""
    title: str | None = None
    """Title; null is the task."""


class EmptyColumnError(ConfigError):
    """A run has no number of what is to be drawn, as one that ended before its first episode did."""


def plot(overrides: Overrides) -> None:
    """Draws the curves of several runs into one picture.

    Raises:
        ConfigError: If there is nothing to draw.
        RunError: If the picture cannot be written.
    """
    config = compose(PlotConfig, overrides)
    run_dirs = find_runs(config.runs, config.file)
    groups: dict[str, list[Curve]] = defaultdict(list)
    tasks: dict[str, None] = {}
    empty: list[EmptyColumnError] = []
    for run_dir in run_dirs:
        settings = read_settings(run_dir, "task")
        try:
            curve = read_curve(run_dir / config.file, config.x, config.y)
        except EmptyColumnError as error:
            empty.append(error)
            continue
        tasks[settings["task"]] = None
        groups[variant(settings, config.label, run_dir)].append(curve)
    if not groups:
        raise empty[0]
    for error in empty:
        print(f"note: {error}: left out")
    path = Path(config.output if Path(config.output).suffix else f"{config.output}.png")
    _draw(config, groups, config.title or ", ".join(tasks), path)
    count = len(run_dirs) - len(empty)
    print(f"{count} run{'s' * (count > 1)} of {', '.join(groups)} written to {path}")


def find_runs(runs: str | Sequence[str], file: str = "metrics.csv") -> list[Path]:
    """Run directories that a pattern, or any of a list of patterns, matches, with a ``file`` that has rows.

    Raises:
        ConfigError: If there are none, or a file is damaged.
    """
    patterns = [runs] if isinstance(runs, str) else runs
    found = {Path(path) for pattern in patterns for path in glob.glob(pattern)}  # noqa: PTH207 (absolute patterns)
    once = {path.resolve(): path for path in sorted(found, reverse=True)}  # of several names of a run, the first
    run_dirs = [path for path in sorted(once.values()) if (path / file).is_file()]
    if not run_dirs:
        raise ConfigError(f"runs is {runs}, where no directory has the file {file}; allowed: run directories")
    empty = [path for path in run_dirs if not read_metrics(path / file)]
    if empty == run_dirs:
        raise ConfigError(f"runs is {runs}, where no {file} has a row yet; allowed: runs that have one")
    for path in empty:
        print(f"note: {path / file} has no row yet: left out")
    return [path for path in run_dirs if path not in empty]


def variant(settings: Mapping[str, Any], label: str | Sequence[str], run_dir: Path) -> str:
    """What tells a run from others: the value of a dotted key of its configuration, or names and values of several.

    Raises:
        ConfigError: If there is no such key.
    """
    if isinstance(label, str):
        return _look_up(settings, label, run_dir)
    return " ".join(f"{key.rpartition('.')[2]}={_look_up(settings, key, run_dir)}" for key in label)


def _look_up(settings: Mapping[str, Any], key: str, run_dir: Path) -> str:
    """The value of a dotted key of a run's configuration, as text.

    Raises:
        ConfigError: If there is no such key.
    """
    value: Any = settings
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ConfigError(f"label is {key}, which {run_dir / 'config.yaml'} has not; allowed: a key such as policy")
        value = value[name]
    return str(value)


def read_curve(path: Path, x: str, y: str) -> Curve:
    """Two columns of a run's metrics.csv or eval.csv, without the rows in which one is empty or not finite.

    Raises:
        EmptyColumnError: If a column is empty.
        ConfigError: If there is no such column, ``x`` falls somewhere or the file is damaged.
    """
    rows = read_metrics(path)
    for column in (x, y):
        if rows and column not in rows[0]:
            raise ConfigError(f"{path} has no column {column!r}; allowed: {', '.join(rows[0])}")
    points = np.array([(float(row[x] or "nan"), float(row[y] or "nan")) for row in rows]).reshape(-1, 2)
    finite = np.isfinite(points)
    points = points[finite.all(axis=1)]
    if not len(points):
        empty = y if finite[:, 0].any() else x
        raise EmptyColumnError(f"column {empty!r} of {path} is empty")
    check_rising(points[:, 0], x, path)
    return points[:, 0], points[:, 1]


def check_rising(xs: np.ndarray, x: str, path: Path) -> None:
    """Refuses a horizontal axis along which a curve would go back.

    Raises:
        ConfigError: If a value of the column ``x`` of the file is smaller than the one before it.
    """
    if (np.diff(xs) < 0).any():
        raise ConfigError(f"x is {x!r}, which falls in {path}; allowed: a column that only rises, such as env_steps")


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and half width of its 95% interval (Student's t; 0 for one curve) where all curves are defined.

    They are empty if that is nowhere. Curves with different abscissae are interpolated linearly.
    """
    low, high = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    grid = np.unique(np.concatenate([xs for xs, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    values = np.stack([np.interp(grid, xs, ys) for xs, ys in curves])
    if len(curves) == 1:
        return grid, values[0], np.zeros_like(grid)
    half = stdtrit(len(curves) - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return grid, values.mean(axis=0), half


def _draw(config: PlotConfig, groups: dict[str, list[Curve]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, curves in sorted(groups.items()):
        xs, mean, half = mean_curve(curves)
        if not len(xs):
            ranges = ", ".join(f"{xs[0]:g} to {xs[-1]:g}" for xs, _ in curves)
            raise ConfigError(
                f"runs of {label} have no {config.x} in common: {ranges}; leave some out, or give a label= that differs"
            )
        (line,) = axes.plot(xs, mean, label=f"{label} ({len(curves)} seed{'s' * (len(curves) > 1)})")
        if len(curves) > 1:
            axes.fill_between(xs, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel=config.x.replace("_", " "), ylabel=config.y.replace("_", " "))
    if config.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    if len(groups) > MOST_LABELS_INSIDE:
        figure.legend(loc="outside right upper")
    else:
        axes.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {path}: {error}; give output=<file>.png") from error
