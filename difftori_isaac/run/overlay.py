"""Where a plan leads, drawn into a picture or marked in a viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw

from difftori_isaac.run.config import PlayConfig
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.rollout import Policy

if TYPE_CHECKING:
    import torch
    from tensordict import TensorDict

    from difftori_isaac.envs.isaaclab import IsaacLabVecEnv, PlanPath
    from difftori_isaac.envs.vec_env import VecEnv
    from difftori_isaac.policies.plan_policy import PlanPolicy
    from difftori_isaac.policies.trajopt_actor import TrajOptActor

Overlay = Callable[[np.ndarray, "TensorDict"], np.ndarray]
"""From a frame and the observations it shows to the frame with the plan made from them."""

SCALE = 4
"""Lines are drawn so much larger and shrunk again, which smooths their edges."""
HALO = (20, 20, 30, 150)
PATH = ((255, 214, 10), (255, 61, 113))
"""Colours of the first and of the last step."""
GOAL = (0, 200, 120, 255)


def find_plan_path(config: PlayConfig) -> PlanPath | None:
    """What the task draws of a plan; None if it draws none or none is wanted.

    Raises:
        ConfigError: If ``plan=true`` and the task does not say how, or what it says is not there.
    """
    from difftori_isaac.envs.isaaclab import load_plan_path
    from difftori_isaac.envs.registry import resolve_task

    if config.plan is False or config.policy != "trajopt" or not (config.video or config.viewer):
        return None
    try:
        plan_path = load_plan_path(config.task) if resolve_task(config.task).simulator == "isaaclab" else None
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if plan_path is None and config.plan:
        raise ConfigError(
            f"plan is true, but task {config.task} does not say where a plan leads; "
            "allowed: plan=false, or a task with the gym kwarg difftori_plan_path_entry_point"
        )
    return plan_path


def make_overlay(env: VecEnv, policy: Policy, plan_path: PlanPath | None) -> Overlay:
    """Draws where the policy's plan for the first environment leads; without a ``plan_path``, nothing."""
    if plan_path is None:
        return lambda frame, obs: frame
    world = cast("IsaacLabVecEnv", env)

    def overlay(frame: np.ndarray, obs: TensorDict) -> np.ndarray:
        path, goal = _planned(world, policy, plan_path, obs)
        project = world.camera.project
        ring = None if goal is None else project(goal[None])[0].cpu().numpy()
        return draw_plan(frame, project(path).cpu().numpy(), ring)

    return overlay


def make_marker(env: VecEnv, policy: Policy, plan_path: PlanPath | None) -> Callable[[TensorDict], None]:
    """Marks where the policy's plan for the first environment leads; without a ``plan_path``, nothing."""
    if plan_path is None:
        return lambda obs: None
    world = cast("IsaacLabVecEnv", env)
    return lambda obs: world.mark_path(*_planned(world, policy, plan_path, obs))


def _planned(
    world: IsaacLabVecEnv, policy: Policy, plan_path: PlanPath, obs: TensorDict
) -> tuple[torch.Tensor, torch.Tensor | None]:
    actions = cast("TrajOptActor | PlanPolicy", policy).planned_actions(obs[:1])[0]
    if world.clip_actions is not None:
        actions = actions.clamp(-world.clip_actions, world.clip_actions)
    return plan_path(world.unwrapped, actions)


def draw_plan(frame: np.ndarray, path: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
    """Draws a path from yellow to red with a dot at every step, and a green ring around the goal.

    Args:
        frame: Picture, uint8 of shape (height, width, 3); it is left as it is.
        path: Pixels (right, down) of the steps, shape (n, 2); what touches a NaN is left out.
        goal: Pixel of the goal, shape (2,); None or NaN draws none.

    Returns:
        A picture of the same shape.
    """
    height, width, _ = frame.shape
    layer = Image.new("RGBA", (SCALE * width, SCALE * height))
    draw = ImageDraw.Draw(layer)
    if goal is not None and np.isfinite(goal).all():
        for radius, line, colour in ((11, 6, HALO), (10, 3, GOAL)):
            draw.ellipse(_box(goal, radius), outline=colour, width=SCALE * line)
    colours = [(*map(round, colour), 255) for colour in np.linspace(*PATH, num=max(len(path), 2))]
    for line, dot, inks in ((5, 5, [HALO] * len(path)), (2.5, 3.5, colours)):
        for start, end, ink in zip(path[:-1], path[1:], inks[1:], strict=False):
            if np.isfinite((start, end)).all():
                draw.line([*_scaled(start), *_scaled(end)], fill=ink, width=round(SCALE * line))
        for point, ink in zip(path, inks, strict=False):
            if np.isfinite(point).all():
                draw.ellipse(_box(point, dot), fill=ink)
    picture = Image.fromarray(frame).convert("RGBA")
    picture.alpha_composite(layer.resize((width, height), Image.Resampling.BOX))
    return np.asarray(picture.convert("RGB"))


def _scaled(point: np.ndarray) -> tuple[float, float]:
    return SCALE * (float(point[0]) + 0.5), SCALE * (float(point[1]) + 0.5)


def _box(point: np.ndarray, radius: float) -> tuple[float, float, float, float]:
    right, down = _scaled(point)
    return right - SCALE * radius, down - SCALE * radius, right + SCALE * radius, down + SCALE * radius
