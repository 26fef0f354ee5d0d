"""The training loop: collect, update, log, save."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from difftori_isaac.run import build, locate
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.checkpoint import Checkpoint
from difftori_isaac.run.compose import Overrides, compose
from difftori_isaac.run.config import TrainConfig, to_dict
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.metrics import COLUMNS, EpisodeStatistics, MetricsFile, Row, make_writer
from difftori_isaac.run.progress import Progress
from difftori_isaac.run.record import write_atomic, write_record
from difftori_isaac.run.signals import StopSignals

if TYPE_CHECKING:
    from rsl_rl.algorithms import PPO
    from tensordict import TensorDict

    from difftori_isaac.envs.vec_env import VecEnv


def train(overrides: Overrides) -> None:
    """Trains a policy, from the start or from a checkpoint.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If the run cannot go on.
    """
    config, start = configure(overrides)
    run_dir = Path(config.run_dir or "")
    if start is not None and start.iteration >= (config.max_iterations or 0):
        at = f"iteration {start.iteration} of {config.max_iterations}"
        print(f"{run_dir} is at {at}: nothing to do; raise max_iterations to go on")
        return
    with closing(build.make_environment(config)) as env:
        config = replace(config, num_envs=env.num_envs)
        run = TrainingRun(config, run_dir, env, start)
        run.loop()


def configure(overrides: Overrides) -> tuple[TrainConfig, Checkpoint | None]:
    """The complete configuration of a run, and the checkpoint it continues from.

    A new run is configured by the defaults, the task and the user; a resumed one by its checkpoint and the user.
    """
    start, layers = None, []
    if overrides.get("resume") is not None:
        compose(TrainConfig, overrides, {"task": "any"})  # bad values are refused before anything is looked for
        start = _start(overrides)
        layers = [start.config]
    config = compose(TrainConfig, overrides, *layers)
    resolved = {"task": build.resolve_task_name(config.task), "device": build.resolve_device(config.device)}
    resolved["run_dir"] = str(_run_dir(replace(config, **resolved), overrides))

    from difftori_isaac.envs.registry import open_simulator

    simulator = open_simulator(resolved["task"])
    if start is None:
        config = compose(TrainConfig, overrides, simulator.load_task_defaults(resolved["task"]))
    settings = simulator.load_ppo_settings(resolved["task"])
    iterations = config.max_iterations or settings.get("max_iterations")
    if iterations is None:
        raise ConfigError(f"max_iterations is missing; give max_iterations=<n>, as task {config.task} sets none")
    return build.fill_from_task(replace(config, **resolved, max_iterations=iterations), settings), start


def _start(overrides: Overrides) -> Checkpoint:
    task, policy = overrides.get("task"), overrides.get("policy")
    task = None if task is None else build.resolve_task_name(task)
    path = locate.find_checkpoint(
        overrides.get("resume") or "",
        run_dir=overrides.get("run_dir"),
        task=task,
        policy=policy or TrainConfig.policy,
        key="resume",
    )
    start = checkpoints.load(path)
    for key, asked in (("task", task), ("policy", policy)):
        if asked is not None and asked != start.config[key]:
            raise ConfigError(f"{key} is {asked}, but {path} was trained with {start.config[key]}; leave {key}= out")
    overrides.values["resume"] = str(path)
    return start


def _run_dir(config: TrainConfig, overrides: Overrides) -> Path:
    if config.resume is None:
        return locate.new_run_dir(config.run_dir, task=config.task, policy=config.policy, seed=config.seed)
    origin, given = locate.run_dir_of(Path(config.resume)), overrides.get("run_dir")
    if origin is not None and (given is None or locate.same(given, origin)):
        return origin
    return locate.new_run_dir(given, task=config.task, policy=config.policy, seed=config.seed)


class TrainingRun:
    """A learner in an environment, from one iteration to the last."""

    def __init__(self, config: TrainConfig, run_dir: Path, env: VecEnv, start: Checkpoint | None) -> None:
        self.config, self.run_dir, self.env = config, run_dir, env
        self.alg: PPO = build.make_learner(config, env)
        self.episodes = EpisodeStatistics(env.num_envs, config.device, env.success_rate)
        self.iteration, self.env_steps, self.wall_time_s = 0, 0, 0.0
        self.best_return: float | None = None
        self.mean_return: float | None = None
        self.saved: int | None = None
        if start is not None:
            self._restore(start)
        self.first = self.iteration

    def _restore(self, start: Checkpoint) -> None:
        build.load_learner(self.alg, start.learner, start.learning_rate, self.config.resume)
        self.episodes.load_state_dict(start.episodes)
        self.env.load_state_dict(start.env)
        self.iteration, self.env_steps, self.wall_time_s = start.iteration, start.env_steps, start.wall_time_s
        if self.forked_from is None:
            self.best_return, self.saved = start.best_return, start.iteration
        checkpoints.set_rng_state(start.rng)

    @property
    def forked_from(self) -> Path | None:
        """Run directory of the checkpoint, if this run continues it in a directory of its own."""
        origin = locate.run_dir_of(Path(self.config.resume)) if self.config.resume else None
        return None if origin is None or locate.same(origin, self.run_dir) else origin

    def loop(self) -> None:
        """Trains up to ``max_iterations``, or until a signal asks to stop; the state is saved either way."""
        config, total = self.config, self.config.max_iterations or 0
        metrics = self._open_run_dir()
        obs = self._reset()
        self.alg.train_mode()
        with ExitStack() as stack:
            writer = stack.enter_context(closing(make_writer(config, self.run_dir, self.iteration)))
            what = f"{config.task}  {config.policy}  seed {config.seed}  {self.env.num_envs} environments"
            title = f"{what} on {config.device}  {self.run_dir}"
            progress = stack.enter_context(Progress(title, first=self.iteration, total=total))
            stop = stack.enter_context(StopSignals())
            while self.iteration < total and stop.received is None:
                began = time.perf_counter()
                collected = self._collect(obs, stop)
                if collected is None:
                    break
                obs = collected
                row, log = self.episodes.summary()
                losses = self.alg.update()
                self._check_losses(losses)
                row = self._finish_iteration(row, losses, time.perf_counter() - began)
                metrics.write(row)
                writer.write(_curves(row, log), self.iteration)
                progress.update(row)
                self._check_nonfinite(row)
                if self.iteration % config.save_interval == 0 or self.iteration == total:
                    self.save()
            self.save()
        self._say_goodbye(stop.received)

    def _open_run_dir(self) -> MetricsFile:
        """Writes what is known before the first iteration; rows and checkpoints after the resumed one are cut."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            if self.forked_from is not None:
                shutil.copy(self.forked_from / "metrics.csv", self.run_dir)
        except OSError as error:
            raise RunError(f"cannot write to run_dir {self.run_dir}: {error}; give one that can be written") from error
        metrics = MetricsFile(self.run_dir / "metrics.csv", keep_until=self.iteration)
        checkpoints.discard_after(self.run_dir, self.iteration)
        write_atomic(self.run_dir / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False))
        write_record(self.run_dir, iteration=self.iteration)
        return metrics

    def _reset(self) -> TensorDict:
        """Resets all environments, at random ages so that their episodes do not end together."""
        return self.env.reset(stagger=True)[0]

    def _collect(self, obs: TensorDict, stop: StopSignals) -> TensorDict | None:
        """Fills the learner's rollout; None if a signal came first, whose partial rollout is dropped."""
        with torch.inference_mode():
            for _ in range(self.config.learner.num_steps_per_env or 0):
                obs, rewards, dones, extras = self.env.step(self.alg.act(obs))
                self.alg.process_env_step(obs, rewards, dones, extras)
                self.episodes.step(rewards, dones, extras)
                if stop.received is not None:
                    return None
            self.alg.compute_returns(obs)
        return obs

    def _finish_iteration(self, row: Row, losses: dict[str, float], seconds: float) -> Row:
        steps = self.env.num_envs * (self.config.learner.num_steps_per_env or 0)
        self.iteration += 1
        self.env_steps += steps
        self.wall_time_s += seconds
        self.mean_return = row["mean_return"]
        row |= {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_time_s": self.wall_time_s,
            "env_steps_per_s": steps / seconds,
            "solver_converged": None,
        }
        std = self.alg.get_policy().output_std.mean().item()
        columns = {name: row[name] for name in COLUMNS}
        return columns | losses | {"learning_rate": self.alg.learning_rate, "action_std": std}

    def _check_nonfinite(self, row: Row) -> None:
        """Stops with a saved state if too much was contained: environments, or plans that fell back to the prior's."""
        allowed = self.config.learner.max_nonfinite_share
        plans = self.env.num_envs * (self.config.learner.num_steps_per_env or 0)
        counts = {
            "environments gave NaN or Inf": (row["nonfinite_envs"] or 0, self.env.num_envs),
            "plans failed": (row.get("solver_failures") or 0, plans),
        }
        for what, (count, total) in counts.items():
            if count > allowed * total:
                self.save()
                raise RunError(
                    f"{count:.0f} of {total} {what} in iteration {self.iteration}; allowed: a share of "
                    f"learner.max_nonfinite_share={allowed}; the state is saved in {self.run_dir}"
                )

    def _check_losses(self, losses: dict[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise RunError(
                f"{', '.join(bad)} in iteration {self.iteration + 1}; the learner's state is lost, "
                f"the last checkpoint in {self.run_dir} is good: resume it with a smaller learner.learning_rate"
            )

    def save(self) -> None:
        """Writes a checkpoint of the last whole iteration, unless there is one already."""
        if self.saved == self.iteration:
            return
        # The first episodes began at a random age: their returns are not comparable.
        steps = (self.iteration - self.first) * (self.config.learner.num_steps_per_env or 0)
        comparable = steps >= int(self.env.max_episode_length) and self.episodes.full
        previous = -math.inf if self.best_return is None else self.best_return
        best = comparable and self.mean_return is not None and self.mean_return > previous
        self.best_return = self.mean_return if best else self.best_return
        checkpoint = Checkpoint(
            config=to_dict(self.config),
            iteration=self.iteration,
            env_steps=self.env_steps,
            wall_time_s=self.wall_time_s,
            learner=self.alg.save(),
            learning_rate=self.alg.learning_rate,
            rng=checkpoints.rng_state(),
            env=self.env.state_dict(),
            episodes=self.episodes.state_dict(),
            best_return=self.best_return,
        )
        checkpoints.save(checkpoint, self.run_dir, keep=self.config.keep_checkpoints, best=best)
        self.saved = self.iteration

    def _say_goodbye(self, received: str | None) -> None:
        at = f"iteration {self.iteration} of {self.config.max_iterations}"
        if received is not None:
            print(f"{received}: saved {at}; continue with: scripts/train.py resume=latest run_dir={self.run_dir}")
        else:
            print(f"finished {at}; evaluate with: scripts/evaluate.py run_dir={self.run_dir}")


def _curves(row: Row, log: dict[str, float]) -> dict[str, Any]:
    values = {f"train/{name}" if name in COLUMNS else f"loss/{name}": value for name, value in row.items()}
    return {name: value for name, value in values.items() if value is not None} | log
