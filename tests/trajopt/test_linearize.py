"""The two directions through time, and both together, give the Jacobian that autograd gives."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.trajopt.linearize import linearize
from difftori_isaac.trajopt.problem import TrajOptProblem


@pytest.mark.parametrize("action_dim", [1, 2, 3, 5], ids="action_dim={}".format)
@pytest.mark.parametrize("horizon", [1, 4], ids="horizon={}".format)
def test_matches_autograd(make_problem, action_dim, horizon):
    """Fewer actions than residuals (3) accumulates forward; otherwise rows pulled back meet the first tangents."""
    model, z0, prior = make_problem(horizon=horizon, action_dim=action_dim)
    problem = TrajOptProblem(model, z0, prior, prior_weight=0.6, discount=0.9, action_rate_weight=1.5)
    actions = prior + 0.1 * torch.randn_like(prior)

    def residual(actions, z0, prior):
        return problem.replaced(z0=z0[None], prior=prior[None]).residual(actions[None])[0]

    jacobian = torch.func.vmap(torch.func.jacrev(residual))(actions, z0, prior).flatten(2)
    residuals = problem.residual(actions)
    result = linearize(problem, actions)
    torch.testing.assert_close(result.cost, problem.cost(actions))
    torch.testing.assert_close(result.gradient, torch.einsum("nrk,nr->nk", jacobian, residuals))
    torch.testing.assert_close(result.hessian, jacobian.mT @ jacobian)


@pytest.mark.parametrize("action_dim", [1, 5], ids="action_dim={}".format)
def test_keeping_a_hessian_changes_nothing_else(make_problem, action_dim):
    model, z0, prior = make_problem(horizon=4, action_dim=action_dim)
    problem = TrajOptProblem(model, z0, prior, prior_weight=0.6, discount=0.9, action_rate_weight=1.5)
    actions = prior + 0.1 * torch.randn_like(prior)
    fresh = linearize(problem, actions)
    kept = linearize(problem, actions, hessian=2.0 * fresh.hessian)
    torch.testing.assert_close(kept.cost, fresh.cost)
    torch.testing.assert_close(kept.gradient, fresh.gradient)
    assert torch.equal(kept.hessian, 2.0 * fresh.hessian)
