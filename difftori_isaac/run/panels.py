"""Small pictures of a run's curves, as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from difftori_isaac.run.curves import curve_name
from difftori_isaac.run.plot import Curve, mean_curve

SECTIONS = {
    "train": "Training",
    "solver": "Planner",
    "loss": "Losses",
    "grad": "Gradient norms",
    "time": "Speed",
}
"""Groups of curves and their titles, in the order of the page."""
HIDDEN = ("train/iteration", "train/env_steps", "time/wall_time_s")
SHARES = ("converged", "success_rate", "actions_at_bound")
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#0891b2", "#ca8a04", "#db2777", "#6b7280")
"""Readable on white and on black."""
MOST_POINTS = 300
"""Curves with more are averaged down to so many."""
_INK = "#010203"
"""Stands for the page's text colour in matplotlib's output."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    columns: Mapping[str, str]
    """What its lines are called, and the column of metrics.csv behind each."""
    log: bool = False
    """Whether the vertical axis is logarithmic."""
    share: bool = False
    """Whether it goes from 0 to 1."""


@dataclass(frozen=True)
class Line:
    """The mean of some curves."""

    label: str
    colour: str
    curves: Sequence[Curve]


def arrange(columns: Sequence[str], *, together: bool) -> dict[str, list[Panel]]:
    """Panels of the columns of metrics.csv by title of their section.

    Args:
        columns: Names of the columns.
        together: Whether curves that belong together share a panel: executed plans and updates, all gradient norms.
    """
    sections: dict[str, dict[str, dict[str, str]]] = {group: {} for group in SECTIONS}
    for column in columns:
        name = curve_name(column)
        group, _, leaf = name.partition("/")
        if name in HIDDEN:
            continue
        title, label = leaf, "executed"
        if together and group == "grad":
            title, label = "gradient norm", leaf
        elif together and group == "solver" and leaf.startswith("update_"):
            title, label = leaf.removeprefix("update_"), "in updates"
        sections[group].setdefault(title, {})[label] = column
    return {
        SECTIONS[group]: [
            Panel(title.replace("_", " "), lines, log=together and group == "grad", share=title.endswith(SHARES))
            for title, lines in found.items()
        ]
        for group, found in sections.items()
        if found
    }


def draw(panel: Panel, lines: Sequence[Line], *, x: str, legend: bool) -> str:
    """SVG of a panel: each line with the 95% interval of its mean, if it has several curves, where all are defined."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inked, _INK) | {"font.size": 8, "axes.titlesize": 9}
    with rc_context(style | {"svg.fonttype": "none", "svg.hashsalt": panel.title}):
        figure = Figure(figsize=(3.4, 1.9))
        figure.subplots_adjust(left=0.17, right=0.97, top=0.88, bottom=0.22)
        axes = figure.subplots()
        for line in lines:
            averages = mean_curve(line.curves)
            if not len(averages[0]):
                continue
            xs, mean, half = (_thinned(values) for values in averages)
            axes.plot(xs, mean, label=line.label, color=line.colour, linewidth=1.3, marker="o" if len(xs) == 1 else "")
            if len(line.curves) > 1:
                axes.fill_between(xs, mean - half, mean + half, color=line.colour, alpha=0.2, linewidth=0)
        axes.set(title=panel.title, xlabel=x.replace("_", " "))
        if panel.log:
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 4))
        if panel.share:
            axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.15, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        if legend and len(lines) > 1:
            axes.legend(frameon=False, fontsize=7, labelspacing=0.2)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), panel.title)


def _inline(svg: str, title: str) -> str:
    """An SVG file as an element of a page: no prolog, no ids that others could share, the page's text colour."""
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _thinned(values: np.ndarray) -> np.ndarray:
    parts = np.array_split(values, min(len(values), MOST_POINTS))
    return np.array([part.mean() for part in parts])
