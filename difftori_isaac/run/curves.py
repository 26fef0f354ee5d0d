"""How curves are called and grouped, wherever a run is looked at: ``group/name``."""

from __future__ import annotations

from collections.abc import Mapping

from difftori_isaac.run.metrics import COLUMNS, Row

TIME = ("wall_time_s", "env_steps_per_s")
LEARNER = ("learning_rate", "action_std", "num_updates", "replay_steps", "reward_scale", "value_unit")
TRAIN = (*(name for name in COLUMNS if name not in TIME), *LEARNER)
PLANNER = ("plan_shift", "planning_horizon", "actions_at_bound")


def curve_name(column: str) -> str:
    """The curve of a column of metrics.csv: in ``train/``, ``time/``, ``solver/``, ``grad/`` or ``loss/``.

    The planner's statistics in updates carry the prefix ``update_``, those of executed plans none.
    """
    if column.startswith("grad_"):
        return "grad/" + column.removeprefix("grad_")
    if "solver_" in column:
        return "solver/" + column.replace("solver_", "", 1)
    groups = {"time/": TIME, "train/": TRAIN, "solver/": PLANNER}
    return next((group for group, names in groups.items() if column in names), "loss/") + column


def curves(row: Row, log: Mapping[str, float]) -> dict[str, float]:
    """What a writer takes in: a row of metrics.csv without its gaps, and the environment's own log as it is."""
    return {curve_name(column): value for column, value in row.items() if value is not None} | dict(log)
