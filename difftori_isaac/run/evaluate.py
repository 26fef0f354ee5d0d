"""Evaluation: so many episodes with the deterministic policy, a table and eval.json, or a curve and eval.csv."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

from difftori_isaac.run import build, locate, rollout
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.compose import Overrides, compose_values, setting
from difftori_isaac.run.config import EvaluateConfig, shared_keys, to_dict
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.metrics import table
from difftori_isaac.run.record import write_atomic
from difftori_isaac.run.report import try_report
from difftori_isaac.run.results import flat

if TYPE_CHECKING:
    from difftori_isaac.envs.vec_env import VecEnv

CHANGEABLE = ("trajopt", "world_model", "learner", "env_overrides")
"""Settings of the training, and sections of them, that an evaluation may change."""


def evaluate(overrides: Overrides) -> None:
    """Evaluates a policy, or with ``checkpoint=all`` every policy that a run has kept.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If no checkpoint is left when its turn comes.
    """
    every = overrides.get("checkpoint") == "all"
    if every:
        overrides = replace(overrides, values=overrides.values | {"checkpoint": "latest"})
    config, origin = rollout.configure(EvaluateConfig, overrides)
    config = rollout.with_num_envs(config, config.num_episodes)
    folder = Path() if origin is None or origin.run_dir is None else origin.run_dir
    drawn = folder / "eval.csv"
    path = locate.output_file(config.output, drawn if every else folder / "eval.json")
    if every and origin is not None:
        _evaluate_all(config, checkpoints.numbered(origin.path.parent.parent), path)
        hint = f"; draw it with scripts/plot.py {setting('runs', glob.escape(str(folder)))} file=eval.csv"
        print(f"written to {path}{hint if origin.run_dir and locate.same(path, drawn) else ''}")
        return
    with closing(build.make_environment(config)) as env:
        result = _result(config, env, origin)
    console = Console(highlight=False)
    console.print(_table(result))
    write_atomic(path, json.dumps(result, indent=2) + "\n")
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    if origin is not None and origin.run_dir is not None and path.parent == origin.run_dir:
        try_report(origin.run_dir)


def _evaluate_all(config: EvaluateConfig, paths: list[Path], output: Path) -> None:
    """Evaluates checkpoints in turn, in the same environment and from the same starts; a row of a table for each."""
    rows: list[dict[str, Any]] = []
    with closing(build.make_environment(config)) as env:
        for index, path in enumerate(paths, 1):
            if (origin := _origin(path)) is None:
                print(f"note: {path} is not there any more: left out", flush=True)
                continue
            result = _result(config, env, origin)
            rows.append(_row(result))
            write_atomic(output, table(list(rows[0]), rows))
            success = "" if (rate := result["success_rate"]) is None else f", success rate {rate:.1%}"
            print(
                f"{index} of {len(paths)}: {result['env_steps']:,} environment steps, "
                f"return {result['return']['mean']:.4g}{success}",
                flush=True,
            )
    if not rows:
        raise RunError(f"none of {len(paths)} checkpoints is there any more; start again, or with checkpoint=latest")


def _origin(path: Path) -> rollout.Origin | None:
    """The checkpoint of a file; None if a training that goes on has deleted it."""
    try:
        return rollout.Origin(checkpoints.load(path), path)
    except ConfigError:
        if path.exists():
            raise
        return None


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """What a row of eval.csv holds, under the names of metrics.csv where it has them."""
    return {
        "iteration": result["iteration"],
        "env_steps": result["env_steps"],
        "num_episodes": result["num_episodes"],
        "mean_return": result["return"]["mean"],
        "std_return": result["return"]["std"],
        "mean_episode_length": result["episode_length"]["mean"],
        "success_rate": result["success_rate"],
        "nonfinite_episodes": result["nonfinite_episodes"],
    }


def _result(config: EvaluateConfig, env: VecEnv, origin: rollout.Origin | None) -> dict[str, Any]:
    """What eval.json holds."""
    return {
        "task": config.task,
        "policy": config.policy,
        "checkpoint": None if origin is None else str(origin.path),
        "iteration": None if origin is None else origin.checkpoint.iteration,
        "env_steps": None if origin is None else origin.checkpoint.env_steps,
        "seed": config.seed,
        "device": config.device,
        "num_envs": config.num_envs,
        "env_overrides": list(config.env_overrides),
        "changed": {} if origin is None else changed(config, origin.checkpoint.config),
        **run_episodes(config, env, rollout.make_policy(config, env, origin)),
    }


def changed(config: EvaluateConfig, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an evaluation that are not those of the training, by dotted key."""
    whole = compose_values(EvaluateConfig, Overrides(), shared_keys(trained, EvaluateConfig))
    before, now = (flat({key: values[key] for key in CHANGEABLE}) for values in (whole, to_dict(config)))
    return {key: value for key, value in now.items() if value != before.get(key)}


def run_episodes(config: EvaluateConfig, env: VecEnv, policy: rollout.Policy) -> dict[str, Any]:
    """Runs the first episodes of every environment, the same number in each up to one: short ones count no more."""
    left = torch.tensor(rollout.episodes_per_env(config.num_episodes, env.num_envs), device=env.device)
    total, length = torch.zeros(2, env.num_envs, device=env.device)
    returns: list[float] = []
    lengths: list[float] = []
    successes: list[float] = []
    nonfinite = 0
    obs = rollout.reset(config, env)
    with torch.no_grad():  # inference tensors could not be reset for the next policy
        while len(returns) < config.num_episodes:
            obs, rewards, dones, extras = env.step(policy(obs), counted=left > 0)
            total, length = total + rewards, length + 1
            ended = dones.bool()
            counted = ended & (left > 0)
            left = left - counted.int()
            returns += total[counted].tolist()
            lengths += length[counted].tolist()
            failed = int((counted & extras["nonfinite"]).sum())
            nonfinite += failed
            if (success := env.success_rate(extras)) is not None:
                successes += [success] * (int(counted.sum()) - failed)
            total, length = torch.where(ended, 0.0, total), torch.where(ended, 0.0, length)
    return {
        "num_episodes": len(returns),
        "return": summary(returns),
        "episode_length": summary(lengths),
        "success_rate": sum(successes) / (len(successes) + nonfinite) if successes else None,
        "nonfinite_episodes": nonfinite,
    }


def summary(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation and the 95% interval of the mean (Student's t); null for a single value."""
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    if std is None:
        return {"mean": mean, "std": None, "interval_95": None}
    half = float(stdtrit(len(values) - 1, 0.975)) * std / len(values) ** 0.5
    return {"mean": mean, "std": std, "interval_95": [mean - half, mean + half]}


def _table(result: dict[str, Any]) -> Table:
    title = "{task}  {policy}  {num_episodes} episodes, seed {seed}"
    table = Table(title=title.format(**result))
    for column in ("", "mean", "std", "95% interval of the mean"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("return", "episode_length"):
        item = result[name]
        low_high = "-" if item["interval_95"] is None else "{:.4g} to {:.4g}".format(*item["interval_95"])
        std = "-" if item["std"] is None else f"{item['std']:.4g}"
        table.add_row(name.replace("_", " "), f"{item['mean']:.4g}", std, low_high)
    if result["success_rate"] is not None:
        table.add_row("success rate", f"{result['success_rate']:.1%}", "", "")
    return table
