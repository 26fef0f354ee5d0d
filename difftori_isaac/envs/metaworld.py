"""The door to MetaWorld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from difftori_isaac.envs.env_slice import Recipe
from difftori_isaac.envs.gymnasium_vec_env import GymnasiumVecEnv
from difftori_isaac.envs.metaworld_tasks import DEFAULT_NUM_ENVS, TASKS
from difftori_isaac.envs.registry import UnknownTaskError
from difftori_isaac.envs.settings import parse_settings, refuse_viewer
from difftori_isaac.envs.vec_env import VideoRequest


@dataclass(frozen=True, kw_only=True)
class MetaWorldSettings:
    """What ``env.<key>=<value>`` sets."""

    pixels: Annotated[bool, Field(strict=True)] = False
    """Whether a picture is observed, group ``pixels``, uint8 of shape (num_envs, 3, 84, 84), in place of objects and
    goal."""
    num_points: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Points of the cloud that is observed, group ``point_cloud``, of shape (num_envs, num_points, 3) [m], in place of
    objects and goal; None is no cloud."""
    num_workers: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Processes the environments are divided among; 1 is this one. None is the number of cores, at most one for each
    environment."""
    episode_steps: Annotated[int, Field(ge=1, le=500, strict=True)] = 200
    """Steps after which an episode is truncated."""


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
    """Builds environments of a task; see :class:`~difftori_isaac.envs.vec_env.Simulator`.

    Raises:
        UnknownTaskError: There is no such task.
        ValueError: A setting is wrong, or metaworld is not installed.
        SimulatorError: metaworld cannot make the task.
    """
    if task_id not in TASKS:
        raise UnknownTaskError(f"Unknown task '{task_id}' of metaworld; allowed: {', '.join(TASKS)}.")
    refuse_viewer(task_id, viewer_port)
    settings = parse_settings(MetaWorldSettings, overrides, "metaworld")
    if find_spec("metaworld") is None:
        raise ValueError(f"{task_id} needs the package metaworld: pip install --no-deps metaworld.")
    num_envs, video = num_envs or DEFAULT_NUM_ENVS, video or VideoRequest()
    recipe = Recipe(
        name=task_id,
        make=partial(
            TASKS[task_id].make,
            frame=(video.width, video.height),
            pixels=settings.pixels,
            num_points=settings.num_points,
        ),
        max_episode_length=settings.episode_steps,
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
    parse_settings(MetaWorldSettings, overrides, "metaworld")


def load_ppo_settings(task_id: str) -> dict[str, Any]:
    """Returns the observation groups; MetaWorld has no other settings of PPO."""
    return {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}


def load_task_defaults(task_id: str) -> dict[str, Any]:
    """Returns an empty dictionary: MetaWorld knows nothing of this project."""
    return {}
