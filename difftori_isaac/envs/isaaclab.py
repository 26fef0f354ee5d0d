"""Isaac Lab environments behind rsl_rl's vectorised interface, contained against NaN and able to draw themselves."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import gymnasium
import numpy as np
import torch
import yaml
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from difftori_isaac.envs.assets import find_remote_assets, require_reachable
from difftori_isaac.envs.camera import PinholeCamera
from difftori_isaac.envs.entry_points import check_cfg_entry_point, load_entry_point
from difftori_isaac.envs.episode_ends import log_of, nonfinite_rows, zero_where_nonfinite
from difftori_isaac.envs.histories import compute_with_first_frames, newest_frames
from difftori_isaac.envs.isaaclab_views import CAMERA, PathMarkers, add_camera, add_viewer, look_at_first
from difftori_isaac.envs.registry import load_kwargs, resolve_task
from difftori_isaac.envs.vec_env import Expert, VecEnv, VideoRequest

_SELECTORS = ("physics", "renderer", "presets")
_OWN = {"env.scene.num_envs": "num_envs", "env.seed": "seed", "env.sim.device": "device"}
"""Keys of an environment configuration that a run sets, and what it is told them by."""


def make_env(
    task_id: str,
    *,
    num_envs: int | None,
    device: str,
    seed: int,
    overrides: Sequence[str] = (),
    video: VideoRequest | None = None,
    viewer_port: int | None = None,
) -> IsaacLabVecEnv:
    """Builds a task's environments and resets them.

    A process holds one simulation at a time: close an environment before making the next.

    Args:
        task_id: A gym id or an alias.
        num_envs: Number of environments; None keeps the task's own.
        device: ``cpu`` or ``cuda:N``, for physics and tensors.
        seed: Seed of every random generator Isaac Lab uses.
        overrides: Isaac Lab's override strings, such as ``env.sim.dt=0.01`` or ``physics=newton_mjwarp``.
        video: Adds a camera, so that :meth:`IsaacLabVecEnv.render_frame` works.
        viewer_port: Port at which Isaac Lab's viewer serves browsers on this machine; None serves none.

    Raises:
        UnknownTaskError: There is no such task.
        ValueError: A value or an override is wrong, an asset server does not answer, or a package is missing.
    """
    if num_envs is not None and num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device} was asked for, but torch finds no CUDA device; use device=cpu.")
    from isaaclab.sim import GroundPlaneCfg

    task_id = resolve_task(task_id).id
    cfg = compose_env_cfg(task_id, overrides)
    if hasattr(cfg, "possible_agents"):
        raise ValueError(f"{task_id} has several agents; only single-agent tasks can be trained.")
    if num_envs is not None:
        cfg.scene.num_envs = num_envs
    cfg.sim.device = device
    cfg.seed = seed
    cfg.compute_final_obs = True
    load_plan_path(task_id)  # refused here, not by the first video
    make_expert = load_entry_point(task_id, "difftori_expert_entry_point")
    if video is not None:
        add_camera(cfg, video)
    if viewer_port is not None:
        add_viewer(cfg, viewer_port)
    require_reachable(find_remote_assets(cfg, ground_plane=GroundPlaneCfg().usd_path))

    runtime = ExitStack()
    try:
        runtime.enter_context(_launch_simulation(cfg, device))
    except SystemExit:
        raise ValueError(
            f"{type(cfg.sim.physics).__name__} needs Isaac Sim, which is not installed; use physics=newton_mjwarp."
        ) from None
    env: Any = gymnasium.make(task_id, cfg=cfg)
    space = env.unwrapped.single_action_space
    if not isinstance(space, gymnasium.spaces.Box):
        env.close()
        runtime.close()
        raise ValueError(f"the actions of {task_id} are {space}; allowed: continuous ones, a Box.")
    if viewer_port is not None:
        look_at_first(env.unwrapped)
    return IsaacLabVecEnv(
        env,
        clip_actions=load_ppo_settings(task_id).get("clip_actions"),
        make_expert=make_expert,
        runtime=runtime,
    )


def compose_env_cfg(task_id: str, overrides: Sequence[str] = ()) -> Any:
    """Returns a task's environment configuration with overrides applied and every preset resolved.

    Isaac Lab sets a misspelt key without a word; here each key must exist and keep its kind of value.

    Raises:
        ValueError: An override is wrong, or the task names no configuration that is there.
    """
    task_id = resolve_task(task_id).id
    check_cfg_entry_point(task_id, "env_cfg_entry_point")
    applied = [override for override in overrides if override.split("=", 1)[0] in _SELECTORS]
    cfg = _resolve_cfg(task_id, applied)
    for override in overrides:
        key, _, value = override.partition("=")
        if key in _SELECTORS:
            continue
        if not key.startswith("env.") or not value:
            allowed = ", ".join(f"{selector}=NAME" for selector in _SELECTORS)
            raise ValueError(
                f"'{override}' is not an override of the environment; allowed are env.KEY=VALUE, {allowed}."
            )
        if key in _OWN:
            raise ValueError(f"'{override}' would be overwritten; give {_OWN[key]}={value} instead.")
        before = _look_up(cfg, key)
        applied.append(override)
        cfg = _resolve_cfg(task_id, applied)
        after = _look_up(cfg, key)
        if isinstance(before, bool | int | float | list | tuple) and isinstance(after, str):
            raise ValueError(f"'{override}': {key} is a {type(before).__name__} ({before}), not text.")
    for name, low in (("decimation", 1), ("episode_length_s", cfg.sim.dt)):
        if (value := getattr(cfg, name)) < low:
            raise ValueError(f"env.{name} is {value}; allowed: at least {low}.")
    return cfg


def check_overrides(task_id: str, overrides: Sequence[str]) -> None:
    """Raises ValueError if an override is wrong."""
    compose_env_cfg(task_id, overrides)


def load_ppo_settings(task_id: str) -> dict[str, Any]:
    """Returns the task's rsl_rl configuration as a plain dictionary, empty if it has none.

    Raises:
        ValueError: There is no such configuration, or none of the environment.
    """
    if load_kwargs(task_id).get("rsl_rl_cfg_entry_point") is None:
        return {}
    for kwarg in ("env_cfg_entry_point", "rsl_rl_cfg_entry_point"):
        check_cfg_entry_point(task_id, kwarg)
    from isaaclab.utils import to_dict
    from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg
    from isaaclab_tasks.utils import resolve_task_config

    with contextlib.redirect_stdout(io.StringIO()):
        _, settings = resolve_task_config(resolve_task(task_id).id, "rsl_rl_cfg_entry_point", overrides=())
        settings = handle_deprecated_rsl_rl_cfg(settings, version("rsl-rl-lib"))
    return to_dict(settings)


def load_task_defaults(task_id: str) -> dict[str, Any]:
    """Returns this project's configuration keys that a task sets for itself, empty if it sets none.

    They are in the YAML file that the gym kwarg ``difftori_cfg_entry_point`` names as ``package.module:file.yaml``.

    Raises:
        ValueError: There is no such file, or it holds no keys with values.
    """
    entry_point = load_kwargs(task_id).get("difftori_cfg_entry_point")
    if entry_point is None:
        return {}
    package, _, file = str(entry_point).partition(":")
    where = f"difftori_cfg_entry_point of {task_id} is {entry_point}"
    try:
        settings = yaml.safe_load(files(package).joinpath(file).read_text(encoding="utf-8")) or {}
    except (ImportError, OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}, which cannot be read ({reason}); allowed: a YAML file in its package") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{where}, which holds {settings!r}; allowed: keys with values, such as num_envs: 64")
    return settings


PlanPath = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""From an Isaac Lab environment and the planned actions of its first copy, shape (horizon, num_actions), to the path
they imply, shape (n, 3), and a goal, shape (3,) or None, in the world frame [m]."""


