"""Trains for hours while things go wrong, and reports what was lost: `uv run tests/soak/soak.py --help`.

Random observations, rewards and plans are NaN all the time. Every few minutes the run is stopped by SIGTERM, killed, or
finds the disk full as it saves, and is resumed; in some of these stretches the server of Weights & Biases is
unreachable. Every fifth stretch is long and undisturbed but for the NaN: the growth of memory is read there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.metrics import read_metrics

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "scripts" / "train.py"
FAULTS = ("SIGTERM", "SIGKILL", "disk full", "SIGTERM without wandb", "none")
EXIT_CODES = {"SIGTERM": 0, "SIGTERM without wandb": 0, "SIGKILL": -signal.SIGKILL, "disk full": 1, "none": 0}
LOGGERS = {"disk full": "none", "SIGTERM without wandb": "wandb"}
WARM_UP_S = 90.0
"""Of a stretch, before memory counts."""


@dataclass
class Stretch:
    """One process, from its start to its end."""

    fault: str
    exit_code: int
    first_iteration: int
    last_iteration: int
    saved_iteration: int
    minutes: float
    rss_mb: float
    """At the end of the stretch."""
    rss_mb_per_hour: float | None
    """Slope of a line through the memory after the warm-up."""
    message: str

    def problems(self, save_interval: int) -> list[str]:
        """What is not as it has to be."""
        lost = self.last_iteration - self.saved_iteration
        allowed = 0 if self.fault.startswith(("SIGTERM", "none")) else save_interval
        full = self.fault == "disk full"
        found = {
            f"exit code {self.exit_code}, not {EXIT_CODES[self.fault]}": self.exit_code != EXIT_CODES[self.fault],
            f"{lost} iterations lost": not 0 <= lost <= allowed,
            "a traceback": "Traceback" in self.message,
            "no iteration": full and self.last_iteration < self.first_iteration,
            "no checkpoint that found the disk full": full and "cannot write checkpoint" not in self.message,
        }
        return [what for what, is_so in found.items() if is_so]


def install(folder: Path) -> dict[str, str]:
    """Environment variables under which the spoilt tasks count as installed, and wandb finds no server."""
    info = folder / "soak_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: soak-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[isaaclab.tasks]\nsoak_tasks = soak_tasks\n")
    paths = (str(Path(__file__).parent), str(folder), os.environ.get("PYTHONPATH"))
    wandb = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    return os.environ | wandb | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def room(run_dir: Path) -> int:
    """Size that the tables and records of a run can grow to while its checkpoints, larger ones, cannot be written."""
    return (32 << 10) + max(path.stat().st_size for path in run_dir.iterdir() if path.suffix in (".csv", ".json"))


def fill_disk(size: int) -> None:
    """Lets no file of this process grow beyond a size [byte]."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def command(arguments: argparse.Namespace, fault: str, start: int) -> list[str]:
    """Starts the run, or resumes it after iteration ``start``."""
    task = ["resume=latest"] if start else [f"task=Soak-{arguments.task}", f"seed={arguments.seed}"]
    settings = [*task, f"run_dir={arguments.run_dir}", "max_iterations=1000000", "device=cpu"]
    settings += ["learner.max_nonfinite_share=0.5"]  # of few environments a tenth, where training stops, is soon spoilt
    settings += [f"save_interval={1 if fault == 'disk full' else arguments.save_interval}"]
    return [sys.executable, str(TRAIN), *settings, f"logger={LOGGERS.get(fault, 'tensorboard')}", *arguments.overrides]


