"""A small environment for the model-based learner, a cart driven to a place by its acceleration, and its learner."""

import torch
from tensordict import TensorDict

from difftori_isaac.learners.model_based import build_model_based
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.td_config import TdWorldModelConfig

CHEAP = {"update_to_data": 0.02, "seed_steps": 128, "batch_size": 16, "plan_batch_size": 4}
SMALL = {"latent_dim": 12, "encoder_dims": (24,), "hidden_dims": (24,)}
SCALAR = {"reward_head": "scalar", "value_head": "scalar"}


class Cart:
    """Drive a cart to the origin within 40 steps; position [m] and velocity [m/s] are observed."""

    num_actions, max_episode_length, device = 1, 40, "cpu"

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.state, self.age = self._start(), torch.randint(40, (num_envs,))

    def _start(self):
        return 2.0 * torch.rand(self.num_envs, 2) - 1.0

    def get_observations(self):
        return TensorDict({"policy": self.state.clone()}, [self.num_envs])

    def step(self, actions):
        velocity = self.state[:, 1] + 0.2 * actions[:, 0]
        self.state = torch.stack((self.state[:, 0] + 0.2 * velocity, velocity), dim=1)
        self.age = self.age + 1
        rewards = -self.state[:, 0].square() - 0.1 * velocity.square()
        lost = self.state[:, 0].abs() > 3.0
        rewards, dones = rewards - 10.0 * lost, lost | (self.age >= 40)
        extras = {"time_outs": (self.age >= 40) & ~lost, "final_obs": self.get_observations()}
        self.state = torch.where(dones[:, None], self._start(), self.state)
        self.age = torch.where(dones, 0, self.age)
        return self.get_observations(), rewards, dones.long(), extras


def build(num_envs=16, *, seed=0, trajopt=None, world_model=None, device="cpu", **learner):
    torch.manual_seed(seed)
    env = Cart(num_envs)
    defaults = {
        "seed_steps": 256,
        "exploration_steps": 2000,
        "horizon_start": 3,
        "batch_size": 64,
        "plan_batch_size": 32,
    }
    algorithm = build_model_based(
        env,
        policy="trajopt",
        trajopt=TrajOptConfig(**{"hessian_every": 4} | (trajopt or {})),
        world_model=TdWorldModelConfig(**SMALL | (world_model or {})),
        learner=ModelBasedConfig(**defaults | learner),
        device=device,
    )
    return env, algorithm


def collect(env, algorithm, obs, num_steps=None):
    rewards = []
    with torch.inference_mode():
        for _ in range(num_steps or algorithm.config.num_steps_per_env):
            obs, reward, dones, extras = env.step(algorithm.act(obs).to(env.device))
            algorithm.process_env_step(obs, reward, dones, extras)
            rewards.append(reward)
        algorithm.compute_returns(obs)
    return obs, torch.stack(rewards)


def train(env, algorithm, env_steps):
    obs, rows = env.get_observations(), []
    while algorithm.env_steps < env_steps:
        obs, rewards = collect(env, algorithm, obs)
        rows.append((rewards.mean().item(), algorithm.update()))
    return rows