def load_plan_path(task_id: str) -> PlanPath | None:
    """Returns what a task draws of a plan: the function that its gym kwarg ``difftori_plan_path_entry_point`` names.

    Raises:
        ValueError: There is no such function.
    """
    return load_entry_point(task_id, "difftori_plan_path_entry_point")


class IsaacLabVecEnv(RslRlVecEnvWrapper, VecEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Isaac Lab's rsl_rl wrapper with the habits of a long training run.

    Drawing takes time in proportion to the number of environments.
    """

    def __init__(
        self,
        env: Any,
        *,
        clip_actions: float | None = None,
        make_expert: Callable[[Any], Expert] | None = None,
        runtime: ExitStack | None = None,
    ) -> None:
        """Wraps and resets `env`.

        Args:
            env: An Isaac Lab environment.
            clip_actions: Bound of the actions' magnitude; None leaves them as they are.
            make_expert: Makes the task's scripted policy of `env`; None if it has none.
            runtime: Closed after the environment.
        """
        self._curriculum: Any = getattr(env.unwrapped, "curriculum_manager", None)
        self._rewards: Any = getattr(env.unwrapped, "reward_manager", None)
        terms = self._rewards.active_terms if self._rewards else ()
        self._weights = {name: self._rewards.get_term_cfg(name).weight for name in terms}
        super().__init__(env, clip_actions=clip_actions)
        self._runtime, self._make_expert = runtime or ExitStack(), make_expert
        self._markers: PathMarkers | None = None

    @property
    def step_dt(self) -> float:
        """See :class:`VecEnv`."""
        return self.unwrapped.step_dt

    def reset(self, *, stagger: bool = False) -> tuple[TensorDict, dict[str, Any]]:
        """See :class:`VecEnv`."""
        obs, extras = super().reset()
        obs = zero_where_nonfinite(_as_float32(obs))
        if stagger:
            ages = self.episode_length_buf
            self.episode_length_buf = torch.randint_like(ages, high=int(self.max_episode_length))
        return obs, extras

    def get_observations(self) -> TensorDict:
        """See :class:`VecEnv`."""
        return _as_float32(super().get_observations())

    def step(
        self, actions: torch.Tensor, counted: torch.Tensor | None = None
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See :class:`VecEnv`; ``log`` is what Isaac Lab logged."""
        env: Any = self.unwrapped
        env.extras.pop("final_obs", None)
        env.extras["log"] = {}
        with newest_frames(getattr(env, "observation_manager", None)), log_of(env, counted):
            obs, rewards, dones, extras = super().step(actions.detach())
        obs, extras = _as_float32(obs), dict(extras)

        nonfinite = nonfinite_rows(obs) | ~torch.isfinite(rewards)
        if "final_obs" in extras:
            final_obs = _as_float32(TensorDict(extras["final_obs"], batch_size=[self.num_envs]))
            nonfinite |= nonfinite_rows(final_obs)
            extras["final_obs"] = zero_where_nonfinite(final_obs)
        if nonfinite.any():
            obs = self._restart(nonfinite).where(nonfinite, obs)
            env.obs_buf = obs.to_dict()
        if "time_outs" in extras:
            extras["time_outs"] = extras["time_outs"] & ~env.reset_terminated & ~nonfinite
        extras["nonfinite"] = nonfinite
        return obs, rewards.masked_fill(nonfinite, 0.0), dones.masked_fill(nonfinite, 1), extras

    def success_rate(self, extras: Mapping[str, Any]) -> float | None:
        """See :class:`VecEnv`; Isaac Lab logs a mean over the environments that it resets together."""
        log = extras.get("log", {})
        rates = [
            torch.as_tensor(value).float().mean().item()
            for name, value in log.items()
            if name.split("/")[-1] == "success_rate"
        ]
        return rates[0] if rates and math.isfinite(rates[0]) else None

    @property
    def expert(self) -> Expert | None:
        """What the gym kwarg ``difftori_expert_entry_point`` names, made of Isaac Lab's environment."""
        return None if self._make_expert is None else self._make_expert(self.unwrapped)

    def state_dict(self) -> dict[str, Any]:
        """Returns what Isaac Lab's curricula depend on: the number of steps taken."""
        env = self.unwrapped
        return {"common_step_counter": env.common_step_counter, "sim_step_counter": env._sim_step_counter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` and starts new episodes, so that curricula take effect.

        Of what they have changed before, the weights of rewards are undone.
        """
        for name, weight in self._weights.items():
            self._rewards.get_term_cfg(name).weight = weight
        if self._curriculum:
            vars(self._curriculum).pop("compute", None)
        env = self.unwrapped
        env.common_step_counter = state["common_step_counter"]
        env._sim_step_counter = state["sim_step_counter"]
        self.reset()

    def hold_curricula(self) -> None:
        """See :class:`VecEnv`; what a task makes of the number of steps outside its curriculum goes on."""
        if self._curriculum:
            self._curriculum.compute = lambda env_ids=None: None

    def render_frame(self) -> np.ndarray:
        """See :class:`VecEnv`."""
        return self._camera_data().output["rgb"].torch[0, ..., :3].cpu().numpy().copy()

    @property
    def camera(self) -> PinholeCamera:
        """The camera of :meth:`render_frame`, for points in the world frame."""
        from isaaclab.utils.math import matrix_from_quat

        data = self._camera_data()
        rotation = matrix_from_quat(data.quat_w_ros.torch[0])
        return PinholeCamera(data.intrinsic_matrices.torch[0], data.pos_w.torch[0], rotation)

    def mark_path(self, path: torch.Tensor, goal: torch.Tensor | None) -> None:
        """Marks a path and a goal in the viewer until the next call.

        Args:
            path: Positions in the world frame [m], shape (n, 3).
            goal: A position, shape (3,); None marks none.
        """
        self._markers = self._markers or PathMarkers()
        self._markers.mark(path, goal)

    def _camera_data(self) -> Any:
        scene = self.unwrapped.scene
        if CAMERA not in scene.sensors:
            raise RuntimeError("The environment has no camera; pass video=VideoRequest() to make_env.")
        return scene[CAMERA].data

    def close(self) -> None:
        """See :class:`VecEnv`."""
        super().close()
        self._runtime.close()

    def _restart(self, selected: torch.Tensor) -> TensorDict:
        """Resets the selected environments in the simulator and returns the observations of all."""
        env: Any = self.unwrapped
        log, env.extras["log"] = env.extras["log"], {}  # an episode cut short by NaN is no statistic
        env._reset_idx(selected.nonzero().squeeze(-1).int())
        env.extras["log"] = log
        env.scene.write_data_to_sim()
        env.sim.forward()
        manager = getattr(env, "observation_manager", None)
        obs = compute_with_first_frames(manager, selected) if manager else env._compute_observations()
        return zero_where_nonfinite(_as_float32(TensorDict(obs, batch_size=[self.num_envs])))


def _as_float32(obs: TensorDict) -> TensorDict:
    """The observations in the type of the networks, but for uint8 images, which these scale."""
    return obs.apply(lambda value: value if value.dtype == torch.uint8 and value.ndim > 2 else value.float())


def _resolve_cfg(task_id: str, overrides: Sequence[str]) -> Any:
    from isaaclab_tasks.utils import parse_env_cfg

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return parse_env_cfg(task_id, overrides=list(overrides))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        if not overrides:
            raise  # the task itself is at fault
        raise ValueError(f"Overrides {' '.join(overrides)} of {task_id}: {' '.join(str(error).split())}") from None


def _look_up(cfg: Any, key: str) -> Any:
    """Returns the value of a dotted key such as ``env.sim.dt``."""
    node = cfg
    for depth, name in enumerate(key.split(".")[1:], start=1):
        children = node if isinstance(node, Mapping) else vars(node) if hasattr(node, "__dict__") else {}
        if name not in children:
            parent = ".".join(key.split(".")[:depth])
            raise ValueError(f"Unknown key '{key}': {parent} has {', '.join(map(str, children)) or 'no keys'}.")
        node = children[name]
    return node


def _launch_simulation(cfg: Any, device: str) -> contextlib.AbstractContextManager:
    from isaaclab.app import launch_simulation

    return launch_simulation(cfg, {"headless": True, "device": device})
