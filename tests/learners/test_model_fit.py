"""What the errors of a model on a fresh rollout mean."""

from __future__ import annotations

from math import isnan

import pytest
import torch

from difftori_isaac.learners.model_fit import model_fit
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel

T, N = 6, 5


@pytest.fixture
def model() -> LatentWorldModel:
    torch.manual_seed(0)
    model = LatentWorldModel(3, 2, WorldModelConfig(encoder_dims=(8, 4), head_scale=1.0)).double()
    model.return_std.fill_(2.0)
    return model


@pytest.fixture
def rollout(model: LatentWorldModel) -> dict[str, torch.Tensor]:
    """The one that the model predicts; an episode ends in step 2 of environment 1."""
    actions, zs = torch.randn(T, N, 2).double(), [torch.randn(N, 4).double()]
    dones = torch.zeros(T, N, dtype=torch.uint8)
    dones[2, 1] = 1
    with torch.no_grad():
        for t in range(T):
            following = model.next(zs[-1], actions[t])
            zs.append(torch.where(dones[t].bool()[:, None], torch.randn(N, 4).double(), following))
        states = torch.stack(zs)
        rewards, returns = 2.0 * model.reward(states[:-1], actions), 2.0 * model.terminal_value(states[:-1])
    return {"zs": states, "actions": actions, "rewards": rewards, "returns": returns, "dones": dones}


def test_the_errors_of_a_perfect_model_are_zero_across_the_ends_of_episodes(model, rollout):
    assert model_fit(model, **rollout) == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-12)


def test_an_offset_of_the_returns_is_no_error(model, rollout):
    assert model_fit(model, **rollout | {"returns": rollout["returns"] + 7.0})["model_value_error"] < 1e-12


def test_a_model_that_predicts_no_change_has_an_error_of_one(model, rollout):
    for head in (model.dynamics, model.reward_head, model.value_head):
        torch.nn.init.zeros_(head[-1].weight)
        torch.nn.init.zeros_(head[-1].bias)
    assert model_fit(model, **rollout) == pytest.approx(dict.fromkeys(NAMES, 1.0))


@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_leaves_nothing_to_predict_has_no_error(model, rollout, constant, dtype):
    model, rollout = model.to(dtype), {name: values.to(dtype) for name, values in rollout.items()}
    same = torch.full((T, N), constant, dtype=dtype)
    assert list(model_fit(model, **rollout | {"rewards": same})) == ["model_dynamics_error", "model_value_error"]
    assert list(model_fit(model, **rollout | {"returns": same})) == ["model_dynamics_error", "model_reward_error"]
    still = rollout["zs"][:1].expand(T + 1, N, 4)
    assert list(model_fit(model, **rollout | {"zs": still})) == ["model_reward_error", "model_value_error"]


def test_an_error_that_is_no_number_is_not_left_out(model, rollout):
    fit = model_fit(model, **rollout | {"rewards": torch.full((T, N), torch.nan)})
    assert isnan(fit["model_reward_error"])


NAMES = ("model_dynamics_error", "model_reward_error", "model_value_error")
