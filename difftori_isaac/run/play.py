"""Playing: a policy acts, and can be filmed."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from difftori_isaac.run import build, rollout
from difftori_isaac.run.compose import Overrides
from difftori_isaac.run.config import PlayConfig
from difftori_isaac.run.errors import RunError

if TYPE_CHECKING:
    from difftori_isaac.envs.isaaclab import IsaacLabVecEnv


def play(overrides: Overrides) -> None:
    """Lets a policy act, prints the return of every finished episode, and writes a video if asked.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If the video cannot be written.
    """
    from difftori_isaac.envs.isaaclab import VideoRequest

    config, origin = rollout.configure(PlayConfig, overrides)
    config = replace(config, num_envs=config.num_envs or (1 if config.video else 16))
    with ExitStack() as stack:
        video = VideoRequest() if config.video else None
        env = stack.enter_context(closing(build.make_environment(config, video=video)))
        policy = rollout.make_policy(config, env, origin)
        film = None
        if config.video:
            folder = Path() if origin is None or origin.run_dir is None else origin.run_dir
            path = Path(config.video_path or folder / "videos" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.mp4")
            film = stack.enter_context(closing(_open_video(path, env)))
            stack.callback(print, f"video written to {path}")
        _act(config, env, policy, film)


def _act(config: PlayConfig, env: IsaacLabVecEnv, policy: rollout.Policy, film: Any) -> None:
    obs = rollout.reset(config, env)
    returns = torch.zeros(env.num_envs, device=env.device)
    with torch.inference_mode():
        for step in range(config.num_steps or int(env.max_episode_length)):
            obs, rewards, dones, _ = env.step(policy(obs))
            returns += rewards
            for index in dones.nonzero().flatten().tolist():
                print(f"step {step + 1}: environment {index} ends with return {returns[index]:.4g}")
            returns = torch.where(dones.bool(), 0.0, returns)
            if film is not None:
                film.append_data(env.render_frame())
    print(f"mean return of the running episodes: {returns.mean():.4g}")


def _open_video(path: Path, env: IsaacLabVecEnv) -> Any:
    import imageio.v2 as imageio

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return imageio.get_writer(path, fps=round(1 / env.unwrapped.step_dt), macro_block_size=2)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the video {path}: {error}; give video_path=<file>.mp4") from error
