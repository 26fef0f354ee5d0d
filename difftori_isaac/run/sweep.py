"""Sweeps: ``scripts/train.py -m`` trains once per combination of values, through Hydra's sweepers and launchers."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from rich.table import Table

from difftori_isaac.run import locate
from difftori_isaac.run.cli import Terminated
from difftori_isaac.run.compose import CONFIGS, quoted, setting
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.files import SweepSettings, read_yaml
from difftori_isaac.run.record import write_atomic
from difftori_isaac.run.sweep_plan import Plan, check, make_plan
from difftori_isaac.run.trial import PREFIX, Record, Trial, read_records, trial_name, write_table

MAY_CHANGE = ("max_iterations", "device", "save_interval", "keep_checkpoints", "logger")
"""Keys that may differ when a sweep goes on in the same directory."""


def sweep(arguments: Sequence[str]) -> None:
    """Runs every trial, then writes and prints the table of results.

    Raises:
        ConfigError: If what was asked for cannot be; nothing has been started then.
        RunError: If a trial failed or the sweep was stopped.
    """
    plan = make_plan(arguments)
    trials = check(plan)
    names = {trial_name(trial) for trial in trials} if plan.is_grid else None
    sweep_dir = _open(plan)
    read_records(sweep_dir)  # refuses damaged ones before anything is started
    how_many = f"{len(trials)} trials" if plan.is_grid else plan.config.sweeper
    print(f"sweep  {how_many}  launcher {plan.config.launcher}  {sweep_dir}", flush=True)
    stopped = None
    try:
        _launch(plan, sweep_dir)
    except (KeyboardInterrupt, Terminated) as error:
        stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
    except Exception as error:  # a launcher's: a job that died, a scheduler that refuses
        stopped = f"the launcher ended with {type(error).__name__} ({' '.join(str(error).split())[:300]})"
    records = [item for item in read_records(sweep_dir) if names is None or item.trial in names]
    _print(records, write_table(sweep_dir, read_records(sweep_dir)))
    again = f"call the same command with {setting('sweep_dir', sweep_dir)} to go on"
    unfinished = [record for record in records if record.status != "finished"]
    for record in unfinished:
        reason = record.reason or "it can go on"
        print(f"{record.status}: {record.trial}: {reason} ({sweep_dir / record.log})", file=sys.stderr)
    if stopped is not None:
        raise RunError(f"{stopped}; {again}")
    total = len(records) if names is None else len(names)
    finished = len(records) - len(unfinished)
    if finished < total or not records:
        raise RunError(f"{total - finished} of {total} trials did not finish; {again}")


def _open(plan: Plan) -> Path:
    """The sweep's directory, absolute; one that exists goes on only with the settings it began with."""
    if plan.config.sweep_dir is None:
        task = next((item.partition("=")[2] for item in plan.fixed if item.startswith("task=")), "tasks")
        parent = locate.RUNS / "sweeps" / locate.folder_name(task)
        sweep_dir = locate.make_folder(parent / time.strftime("%Y-%m-%d_%H-%M-%S"))
    else:
        sweep_dir = Path(plan.config.sweep_dir)
    file = sweep_dir / "sweep.yaml"
    if file.exists():
        before, now = set(read_yaml(file, SweepSettings)["fixed"]), set(plan.fixed)
        changed = sorted(item for item in before ^ now if item.partition("=")[0] not in MAY_CHANGE)
        if changed:
            raise ConfigError(
                f"sweep_dir {sweep_dir} and this call differ in {', '.join(changed)}; "
                "allowed: the same settings for all its trials, or a new sweep_dir"
            )
    elif sweep_dir.exists() and any(sweep_dir.iterdir()):
        raise ConfigError(f"sweep_dir {sweep_dir} exists and is no sweep; allowed: a new directory, or that of a sweep")
    settings = {"fixed": list(plan.fixed), "swept": list(plan.swept.values()), "hydra": list(plan.hydra)}
    write_atomic(file, yaml.safe_dump(settings, sort_keys=False))
    return sweep_dir.resolve()


def _launch(plan: Plan, sweep_dir: Path) -> None:
    """Hands the trials to Hydra and waits for them."""
    trial = Trial(sweep_dir, plan.fixed, plan.config.objective)
    overrides = [
        *plan.hydra,
        f"hydra.sweep.dir={quoted(sweep_dir / 'hydra')}",
        "hydra.sweeper.params=null",
        *(PREFIX + argument for argument in plan.swept.values()),
    ]
    logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
    with initialize_config_dir(str(CONFIGS), job_name="sweep", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.multirun("sweep", task_function=trial, overrides=overrides, with_log_configuration=False)


def _print(records: Sequence[Record], path: Path) -> None:
    keys = list(dict.fromkeys(key for record in records for key in record.values))
    table = Table(box=None)
    for column in (*keys, "status", "iterations", "last return", "best return"):
        table.add_column(column, justify="right" if column in ("iterations", "last return", "best return") else "left")
    for record in records:
        returns = ("-" if value is None else f"{value:.4g}" for value in (record.last_return, record.best_return))
        values = (record.values.get(key, "") for key in keys)
        table.add_row(*values, record.status, str(record.iterations), *returns)
    console = Console(highlight=False, width=max(100, Console().width))
    console.print(table)
    console.print(f"written to {path}", markup=False, soft_wrap=True)
