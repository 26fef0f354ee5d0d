"""Tasks whose observations, rewards and plans are spoilt at random: Soak-Cartpole and Soak-Lift."""

import functools

import gymnasium as gym
import torch
from isaaclab.envs import ManagerBasedRLEnv
from isaaclab_tasks.core.cartpole.cartpole_direct_env import CartpoleEnv

from difftori_isaac.trajopt.layer import TrajOptLayer

SHARE = 1e-3
"""Share of observations, of rewards and of plans that become NaN."""


class Spoilt:
    """Returns NaN in the observation or the reward of random environments."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        obs = {name: torch.where(_some(group)[:, None], torch.nan, group) for name, group in obs.items()}
        return obs, torch.where(_some(reward), torch.nan, reward), *rest


class SoakCartpoleEnv(Spoilt, CartpoleEnv):
    """Isaac Lab's cart-pole, spoilt."""


class SoakManagerBasedRLEnv(Spoilt, ManagerBasedRLEnv):
    """Any manager-based environment, spoilt."""


def _some(tensor: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(tensor), device=tensor.device) < SHARE


def _spoil_plans() -> None:
    plan = TrajOptLayer.__call__

    @functools.wraps(plan)
    def spoilt(self, model, z0, prior, **options):
        return plan(self, model, torch.where(_some(z0)[:, None], torch.nan, z0), prior, **options)

    TrajOptLayer.__call__ = spoilt


def _register(task: str, entry_point: str) -> None:
    import difftori_isaac.tasks  # noqa: F401 - registers what is spoilt here

    kwargs = gym.spec(task).kwargs | {"difftori_alias": None}
    name = task.split("-")[1]
    gym.register(id=f"Soak-{name}", entry_point=f"{__name__}:{entry_point}", disable_env_checker=True, kwargs=kwargs)


_register("DiffTori-Cartpole-Direct", "SoakCartpoleEnv")
_register("DiffTori-Lift-Franka", "SoakManagerBasedRLEnv")
_spoil_plans()
