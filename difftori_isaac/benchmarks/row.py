"""A line of a benchmark, and how it is compared with the line of the reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

COST_TOLERANCE = 0.01
"""Mean costs that differ by more, relative to the reference's, are different results: speeds are not compared."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Time, memory and result of one solver on one problem. Times are per call, for all environments together."""

    suite: str
    """What was measured."""
    solver: str
    """Solver and backward mode, or policy."""
    num_envs: int
    """Problems solved at once."""
    horizon: int | None = None
    """Planned actions [steps]; None for a policy that does not plan."""
    iterations: int | None = None
    """Solver iterations allowed; of PPO in ``training``."""
    forward_ms: float | None = None
    """Solving alone [ms]."""
    forward_backward_ms: float | None = None
    """Solving and pulling a loss of the plan back to model, state and prior [ms]."""
    solves_per_s: float | None = None
    """Environments solved per second of ``forward_ms`` [1/s]."""
    peak_memory_mb: float | None = None
    """Most memory beyond what was there before [MiB]."""
    final_cost: float | None = None
    """Mean cost of the plans, by one and the same function for every solver."""
    measured: bool = True
    """Whether it was measured here; a quoted line was measured elsewhere or by others."""
    initial_cost: float | None = None
    """Mean cost of the warm start."""
    backward_ms: float | None = None
    """What the gradient adds to ``forward_ms`` [ms]."""
    system_share: float | None = None
    """Share of the CPU time that the operating system took, mostly to hand out memory."""
    reference: str | None = None
    """Solver that this line was compared with."""
    ratio: float | None = None
    """Times as fast as the reference per environment; None if the results differ or cannot be compared."""
    same_cost: bool | None = None
    """Whether ``final_cost`` is the reference's within 1 %; None if one is unknown."""
    gradient_error: float | None = None
    """Largest deviation of directional derivatives from finite differences, relative to the largest of them."""
    update_ms: float | None = None
    """One optimizer step of a learner [ms]."""
    env_steps_per_s: float | None = None
    """Environment steps per second of training [1/s]; in ``model_based`` without the simulator's share."""
    device: str | None = None
    """Device."""
    dtype: str | None = None
    """Precision."""
    note: str = ""
    """Where a quoted line comes from, or why something is missing."""


class Reference(NamedTuple):
    """What the other rows of a suite are compared with."""

    solver: str
    """Its name."""
    same: tuple[str, ...] = ("num_envs", "horizon", "iterations")
    """Fields of :class:`Row` that have to be those of the reference."""


def compare(rows: Iterable[Row], reference: Reference) -> list[Row]:
    """Compare every row with that of the reference which agrees with it, if there is one."""

    def size(row: Row) -> tuple[int | None, ...]:
        return tuple(getattr(row, name) for name in reference.same)

    rows = list(rows)
    references = {size(row): row for row in rows if row.solver == reference.solver}
    return [_compared(row, references[size(row)]) if size(row) in references else row for row in rows]


def _compared(row: Row, reference: Row) -> Row:
    same_cost = None
    if row.final_cost is not None and reference.final_cost is not None:
        same_cost = abs(row.final_cost - reference.final_cost) <= COST_TOLERANCE * abs(reference.final_cost)
    ratio = None
    if same_cost is not False and (speed := _speed(row)) and (reference_speed := _speed(reference)):
        ratio = speed / reference_speed
    note = row.note
    if same_cost is False:
        note = f"{note}; cost differs" if note else "cost differs"
    return replace(row, reference=reference.solver, ratio=ratio, same_cost=same_cost, note=note)


def _speed(row: Row) -> float | None:
    """Environments per millisecond, forward and backward; of a learner, environment steps per second."""
    if row.env_steps_per_s is not None:
        return row.env_steps_per_s
    return row.num_envs / row.forward_backward_ms if row.forward_backward_ms else None
