"""Playing: a policy acts, and can be watched or filmed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from difftori_isaac.run import build, locate, rollout
from difftori_isaac.run.compose import Overrides
from difftori_isaac.run.config import PlayConfig
from difftori_isaac.run.errors import RunError
from difftori_isaac.run.overlay import find_plan_path, make_marker, make_overlay
from difftori_isaac.run.report import try_report

if TYPE_CHECKING:
    import numpy as np
    from tensordict import TensorDict

    from difftori_isaac.envs.vec_env import VecEnv


def play(overrides: Overrides) -> None:
    """Lets a policy act, prints the return of every finished episode, and writes a video if asked.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If the video cannot be written.
    """
    from difftori_isaac.envs.vec_env import VideoRequest

    config, origin = rollout.configure(PlayConfig, overrides)
    config = replace(config, num_envs=config.num_envs or (1 if config.video else 16))
    video = VideoRequest() if config.video else None
    plan_path = find_plan_path(config)
    port = None if config.viewer is None else free_port(config.viewer_port)
    with closing(build.make_environment(config, video=video, viewer_port=port)) as env:
        policy = rollout.make_policy(config, env, origin)
        if port is not None:
            print(f"watch at http://localhost:{port}" + (", until Ctrl-C" if config.num_steps is None else ""))
            _watch(config, env, policy, make_marker(env, policy, plan_path))
            return
        if video is None:
            _act(config, env, policy, lambda obs: None)
            return
        overlay = make_overlay(env, policy, plan_path)
        folder = Path() if origin is None or origin.run_dir is None else origin.run_dir
        default = folder / "videos" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.mp4"
        path = Path(config.video_path) if config.video_path else locate.make_file(default)
        try:
            with closing(_open_video(path, env)) as film:
                _act(config, env, policy, lambda obs: _append(film, overlay(env.render_frame(), obs), path))
        finally:
            if path.is_file() and path.stat().st_size == 0:  # or a report would show it
                path.unlink()
        if not path.is_file():
            raise RunError(f"cannot write the video {path}: ffmpeg wrote nothing; give video_path=<file>.mp4")
        print(f"video written to {path}")
        if origin is not None and origin.run_dir is not None and path.parent == origin.run_dir / "videos":
            try_report(origin.run_dir)


def free_port(first: int) -> int:
    """The first port from there on at which a server can listen."""
    for port in range(first, 2**16):
        with closing(socket.socket()) as server, suppress(OSError):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("localhost", port))
            return port
    raise RunError(f"no port is free from {first} on; give another viewer_port")


def _watch(config: PlayConfig, env: VecEnv, policy: rollout.Policy, mark: Callable[[TensorDict], None]) -> None:
    """Acts no faster than in real time."""
    due = time.monotonic()

    def show(obs: TensorDict) -> None:
        nonlocal due
        mark(obs)
        time.sleep(max(due - time.monotonic(), 0.0))
        due = time.monotonic() + env.step_dt

    _act(config, env, policy, show)


def _act(config: PlayConfig, env: VecEnv, policy: rollout.Policy, after_step: Callable[[TensorDict], None]) -> None:
    obs = rollout.reset(config, env)
    running = torch.zeros(env.num_envs, device=env.device)
    finished: list[float] = []
    endless = config.viewer is not None and config.num_steps is None
    steps = count() if endless else range(config.num_steps or int(env.max_episode_length))
    with torch.inference_mode(), suppress(KeyboardInterrupt) if endless else nullcontext():
        for step in steps:
            obs, rewards, dones, _ = env.step(policy(obs))
            running = running + rewards
            for index in dones.nonzero().flatten().tolist():
                finished.append(running[index].item())
                print(f"step {step + 1}: environment {index} ends with return {finished[-1]:.4g}")
            running = torch.where(dones.bool(), 0.0, running)
            after_step(obs)
    if finished:
        print(f"mean return of {len(finished)} finished episodes: {sum(finished) / len(finished):.4g}")
    else:
        print(f"no episode finished; mean return so far: {running.mean():.4g}")


def _open_video(path: Path, env: VecEnv) -> Any:
    import imageio.v2 as imageio

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return imageio.get_writer(path, fps=1 / env.step_dt, macro_block_size=2)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the video {path}: {error}; give video_path=<file>.mp4") from error


def _append(film: Any, frame: np.ndarray, path: Path) -> None:
    """Appends a frame to the video that is opened at ``path``."""
    try:
        film.append_data(frame)
    except OSError as error:  # with ffmpeg's whole command
        reason = str(error).partition("\n")[0]
        raise RunError(f"cannot write the video {path}: {reason}; give video_path=<file>.mp4") from error
