"""Speed of training: the planning policy beside rsl_rl's own MLP, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from difftori_isaac.benchmarks.config import BenchmarkConfig
from difftori_isaac.benchmarks.row import Reference, Row
from difftori_isaac.run.build import CPU_NUM_ENVS, resolve_device, resolve_task_name
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.trajopt.config import TrajOptConfig

REFERENCE = Reference("mlp", same=("num_envs", "iterations"))
WARM_UP = 2
"""Iterations left out at the beginning, when kernels are compiled and memory is allocated."""


def training(config: BenchmarkConfig) -> Iterator[Row]:
    """Trains ``task`` with both policies for the same iterations; the median of their speed counts."""
    device, task = resolve_device(config.device), resolve_task_name(config.task)
    sizes = config.sizes(num_envs=(CPU_NUM_ENVS,), horizon=(TrajOptConfig().horizon,), iterations=(10,))
    for size in sizes:
        for policy in ("mlp", "trajopt"):
            if not config.wants(policy):
                continue
            settings = [
                f"task={task}",
                f"policy={policy}",
                f"num_envs={size.num_envs}",
                f"max_iterations={WARM_UP + size.iterations}",
                f"device={device}",
                "logger=none",
                *([f"trajopt.horizon={size.horizon}"] if policy == "trajopt" else []),
            ]
            env_steps_per_s, peak_memory_mb = _train(settings)
            yield Row(
                suite="training",
                solver=policy,
                num_envs=size.num_envs,
                horizon=size.horizon if policy == "trajopt" else None,
                iterations=size.iterations,
                peak_memory_mb=peak_memory_mb,
                env_steps_per_s=env_steps_per_s,
                device=device,
                note=f"{task}; peak of the whole process",
            )


def _train(settings: list[str]) -> tuple[float, float]:
    """Environment steps per second [1/s] and largest resident set [MiB] of a training."""
    with (
        TemporaryDirectory() as folder,
        Path(folder, "output.txt").open("w+", encoding="utf-8", errors="replace") as output,
    ):
        run_dir = Path(folder, "run")
        command = [sys.executable, "-m", "difftori_isaac.scripts.train", *settings, f"run_dir={run_dir}"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            last_line = (output.read().splitlines() or [""])[-1]
            raise RunError(f"training with {' '.join(settings)} ended with code {process.returncode}: {last_line}")
        rows = read_metrics(run_dir / "metrics.csv")[WARM_UP:]
    return median(float(row["env_steps_per_s"]) for row in rows), usage.ru_maxrss / 1024
