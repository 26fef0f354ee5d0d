"""PPO settings: the user's, the task's, the defaults."""

from __future__ import annotations

import pytest

from difftori_isaac.learners.config import ModelLossConfig, PPOConfig
from difftori_isaac.world_models.encoder_config import ACTIVATIONS


def test_the_user_comes_before_the_task_and_the_task_before_the_defaults():
    task = {
        "num_steps_per_env": 16,
        "actor": {"hidden_dims": [32, 32], "activation": "tanh", "distribution_cfg": {"init_std": 0.3}},
        "critic": {"hidden_dims": [64]},
        "algorithm": {"gamma": 0.5, "lam": 0.6, "desired_kl": 0.02},
        "obs_groups": {"actor": ["policy"], "critic": ["privileged"], "teacher": ["privileged"]},
    }
    filled = PPOConfig(gamma=0.9, critic_hidden_dims=(8,)).filled_from(task)
    assert (filled.gamma, filled.lam, filled.desired_kl) == (0.9, 0.6, 0.02)
    assert (filled.num_steps_per_env, filled.init_std, filled.activation) == (16, 0.3, "tanh")
    assert (filled.actor_hidden_dims, filled.critic_hidden_dims) == ((32, 32), (8,))
    assert filled.obs_groups == {"actor": ["policy"], "critic": ["privileged"]}
    assert (filled.clip_param, filled.schedule) == (0.2, "adaptive")


def test_a_task_without_settings_gets_defaults():
    filled = PPOConfig().filled_from({})
    assert all(value is not None for name, value in vars(filled).items() if name != "obs_groups")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PPOConfig(num_mini_batches=0), "learner.num_mini_batches is 0; allowed: at least 1"),
        (
            lambda: PPOConfig(actor_hidden_dims=(8, 0)),
            "learner.actor_hidden_dims is [8, 0]; allowed: widths of at least 1",
        ),
        (lambda: PPOConfig(activation="foo"), f"learner.activation is 'foo'; allowed: {', '.join(ACTIVATIONS)}"),
        (lambda: PPOConfig(gamma=1.1), "learner.gamma is 1.1; allowed: a number from 0 to 1"),
        (lambda: PPOConfig(init_std=0.0), "learner.init_std is 0.0; allowed: above 0"),
        (lambda: ModelLossConfig(num_updates=-1), "learner.model_losses.num_updates is -1; allowed: at least 0"),
        (lambda: ModelLossConfig(rho=0.0), "learner.model_losses.rho is 0.0; allowed: above 0"),
    ],
)
def test_bad_settings_name_what_is_allowed(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert str(error.value) == message
