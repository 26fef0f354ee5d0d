"""Time, peak memory and cost of a solve."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.row import Row

TIME_BUDGET_S = 30.0
"""Timed calls on a CPU are not repeated beyond this [s]."""


@dataclass(frozen=True)
class Workload:
    """One solver on one problem, ready to be called again and again."""

    forward: Callable[[], torch.Tensor]
    """Solve without gradient; actions, shape (num_envs, horizon, action_dim)."""
    forward_backward: Callable[[], Any] | None
    """Solve and pull a loss of the plan back; None for a solver without gradient."""
    cost: Callable[[torch.Tensor], torch.Tensor]
    """Costs of actions, shape (num_envs,)."""
    warm_start: torch.Tensor
    """First guess, of the shape of the actions."""


Build = Callable[[Size], Workload]
"""Makes the workload of a size. It can be pickled: memory is measured in a process of its own."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch, so that the CPU time of the process is the time of one core."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def measure(build: Build, size: Size, *, suite: str, solver: str, device: str, dtype: str, repeats: int) -> Row:
    """Measure one solver at one size.

    Times are medians of ``repeats`` calls of each after a warm-up: CPU time of the process, to be taken in
    :func:`single_threaded`, or, on CUDA, time between two events. Peak memory is what torch had allocated on CUDA, and
    on a CPU by how much the resident set of a fresh process grows from a solve with one environment to this one.
    """
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.cuda.set_device(device)
    memory = _peak_cuda_memory if on_cuda else _peak_resident_memory
    peak_memory_mb = memory(build, size)
    workload = build(size)
    calls = [call for call in (workload.forward, workload.forward_backward) if call is not None]
    before = os.times()
    times = times_ms(calls, device, repeats)
    after = os.times()
    user_s, system_s = after.user - before.user, after.system - before.system
    forward_ms = median(first for first, *_ in times)
    forward_backward_ms = median(second for _, second in times) if workload.forward_backward else None
    backward_ms = median(second - first for first, second in times) if workload.forward_backward else None
    actions = workload.forward()
    return Row(
        suite=suite,
        solver=solver,
        **size._asdict(),
        forward_ms=forward_ms,
        forward_backward_ms=forward_backward_ms,
        backward_ms=backward_ms,
        solves_per_s=1e3 * size.num_envs / forward_ms,
        peak_memory_mb=peak_memory_mb,
        system_share=None if on_cuda else system_s / max(user_s + system_s, 1e-9),
        final_cost=float(workload.cost(actions).mean()),
        initial_cost=float(workload.cost(workload.warm_start).mean()),
        device=torch.cuda.get_device_name(device) if on_cuda else "cpu",
        dtype=dtype,
    )


def times_ms(calls: Sequence[Callable[[], Any]], device: str, repeats: int) -> list[list[float]]:
    """Times of the calls in turn [ms], once per repeat: CPU time of the process, or time between two CUDA events."""
    return (_cuda_ms if device.startswith("cuda") else _cpu_ms)(calls, repeats)


def _cpu_ms(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Times of the calls in turn [ms], once per repeat: what disturbs one disturbs the others."""
    for call in calls:
        call()
    times = []
    for _ in range(repeats):
        times.append([_cpu_ms_once(call) for call in calls])
        if sum(map(sum, times)) > 1e3 * TIME_BUDGET_S:
            break
    return times


def _cpu_ms_once(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def _cuda_ms(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """As :func:`_cpu_ms`, between two events."""
    for call in calls:
        for _ in range(3):  # kernels are chosen and graphs captured in the first calls
            call()
    return [[_cuda_ms_once(call) for call in calls] for _ in range(repeats)]


def _cuda_ms_once(call: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _once(workload: Workload) -> None:
    (workload.forward_backward or workload.forward)()


def _peak_cuda_memory(build: Build, size: Size) -> float:
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _once(build(size))
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_resident_memory(build: Build, size: Size) -> float:
    context = multiprocessing.get_context("forkserver")  # a fork of this process would share its freed memory
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_resident_memory_growth, build, size).result()


def _resident_memory_growth(build: Build, size: Size) -> float:
    torch.set_num_threads(1)
    _once(build(size._replace(num_envs=1)))
    before = peak_resident_mb()
    _once(build(size))
    return peak_resident_mb() - before


def peak_resident_mb() -> float:
    """Largest resident set of this process so far [MiB]. Unlike ``ru_maxrss`` it forgets the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024
