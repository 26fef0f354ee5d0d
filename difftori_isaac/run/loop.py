"""The training loop: collect, update, log, save."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import yaml

from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.run import build, distributed, locate, lock
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.base import note_held_back, start_from_base
from difftori_isaac.run.checkpoint import Checkpoint
from difftori_isaac.run.compose import Overrides, setting
from difftori_isaac.run.config import TrainConfig, to_dict
from difftori_isaac.run.configure import configure, continues_in_place
from difftori_isaac.run.curves import curves
from difftori_isaac.run.distributed import World
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.files import discard_evaluations_after
from difftori_isaac.run.metrics import COLUMNS, EpisodeStatistics, MetricsFile, Row, make_writer, merged
from difftori_isaac.run.progress import Progress, tell
from difftori_isaac.run.record import write_atomic, write_record
from difftori_isaac.run.report import try_report
from difftori_isaac.run.signals import StopSignals

if TYPE_CHECKING:
    from rsl_rl.algorithms import PPO
    from tensordict import TensorDict

    from difftori_isaac.envs.vec_env import VecEnv
    from difftori_isaac.learners.learner import Learner


def train(overrides: Overrides) -> None:
    """Trains a policy, from the start or from a checkpoint.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If the run cannot go on.
    """
    with distributed.connect() as world:
        config, start, newest = world.from_first(lambda: _configure(overrides))
        world.check(config)
        run_dir = Path(config.run_dir or "")
        named_by_time = overrides.get("run_dir") is None and not continues_in_place(config)
        if start is not None and config.max_iterations is not None and start.iteration >= config.max_iterations:
            if world.rank == 0:
                at = f"iteration {start.iteration} of {config.max_iterations}"
                print(f"{run_dir} is at {at}: nothing to do; raise max_iterations to go on")
            return
        config = replace(config, device=world.device_of(config.device))
        seeded = replace(config, seed=world.seed_of(config.seed))
        with (
            closing(build.make_environment(seeded)) as env,
            distributed.lost_ranks_named(world, lambda: run_dir),
            ExitStack() as held,
        ):
            config = replace(config, num_envs=env.num_envs)
            if config.max_iterations is None:
                config = replace(config, max_iterations=build.default_iterations(config, start))
            run = TrainingRun(config, env, start, world)
            if named_by_time:
                run_dir, newest = world.from_first(lambda: locate.make_folder(run_dir)), 0
                run.config = replace(run.config, run_dir=str(run_dir))
            world.from_first(lambda: _hold(held, run_dir, newest))
            run.loop()


def _configure(overrides: Overrides) -> tuple[TrainConfig, Checkpoint | None, int]:
    """See :func:`configure`; and what was the newest checkpoint in the run directory then."""
    config, start = configure(overrides)
    return config, start, checkpoints.newest(Path(config.run_dir or ""))


def _hold(held: ExitStack, run_dir: Path, newest: int) -> None:
    """Takes the lock of a run directory in which nothing was saved since it was looked at."""
    held.enter_context(lock.training(run_dir))
    if checkpoints.newest(run_dir) != newest:
        raise RunError(f"another process has trained {run_dir} since this one began; start again")


class TrainingRun:
    """A learner in an environment, from one iteration to the last."""

    def __init__(
        self,
        config: TrainConfig,
        env: VecEnv,
        start: Checkpoint | None,
        world: World = distributed.ALONE,
    ) -> None:
        self.config, self.env, self.world = config, env, world
        self.num_envs = env.num_envs * world.size
        self.alg: Learner = build.make_learner(config, env)
        longest = int(env.max_episode_length)
        self.episodes = EpisodeStatistics(env.num_envs, config.device, env.success_rate, world.gather, longest)
        self.iteration, self.env_steps, self.wall_time_s = 0, 0, 0.0
        self.best_return: float | None = None
        self.saved: int | None = None
        if start is not None:
            self._restore(start)
        else:
            start_from_base(self.alg, config)
        if world.launched:
            cast("PPO", self.alg).broadcast_parameters()

    def _restore(self, start: Checkpoint) -> None:
        note_held_back(start.config, self.config)
        build.load_learner(self.alg, start.learner, start.learning_rate, self.config.resume)
        self.env.load_state_dict(start.env)
        self.iteration, self.env_steps, self.wall_time_s = start.iteration, start.env_steps, start.wall_time_s
        if in_place := continues_in_place(self.config):
            self.best_return, self.saved = start.best_return, start.iteration
        ranks = [{"rng": start.rng, "episodes": start.episodes}, *start.others]
        if len(ranks) == self.world.size:
            episodes = ranks[self.world.rank]["episodes"]
            self.episodes.load_state_dict(episodes if in_place else episodes | {"whole": []})
            if in_place or self.config.seed == start.config["seed"]:  # else a branch that begins from its own seed
                checkpoints.set_rng_state(ranks[self.world.rank]["rng"])
        elif self.world.rank == 0:
            print(
                f"{self.config.resume} was saved by {len(ranks)} processes, now there are {self.world.size}: "
                "random numbers start anew from the seed, and so does the window of the mean return"
            )

    @property
    def run_dir(self) -> Path:
        """Where it lies."""
        return Path(self.config.run_dir or "")

    @property
    def forked_from(self) -> Path | None:
        """Run directory of the checkpoint, if this run continues it in a directory of its own."""
        origin = locate.run_dir_of(Path(self.config.resume)) if self.config.resume else None
        return None if origin is None or locate.same(origin, self.run_dir) else origin

    def loop(self) -> None:
        """Trains up to ``max_iterations``, or until a signal asks to stop; the state is saved either way.

        Raises:
            RunError: If it cannot go on. Where the simulator has failed, the state is saved too.
            SimulatorError: If it has failed and there are other processes.
        """
        obs = self._reset()
        build.begin_learning(self.alg, self.config, self.env)
        with StopSignals() as stop:
            received = self._train(obs, stop)
            if self.world.rank == 0:
                self._say_goodbye(received)
                try_report(self.run_dir)

    def _train(self, obs: TensorDict, stop: StopSignals) -> str | None:
        """Trains and saves; returns the name of the signal that stopped it."""
        config, total, received = self.config, self.config.max_iterations or 0, None
        with self._report() if self.world.rank == 0 else nullcontext(lambda row, log: None) as report:
            while self.iteration < total:
                began = time.perf_counter()
                try:
                    obs = self._collect(obs, stop)
                except SimulatorError as error:
                    if self.world.launched:  # the others do not know and save nothing
                        raise
                    self.save()
                    raise RunError(self._stopped_by(error)) from error
                received = next((name for name in self.world.gather(stop.received) if name is not None), None)
                if received is not None:
                    break
                row, log = self.episodes.summary()
                losses = merged(self.world.gather(self.alg.update()))
                self._check_losses(losses)
                row = self._finish_iteration(row, losses, time.perf_counter() - began)
                report(row, log)
                self._check_nonfinite(row)
                if self.iteration % config.save_interval == 0 or self.iteration == total:
                    self.save()
            self.save()
        return received

    @contextmanager
    def _report(self) -> Iterator[Callable[[Row, dict[str, float]], None]]:
        """Opens all that shows and keeps the numbers of an iteration."""
        config, metrics = self.config, self._open_run_dir()
        processes = f" in {self.world.size} processes" if self.world.launched else ""
        what = f"{config.task}  {config.policy}  seed {config.seed}  {self.num_envs} environments{processes}"
        title = f"{what} on {config.device}  {self.run_dir}"
        with (
            closing(make_writer(config, self.run_dir, self.iteration)) as writer,
            Progress(title, first=self.iteration, total=config.max_iterations or 0) as progress,
        ):

            def report(row: Row, log: dict[str, float]) -> None:
                metrics.write(row)
                writer.write(curves(row, log), self.iteration)
                progress.update(row)

            yield report

    def _open_run_dir(self) -> MetricsFile:
        """Writes what is known before the first iteration; what there is of iterations after the resumed one is cut."""
        try:
            if self.forked_from is not None and (former := self.forked_from / "metrics.csv").is_file():
                shutil.copy(former, self.run_dir)
            metrics = MetricsFile(self.run_dir / "metrics.csv", keep_until=self.iteration)
            checkpoints.discard_after(self.run_dir, self.iteration)
            discard_evaluations_after(self.run_dir, self.iteration)
            if not (checkpoints.folder(self.run_dir) / checkpoints.BEST).is_file():
                self.best_return = None
            write_atomic(self.run_dir / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False))
            write_record(self.run_dir, iteration=self.iteration, processes=self.world.size, num_envs=self.num_envs)
        except OSError as error:
            raise RunError(f"cannot write to run_dir {self.run_dir}: {error}; give one that can be written") from error
        return metrics

    def _reset(self) -> TensorDict:
        """Resets all environments, at random ages so that their episodes do not end together."""
        return self.env.reset(stagger=True)[0]

    def _collect(self, obs: TensorDict, stop: StopSignals) -> TensorDict:
        """Fills the learner's rollout, up to a signal."""
        with torch.inference_mode():
            for _ in range(self.config.learner.num_steps_per_env or 0):
                if stop.received is not None:
                    return obs
                obs, rewards, dones, extras = self.env.step(self.alg.act(obs))
                self.alg.process_env_step(obs, rewards, dones, extras)
                self.episodes.step(rewards, dones, extras)
            self.alg.compute_returns(obs)
        return obs

    def _finish_iteration(self, row: Row, losses: dict[str, float], seconds: float) -> Row:
        steps = self.num_envs * (self.config.learner.num_steps_per_env or 0)
        self.iteration += 1
        self.env_steps += steps
        self.wall_time_s += seconds
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
        """Stops with a saved state if too much was contained: environments, plans, or all losses of the model."""
        allowed = self.config.learner.max_nonfinite_share
        plans = self.num_envs * (self.config.learner.num_steps_per_env or 0)
        counts = {
            "environments gave NaN or Inf": (row["nonfinite_envs"] or 0, self.num_envs),
            "plans failed": (row.get("solver_failures") or 0, plans),
        }
        if row.get("nonfinite_model_losses") == 1.0:
            self.save()
            raise RunError(
                f"no loss of the model was finite in iteration {self.iteration}, so that nothing is learned; "
                f"the state is saved in {self.run_dir}"
            )
        for what, (count, total) in counts.items():
            most = max(int(allowed * total), 1 if allowed > 0 and total > 1 else 0)
            if count > most:
                self.save()
                raise RunError(
                    f"{count:.0f} of {total} {what} in iteration {self.iteration}; allowed: {most}, by "
                    f"learner.max_nonfinite_share={allowed}; the state is saved in {self.run_dir}"
                )

    def _check_losses(self, losses: dict[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            hint = f"the last checkpoint in {self.run_dir} is good: resume it with a smaller learner.learning_rate"
            if self.saved is None:
                hint = "nothing was saved yet: begin anew, with a smaller learner.learning_rate and another run_dir"
            raise RunError(f"{', '.join(bad)} in iteration {self.iteration + 1}; the learner's state is lost, {hint}")

    def save(self) -> None:
        """Writes a checkpoint of the last whole iteration, unless there is one already; all ranks have to call it."""
        if self.saved == self.iteration:
            return
        self.saved = self.iteration
        ranks = self.world.gather({"rng": checkpoints.rng_state(), "episodes": self.episodes.state_dict()})
        if self.world.rank > 0:
            return
        comparable = self.episodes.whole_return
        best = comparable is not None and (self.best_return is None or comparable > self.best_return)
        self.best_return = comparable if best else self.best_return
        checkpoint = Checkpoint(
            config=to_dict(self.config),
            iteration=self.iteration,
            env_steps=self.env_steps,
            wall_time_s=self.wall_time_s,
            learner=self.alg.save(),
            learning_rate=self.alg.learning_rate,
            env=self.env.state_dict(),
            best_return=self.best_return,
            **ranks[0],
            others=ranks[1:],
        )
        checkpoints.save(checkpoint, self.run_dir, keep=self.config.keep_checkpoints, best=best)

    def _say_goodbye(self, received: str | None) -> None:
        if received is not None:
            tell(self._stopped_by(received))
        else:
            tell(f"finished {self._progress}; evaluate with: scripts/evaluate.py {setting('run_dir', self.run_dir)}")

    def _stopped_by(self, reason: object) -> str:
        continued = f"scripts/train.py resume=latest {setting('run_dir', self.run_dir)}"
        return f"{reason}: saved {self._progress}; continue with: {continued}"

    @property
    def _progress(self) -> str:
        return f"iteration {self.iteration} of {self.config.max_iterations}"
