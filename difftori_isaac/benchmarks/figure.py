"""Time against number of environments, horizon and iterations, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from difftori_isaac.benchmarks.row import Row

AXES = {
    "num_envs": ("environments", "forward_backward_ms", "solve and gradient [ms]"),
    "horizon": ("horizon [steps]", "forward_backward_ms", "solve and gradient [ms]"),
    "iterations": ("solver iterations", "backward_ms", "gradient alone [ms]"),
}
"""Abscissa with its label, ordinate with its label."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel for every abscissa along which some solver was measured more than once.

    Raises:
        OSError: If the picture cannot be written.
        ValueError: If its format is unknown.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = [name for name in AXES if any(len(line) > 1 for line in _lines(rows, name).values())] or ["num_envs"]
    solvers = list(dict.fromkeys(row.solver for row in rows))
    figure = Figure(figsize=(4.8 * len(names) + 3.2, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        x_label, ordinate, y_label = AXES[name]
        lines = _lines(rows, name)
        for solver, line in lines.items():
            quoted = not line[0].measured
            axes.plot(
                [getattr(row, name) for row in line],
                [getattr(row, ordinate) for row in line],
                label=f"{solver} (quoted)" if quoted else solver,
                color=f"C{solvers.index(solver)}",
                marker="o",
                markerfacecolor="white" if quoted else None,
                linestyle="--" if quoted else "-",
            )
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        axes.set_xticks(sorted({getattr(row, name) for line in lines.values() for row in line}))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)


def _lines(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    """Rows of every solver along one abscissa, at the first row's sizes on the others."""
    others = [axis for axis in AXES if axis != name]
    ordinate = AXES[name][1]
    found: dict[str, list[Row]] = {}
    for row in rows:
        first = next(item for item in rows if item.solver == row.solver)
        same = all(getattr(row, other) == getattr(first, other) for other in others)
        if same and getattr(row, ordinate) is not None:
            found.setdefault(row.solver, []).append(row)
    return {solver: sorted(line, key=lambda row: getattr(row, name)) for solver, line in found.items()}
