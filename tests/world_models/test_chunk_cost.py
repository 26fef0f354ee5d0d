"""The cost of a chunk: its derivatives are those of automatic differentiation, its plans' gradients exact."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.linearize import linearize
from difftori_isaac.trajopt.problem import SecondOrderModel, StructuredModel, TrajOptProblem
from difftori_isaac.world_models.chunk_cost import ChunkCost

BOUNDS = {"free": None, "bounded": 0.1}


class Plain:
    """The same functions, without derivatives of its own."""

    def __init__(self, cost: ChunkCost) -> None:
        self.next, self.stage_residual, self.terminal_residual = cost.next, cost.stage_residual, cost.terminal_residual


def make_cost():
    torch.manual_seed(0)
    cost = ChunkCost(3, 4, hidden_dims=(16, 16), activation="swish").double()
    return cost, torch.randn(5, 3, dtype=torch.float64), 0.3 * torch.randn(5, 1, 4, dtype=torch.float64)


def layer(bound: float | None, **changes) -> TrajOptLayer:
    settings = {"horizon": 1, "iterations": 20, "tolerance": 1e-11, "prior_weight": 0.5}
    low = None if bound is None else -bound
    return TrajOptLayer(TrajOptConfig(**settings | {"action_low": low, "action_high": bound} | changes))


def test_derivatives_are_those_of_automatic_differentiation():
    cost, z, actions = make_cost()
    assert isinstance(cost, StructuredModel) and isinstance(cost, SecondOrderModel)
    derivatives = cost.stage_derivatives(z, actions[:, 0])
    tangents, rows = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    of_z, jacobian = torch.func.vmap(torch.func.jacrev(cost.stage_residual, argnums=(0, 1)))(z, actions[:, 0])
    pushed = torch.cat(((of_z @ tangents[..., None])[..., 0], jacobian.permute(2, 0, 1)))
    torch.testing.assert_close(derivatives.push(tangents), pushed)
    torch.testing.assert_close(derivatives.pull(rows)[1], (jacobian.mT @ rows[..., None])[..., 0])
    kept = linearize(TrajOptProblem(cost, z, torch.zeros_like(actions), 0.5), actions).hessian
    for hessian in (None, kept):
        results = [
            linearize(TrajOptProblem(model, z, torch.zeros_like(actions), 0.5), actions, hessian).tensors
            for model in (cost, Plain(cost))
        ]
        for structured, automatic in zip(*results, strict=True):
            torch.testing.assert_close(structured, automatic)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("mode", [{"hessian": "exact"}, {"backward_mode": "unroll"}], ids=["implicit", "unroll"])
def test_gradients_match_finite_differences(bounds, mode):
    cost, z, prior = make_cost()
    plan = layer(BOUNDS[bounds], **mode)
    solution = plan(cost, z, prior)
    held = solution.actions.abs() == BOUNDS[bounds] if BOUNDS[bounds] else torch.zeros(1)
    assert solution.converged.all() and bool(held.any()) == (bounds == "bounded") and not held.all()
    upstream = torch.randn_like(prior)
    inputs = [z.requires_grad_(), prior.requires_grad_(), *cost.parameters()]
    gradients = torch.autograd.grad((solution_of(plan, cost, z, prior) * upstream).sum(), inputs)
    directions = [torch.randn_like(tensor) for tensor in inputs]
    values = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for tensor, direction in zip(inputs, directions, strict=True):
                tensor.add_(sign * 1e-5 * direction)
            values.append((solution_of(plan, cost, z, prior) * upstream).sum())
            for tensor, direction in zip(inputs, directions, strict=True):
                tensor.sub_(sign * 1e-5 * direction)
    projected = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    torch.testing.assert_close(projected, (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def solution_of(plan, cost, z, prior):
    return plan(cost, z, prior).actions


@pytest.mark.parametrize("bounds", BOUNDS)
def test_its_own_second_derivatives_are_those_of_automatic_differentiation(bounds):
    cost, z, prior = make_cost()
    plan = layer(BOUNDS[bounds])
    upstream = torch.randn_like(prior)
    inputs = [z.requires_grad_(), prior.requires_grad_(), *cost.parameters()]
    results = [
        torch.autograd.grad((solution_of(plan, model, z, prior) * upstream).sum(), inputs)
        for model in (cost, Plain(cost))
    ]
    for own, automatic in zip(*results, strict=True):
        torch.testing.assert_close(own, automatic)


def test_plans_are_the_same_in_inference_mode():
    cost, z, prior = make_cost()
    expected = solution_of(layer(0.1), cost, z, prior)
    with torch.inference_mode():
        torch.testing.assert_close(solution_of(layer(0.1), cost, z.clone(), prior.clone()), expected, rtol=0, atol=0)
