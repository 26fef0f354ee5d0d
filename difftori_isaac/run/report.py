"""A run, or several beside each other, as one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import with_config

from difftori_isaac.run.cli import show
from difftori_isaac.run.compose import Overrides, compose, compose_values, group_options, setting
from difftori_isaac.run.config import PYDANTIC, TrainConfig, leaf_keys
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.panels import COLOURS, Line, Panel, arrange, draw
from difftori_isaac.run.plot import find_runs, variant
from difftori_isaac.run.progress import number, tell
from difftori_isaac.run.record import write_atomic
from difftori_isaac.run.results import Results, duration, flat

NAME = "report.html"
MOST_EMBEDDED_BYTES = 16_000_000
"""Larger videos are linked instead of embedded."""
OWN = ("run_dir", "resume")
"""Settings that say where a run is, not what it does."""

TITLE = ("task", "policy", "seed")
"""Settings that a page names in its title."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `scripts/report.py` takes: either ``run_dir`` or ``runs``."""

    run_dir: str | None = None
    """Directory of the run to report."""
    runs: str | tuple[str, ...] | None = None
    """Run directories to compare: a pattern such as runs/Cartpole/*/*, or a list of patterns."""
    output: str | None = None
    """File of the page; null is report.html in the run directory, or here for a comparison."""
    x: str = "env_steps"
    """Column of metrics.csv along the horizontal axes."""
    label: str | tuple[str, ...] = "policy"
    """Key of config.yaml whose value tells variants apart in a comparison, such as policy, or a list of keys."""


def report(overrides: Overrides) -> None:
    """Writes the page of a run, or of a comparison.

    Raises:
        ConfigError: If there is nothing to show.
        RunError: If the page cannot be written.
    """
    config = compose(ReportConfig, overrides)
    if (config.run_dir is None) == (config.runs is None):
        raise ConfigError(f"run_dir is {config.run_dir} and runs is {config.runs}; allowed: one of the two")
    if config.run_dir is not None:
        path = write_report(Path(config.run_dir), output=config.output, x=config.x)
    else:
        run_dirs = find_runs(config.runs or ())
        path = Path(config.output or NAME)
        write_atomic(path, comparison_page([Results(run) for run in run_dirs], path, label=config.label, x=config.x))
    print(f"written to {path}")


def write_report(run_dir: Path, *, output: str | None = None, x: str = "env_steps") -> Path:
    """Writes the page of a run and returns where it is.

    Raises:
        ConfigError: If the directory is no run's, or a file in it is damaged.
        RunError: If the page cannot be written.
    """
    path = Path(output) if output else run_dir / NAME
    write_atomic(path, run_page(Results(run_dir), path, x=x))
    return path


def try_report(run_dir: Path) -> None:
    """Writes the page of a run, if it is one; whatever prevents it is one line of text: a page is not worth a run."""
    if not (run_dir / "metrics.csv").is_file():
        return
    try:
        tell(f"report written to {write_report(run_dir)}")
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        tell(f"report not written: {reason}; try again with: scripts/report.py {setting('run_dir', run_dir)}")


def run_page(run: Results, path: Path, *, x: str) -> str:
    """The page of one run, to lie at ``path``."""

    def lines(panel: Panel) -> list[Line]:
        named = zip(panel.columns.items(), cycle(COLOURS), strict=False)
        return [Line(label, colour, [run.curve(x, column)]) for (label, column), colour in named]

    return _render(
        "run.html",
        run=run,
        sections={
            title: [draw(panel, lines(panel), x=x, legend=True) for panel in panels]
            for title, panels in arrange(_drawn([run], x), together=True).items()
        },
        settings=_settings(run.config),
        config=yaml.safe_dump(run.config, sort_keys=False),
        video=_video(run, path),
    )


def comparison_page(runs: Sequence[Results], path: Path, *, label: str | tuple[str, ...], x: str) -> str:
    """The page of several runs, to lie at ``path``: those with the same value of ``label`` become a mean."""
    groups: dict[str, list[Results]] = defaultdict(list)
    for run in runs:
        groups[variant(run.config, label, run.run_dir)].append(run)
    groups = dict(sorted(groups.items()))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(groups)}

    def lines(column: str) -> list[Line]:
        curves = {name: [run.curve(x, column) for run in members] for name, members in groups.items()}
        there = {name: [curve for curve in found if len(curve[0])] for name, found in curves.items()}
        return [Line(name, colours[name], found) for name, found in there.items() if found]

    return _render(
        "comparison.html",
        runs=runs,
        label=label if isinstance(label, str) else ", ".join(label),
        groups=groups,
        colours=colours,
        links={run: _relative(run.run_dir / NAME, path) for run in runs if (run.run_dir / NAME).is_file()},
        sections={
            title: [
                draw(panel, lines(column), x=x, legend=False) for panel in panels for column in panel.columns.values()
            ]
            for title, panels in arrange(_drawn(runs, x), together=False).items()
        },
        settings=_differing(runs),
    )


def _drawn(runs: Sequence[Results], x: str) -> list[str]:
    """Columns that any run has values of."""
    names = (name for run in runs for name in run.columns if name != x and len(run.curve(x, name)[0]))
    return list(dict.fromkeys(names))


def _settings(config: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Settings that are not this version's defaults: ``changed``, and ``filled`` in where the default is null."""
    variants = {"policy": config["policy"]} | {
        group: section["name"]
        for group, section in config.items()
        if isinstance(section, Mapping) and "name" in section
    }
    chosen = {group: name for group, name in variants.items() if name in group_options(group)}
    defaults = flat(compose_values(TrainConfig, Overrides(groups=chosen)))
    meanings = leaf_keys(TrainConfig)
    found: dict[str, list[dict[str, str]]] = {"changed": [], "filled": []}
    for key, value in flat(config).items():
        default = defaults.get(key, defaults.get(key.rpartition(".")[0], "-"))
        if key not in TITLE + OWN and value != default:
            meaning = meanings.get(key, "").replace("`", "")
            row = {"key": key, "value": show(value), "default": show(default), "meaning": meaning}
            found["filled" if default in (None, "auto") else "changed"].append(row)
    return found


def _differing(runs: Sequence[Results]) -> dict[str, dict[str, int]]:
    """Settings that are not the same in all runs: how many have each value."""
    flats = [flat(run.config) for run in runs]
    counts = {
        key: Counter(show(item.get(key, "-")) for item in flats) for item in flats for key in item if key not in OWN
    }
    return {key: dict(values) for key, values in counts.items() if len(values) > 1}


def _video(run: Results, path: Path) -> str | None:
    """Source of the run's newest video, for a page at ``path``."""
    if run.video is None:
        return None
    if run.video.stat().st_size > MOST_EMBEDDED_BYTES:
        return _relative(run.video, path)
    return "data:video/mp4;base64," + base64.b64encode(run.video.read_bytes()).decode()


def _relative(target: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("difftori_isaac.run"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "show": show}
    return environment.get_template(template).render(values)
