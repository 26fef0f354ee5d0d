"""Targets of the temporal-difference losses, and what images teach through them."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.replay import Replayed
from difftori_isaac.learners.td_losses import lambda_returns, model_losses, plan_loss, prior_loss
from difftori_isaac.policies.plan_policy import PlanPolicy
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.td import TdWorldModel
from difftori_isaac.world_models.td_config import TdWorldModelConfig

BATCH, LENGTH, ACTION_DIM = 4, 3, 2


@pytest.fixture
def seen():
    """A model that sees images only, and a batch of them."""
    torch.manual_seed(0)
    config = TdWorldModelConfig(latent_dim=8, encoder_dims=(16,), hidden_dims=(16,), pixel_channels=4, pixel_dim=6)
    images = torch.randint(0, 256, (BATCH, LENGTH + 1, 3, 64, 64), dtype=torch.uint8)
    obs = TensorDict({"pixels": images}, [BATCH, LENGTH + 1])
    model = TdWorldModel(obs[:, 0], ["pixels"], ACTION_DIM, config, return_unit=20.0)
    batch = Replayed(
        obs=obs,
        actions=2.0 * torch.rand(BATCH, LENGTH, ACTION_DIM) - 1.0,
        rewards=torch.randn(BATCH, LENGTH),
        terminated=torch.zeros(BATCH, LENGTH, dtype=torch.bool),
        valid=torch.ones(BATCH, LENGTH),
        weights=torch.ones(BATCH),
        index=(torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.long)),
    )
    return model, batch


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.features.parameters()), allow_unused=True)


def test_critics_on_observations_train_the_features_with_every_image(seen):
    model, batch = seen
    for step in range(LENGTH):
        batch.valid.zero_()[:, step] = 1.0
        loss = model_losses(model, batch, ModelBasedConfig(horizon=LENGTH), 0.99).losses["raw_value"]
        assert all((g != 0).any() for g in gradients(loss, model)), step


def test_a_plan_loss_reaches_the_features_through_the_plan_alone(seen):
    model, batch = seen
    trajopt = TrajOptConfig(horizon=2, prior_weight=3.0, iterations=30, tolerance=1e-4)
    policy = PlanPolicy(model, trajopt, discount=0.99, scale=1.0, act_with="plan")
    assert any((g != 0).any() for g in gradients(plan_loss(policy, batch, BATCH), model))
    for critic in model.raw_critics.twins:
        critic.net[0].weight.data[:, -ACTION_DIM:] = 0.0  # an action changes nothing, so that no plan is better
    assert all(g is None or (g == 0).all() for g in gradients(plan_loss(policy, batch, BATCH), model))


@pytest.mark.parametrize("mode, passes", [("implicit", False), ("unroll", True), ("truncated", True)])
def test_a_plan_that_has_not_converged_passes_a_gradient_on_only_through_its_iterations(seen, mode, passes):
    model, batch = seen
    trajopt = TrajOptConfig(horizon=2, prior_weight=3.0, iterations=1, tolerance=1e-12, backward_mode=mode)
    policy = PlanPolicy(model, trajopt, discount=0.99, scale=1.0, act_with="plan")
    assert not policy.plan(batch.obs[:, 0]).converged.any()
    assert any((g != 0).any() for g in gradients(plan_loss(policy, batch, BATCH), model)) == passes


def test_values_of_steps_of_another_episode_are_none(seen):
    model, _ = seen
    weights = torch.ones(LENGTH, BATCH) / (LENGTH * BATCH)
    weights[1:, 0] = 0.0
    _, values, _ = prior_loss(model, torch.randn(LENGTH, BATCH, 8), weights, ModelBasedConfig())
    assert torch.equal(values.isnan(), weights == 0)


@pytest.mark.parametrize("td_lambda", [0.0, 0.7, 1.0])
def test_lambda_returns_are_mixtures_of_n_step_returns(td_lambda):
    torch.manual_seed(0)
    rewards, next_values = torch.randn(2, 8, 4, dtype=torch.float64)
    terminated, lengths = torch.rand(8, 4) < 0.2, torch.tensor([1, 2, 3, 4, 4, 4, 2, 4])
    discounts = 0.9 * (~terminated).double()
    valid = (torch.arange(4) < lengths[:, None]).double()
    returns = lambda_returns(rewards, discounts, next_values, valid, td_lambda)
    for env, length in enumerate(lengths.tolist()):
        for k in range(length):
            expected, total, factor = 0.0, 0.0, 1.0
            for n, step in enumerate(range(k, length)):
                total, factor = total + factor * rewards[env, step], factor * discounts[env, step]
                share = td_lambda**n * (1.0 if step == length - 1 else 1.0 - td_lambda)
                expected = expected + share * (total + factor * next_values[env, step])
            torch.testing.assert_close(returns[env, k], expected)
