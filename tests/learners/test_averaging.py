"""One policy learned by two processes on halves of a rollout; run as a script, this file is both of them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import distributed

from difftori_isaac.learners.config import ModelLossConfig, PPOConfig
from difftori_isaac.learners.ppo import build_ppo
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.config import WorldModelConfig

pytestmark = pytest.mark.slow
NUM_STEPS, NUM_ENVS, OBS_DIM, ACTION_DIM = 6, 8, 5, 2
ONE_BATCH = {"num_learning_epochs": 1, "num_mini_batches": 1, "schedule": "fixed", "obs_normalization": True}
SEVERAL = {"num_learning_epochs": 2, "num_mini_batches": 2, "obs_normalization": True}
SCENARIOS = {
    "trajopt": ("trajopt", PPOConfig(**ONE_BATCH, model_losses=ModelLossConfig(num_updates=0))),
    "mlp": ("mlp", PPOConfig(**ONE_BATCH)),
    "model": ("trajopt", PPOConfig(**SEVERAL, model_losses=ModelLossConfig(num_updates=2, batch_size=16))),
}


def updated(policy: str, config: PPOConfig, rank: int, size: int) -> dict[str, torch.Tensor]:
    """Learns from this rank's share of a rollout; returns everything that must be equal on all ranks."""
    mine = slice(rank * NUM_ENVS // size, (rank + 1) * NUM_ENVS // size)
    data = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(NUM_STEPS, NUM_ENVS, *shape, generator=data)[:, mine]

    obs = TensorDict({"policy": draw(OBS_DIM)}, [NUM_STEPS, NUM_ENVS // size])
    torch.manual_seed(0)
    alg = build_ppo(
        SimpleNamespace(num_envs=NUM_ENVS // size, num_actions=ACTION_DIM, get_observations=lambda: obs[0]),
        policy=policy,
        trajopt=TrajOptConfig(horizon=2, iterations=3),
        world_model=WorldModelConfig(encoder_dims=(8, 8), head_scale=1.0),
        learner=config.filled_from({"num_steps_per_env": NUM_STEPS, "critic": {"hidden_dims": [16]}}),
        device="cpu",
    )
    torch.manual_seed(rank)
    actions, values = draw(ACTION_DIM), draw(1)
    for t in range(NUM_STEPS):
        alg.act(obs[t])
        alg.transition.actions = actions[t]
        alg.transition.actions_log_prob = alg.actor.get_output_log_prob(actions[t]).detach()
        alg.transition.values = values[t]
        alg.transition.rewards, alg.transition.dones = values[t, :, 0], torch.zeros(NUM_ENVS // size)
        alg.storage.add_transition(alg.transition)
        alg.transition.clear()
    alg._last_obs = obs[0]
    storage: RolloutStorage = alg.storage
    storage.returns, storage.advantages = 3.0 + draw(1), draw(1)
    alg.train_mode()
    alg.update()
    state = alg.actor.state_dict() | {f"critic.{name}": value for name, value in alg.critic.state_dict().items()}
    return state | {"learning_rate": torch.tensor(alg.learning_rate)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of two processes ended with in every scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=300)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_end_with_the_same_weights(name: str, ranks):
    first, other = (rank[name] for rank in ranks)
    assert first.keys() == other.keys()
    for key in first:
        assert torch.equal(first[key], other[key]), key


@pytest.mark.parametrize("name", ["trajopt", "mlp"])
def test_two_halves_of_a_batch_teach_what_the_whole_does(name: str, ranks):
    whole = updated(*SCENARIOS[name], rank=0, size=1)
    assert {key for key in whole if "normalizer" in key}
    torch.testing.assert_close(ranks[0][name], whole, rtol=0, atol=1e-5)


def test_return_statistics_are_those_of_all_processes(ranks):
    whole = updated(*SCENARIOS["model"], rank=0, size=1)
    for name in ("return_mean", "return_std"):
        key = f"mlp.world_model.{name}"
        torch.testing.assert_close(ranks[0]["model"][key], whole[key], rtol=0, atol=1e-6)


def learn(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({name: updated(*scenario, rank, size=2) for name, scenario in SCENARIOS.items()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=learn, args=(rank, Path(sys.argv[1]))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
