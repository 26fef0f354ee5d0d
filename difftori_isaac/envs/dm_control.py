"""The door to the DeepMind Control suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from difftori_isaac.envs.dm_control_tasks import DEFAULT_NUM_ENVS, TASKS
from difftori_isaac.envs.env_slice import Recipe
from difftori_isaac.envs.gymnasium_vec_env import GymnasiumVecEnv
from difftori_isaac.envs.registry import UnknownTaskError
from difftori_isaac.envs.settings import parse_settings, refuse_viewer
from difftori_isaac.envs.vec_env import VideoRequest

_Positive = Annotated[int, Field(ge=1, strict=True)]


@dataclass(frozen=True, kw_only=True)
class DmControlSettings:
    """What ``env.<key>=<value>`` sets."""

    action_repeat: _Positive | None = None
    """Simulator steps for which an action is held; None is 8, 4 or 2, as the benchmark has it for the task."""
    pixels: Annotated[bool, Field(strict=True)] = False
    """Whether observations are the last three pictures, group ``pixels``, uint8 of shape (num_envs, 9, 84, 84), in
    place of the state, group ``policy``."""
    shadows: Annotated[bool, Field(strict=True)] = True
    """Whether pictures have shadows and reflections, which a CPU draws several times as long for."""
    num_workers: _Positive | None = None
    """Processes the environments are divided among; 1 is this one. None is the number of cores, at most one for each
    environment."""
    episode_steps: _Positive = 1000
    """Simulator steps after which an episode is truncated; it ends with a whole action."""


def make_env(
    task_id: str,
    *,
    num_envs: int | None,
    device: str,
    seed: int,
    overrides: Sequence[str] = (),
    video: VideoRequest | None = None,
    viewer_port: int | None = None,
) -> GymnasiumVecEnv:
    """Builds environments of a task of the suite; see :class:`~difftori_isaac.envs.vec_env.Simulator`.

    Raises:
        UnknownTaskError: There is no such task.
        ValueError: A setting is wrong, or dm-control is not installed.
        SimulatorError: dm-control cannot make the task.
    """
    if task_id not in TASKS:
        raise UnknownTaskError(f"Unknown task '{task_id}' of dm_control; allowed: {', '.join(TASKS)}.")
    refuse_viewer(task_id, viewer_port)
    settings = parse_settings(DmControlSettings, overrides, "dm_control")
    if find_spec("dm_control") is None:
        raise ValueError(f"{task_id} needs the package dm-control: pip install 'difftori-isaac[dmc]'.")
    task, num_envs, video = TASKS[task_id], num_envs or DEFAULT_NUM_ENVS, video or VideoRequest()
    action_repeat = settings.action_repeat or task.action_repeat

    recipe = Recipe(
        name=task_id,
        make=partial(
            task.make,
            action_repeat=action_repeat,
            pixels=settings.pixels,
            shadows=settings.shadows,
            frame=(video.width, video.height),
        ),
        max_episode_length=-(-settings.episode_steps // action_repeat),
        clip_actions=1.0,
    )
    return GymnasiumVecEnv(
        recipe,
        num_envs=num_envs,
        num_workers=settings.num_workers,
        device=device,
        seed=seed,
        cfg=asdict(settings),
    )


def check_overrides(task_id: str, overrides: Sequence[str]) -> None:
    """Raises ValueError if a setting of the environment is wrong."""
    parse_settings(DmControlSettings, overrides, "dm_control")


def load_ppo_settings(task_id: str) -> dict[str, Any]:
    """Returns the observation groups; the suite has no other settings of PPO."""
    return {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}


def load_task_defaults(task_id: str) -> dict[str, Any]:
    """Returns an empty dictionary: the suite knows nothing of this project."""
    return {}
