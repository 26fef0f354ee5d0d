"""Targets of the temporal-difference losses."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.learners.td_losses import lambda_returns


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