def stretch(arguments: argparse.Namespace, env: dict[str, str], fault: str) -> Stretch:
    """Starts or resumes the run, lets it go on, and ends it."""
    metrics, first = arguments.run_dir / "metrics.csv", saved_iteration(arguments.run_dir) + 1
    start, samples = time.monotonic(), []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command(arguments, fault, first - 1),
            env=env,
            cwd=arguments.run_dir.parent,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=partial(fill_disk, room(arguments.run_dir)) if fault == "disk full" else None,
        )
        watched = psutil.Process(process.pid)
        end = start + 60.0 * arguments.period * (6 if fault == "none" else 1)
        while process.poll() is None and (time.monotonic() < end or last_iteration(metrics) < first):
            time.sleep(2.0)
            try:
                if (size := watched.memory_info().rss / 2**20) > 0.0:  # 0 once it has ended
                    samples.append((time.monotonic() - start, size))
            except psutil.NoSuchProcess:
                break
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if fault == "SIGKILL" else signal.SIGTERM)
        code = process.wait(600)
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if line.startswith(("error:", "Traceback"))]
    minutes, saved = (time.monotonic() - start) / 60.0, saved_iteration(arguments.run_dir)
    message = "\n".join(lines)
    if saved == 0:
        raise SystemExit(message or f"nothing was saved before {fault}")
    times, sizes = np.array([sample for sample in samples if sample[0] > WARM_UP_S] or [(0.0, 0.0)]).T
    slope = 3600.0 * float(np.polyfit(times, sizes, 1)[0]) if len(times) > 30 else None
    last_size = samples[-1][1] if samples else 0.0
    return Stretch(fault, code, first, last_iteration(metrics), saved, minutes, last_size, slope, message)


def saved_iteration(run_dir: Path) -> int:
    """Iteration of the newest checkpoint, every byte of it checked; 0 if there is none."""
    found = checkpoints.numbered(run_dir)
    return checkpoints.load(found[-1]).iteration if found else 0


def last_iteration(metrics: Path) -> int:
    """Number of the last row, 0 if there is none.

    Raises:
        RuntimeError: If an iteration before it is missing or comes twice.
    """
    iterations = [int(row["iteration"]) for row in read_metrics(metrics)] if metrics.exists() else []
    if iterations != list(range(1, len(iterations) + 1)):
        raise RuntimeError(f"{metrics} has the iterations {iterations}")
    return len(iterations)


def resumes_agree(arguments: argparse.Namespace, env: dict[str, str]) -> bool:
    """Whether two resumes of the last checkpoint give the same numbers."""
    newest, results = checkpoints.numbered(arguments.run_dir)[-1], []
    total = saved_iteration(arguments.run_dir) + 3
    for name in ("first", "second"):
        folder = arguments.run_dir.with_name(f"{arguments.run_dir.name}_{name}")
        settings = [f"resume={newest}", f"run_dir={folder}", f"max_iterations={total}", "device=cpu", "logger=none"]
        subprocess.run([sys.executable, str(TRAIN), *settings], env=env, check=True, stdout=subprocess.DEVNULL)
        results.append([numbers(row) for row in read_metrics(folder / "metrics.csv")])
    return results[0] == results[1]


def numbers(row: dict[str, str]) -> dict[str, str]:
    """What does not depend on the speed of the machine."""
    return {name: value for name, value in row.items() if "time" not in name and "per_s" not in name}


def main() -> int:
    """Runs the soak; 1 if something was lost or two resumes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("Cartpole", "Lift"))
    parser.add_argument("--minutes", type=float, default=120.0, help="length of the soak (%(default)s)")
    parser.add_argument("--period", type=float, default=3.0, help="minutes of a disturbed stretch (%(default)s)")
    parser.add_argument("--save-interval", type=int, default=5, help="iterations between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the run (%(default)s)")
    parser.add_argument("--run-dir", type=Path, required=True, help="a directory that does not exist yet")
    parser.add_argument("overrides", nargs="*", help="more settings of the run, as for scripts/train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.run_dir.exists():
        parser.error(f"--run-dir is {arguments.run_dir}, which exists; allowed: a directory that does not exist yet")
    arguments.run_dir = arguments.run_dir.resolve()
    arguments.run_dir.parent.mkdir(parents=True, exist_ok=True)
    end, stretches, failed = time.monotonic() + 60.0 * arguments.minutes, [], False
    with tempfile.TemporaryDirectory() as folder:
        env = install(Path(folder))
        for fault in itertools.cycle(FAULTS):
            done = stretch(arguments, env, fault)
            stretches.append(done)
            problems = done.problems(arguments.save_interval)
            failed |= bool(problems)
            print(json.dumps(asdict(done) | {"problems": problems}), flush=True)
            if time.monotonic() > end:
                break
        agree = resumes_agree(arguments, env)
    rows = read_metrics(arguments.run_dir / "metrics.csv")
    totals = {name: sum(float(row[name] or 0) for row in rows) for name in ("nonfinite_envs", "solver_failures")}
    print(json.dumps({"iterations": stretches[-1].last_iteration, "resumes_agree": agree} | totals))
    return int(failed or not agree)


if __name__ == "__main__":
    sys.exit(main())
