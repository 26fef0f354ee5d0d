"""Demonstrations of two actions that three numbers tell, and imitation learners of them."""

from types import SimpleNamespace

import torch
from tensordict import TensorDict

from difftori_isaac.data.demonstrations import Demonstration, writing
from difftori_isaac.learners.imitation import build_imitation
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig

HORIZON = 2


def steered(obs: torch.Tensor) -> torch.Tensor:
    """What is demonstrated: two actions, of other units than observations and of another origin."""
    return 5.0 + 3.0 * torch.tanh(torch.stack((obs[:, 0], 0.1 * (obs[:, 1] - obs[:, 2])), dim=1))


def write_demos(path, act=steered, num_demos=150, spread=1.0):
    """Three steps each, in which nothing changes, so that all of a chunk can be told from the first observation."""
    generator = torch.Generator().manual_seed(0)
    with writing(path, {}) as writer:
        for _ in range(num_demos):
            obs = (spread * torch.tensor([1.0, 10.0, 10.0]) * torch.randn(3, generator=generator)).expand(3, 3)
            writer.add(Demonstration({"policy": obs}, act(obs), torch.zeros(3)))
    return path


def make_env(num_envs=4, **groups):
    obs = {"policy": torch.randn(num_envs, 3)} | groups
    return SimpleNamespace(
        num_envs=num_envs, num_actions=2, device="cpu", get_observations=lambda: TensorDict(obs, [num_envs])
    )


def build(path, policy="trajopt", *, seed=0, env=None, trajopt=None, world_model=None, **learner):
    torch.manual_seed(seed)
    settings = {"total_updates": 400, "num_updates": 50, "batch_size": 64, "learning_rate": 3e-3}
    return build_imitation(
        env or make_env(),
        policy=policy,
        trajopt=TrajOptConfig(**{"horizon": HORIZON, "iterations": 8, "prior_weight": 0.3} | (trajopt or {})),
        world_model=ChunkModelConfig(**{"hidden_dims": (32, 32)} | (world_model or {})),
        learner=ImitationConfig(dataset=str(path), **settings | learner),
        device="cpu",
    )


def train(algorithm, iterations):
    algorithm.train_mode()
    return [algorithm.update() for _ in range(iterations)]
