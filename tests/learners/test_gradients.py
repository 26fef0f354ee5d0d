"""Gradients clipped by themselves, and means that are read at the end."""

import pytest
import torch

from difftori_isaac.learners.gradients import accumulate, clipped_gradients
from difftori_isaac.learners.means import Means


@pytest.fixture
def parameters():
    return [torch.tensor([3.0], requires_grad=True), torch.tensor([[2.0, 1.0]], requires_grad=True)]


def loss_of(parameters):
    return parameters[0].square().sum() / 2 + (parameters[1] * torch.tensor([[4.0, 0.0]])).sum()


@pytest.mark.parametrize(("max_norm", "scale"), [(10.0, 1.0), (5.0, 1.0), (1.0, 0.2)])
def test_gradients_are_clipped_together(parameters, max_norm, scale):
    gradients, norms, finite = clipped_gradients(loss_of(parameters), parameters, max_norm)
    torch.testing.assert_close(gradients, [torch.tensor([3.0 * scale]), torch.tensor([[4.0 * scale, 0.0]])])
    assert finite and [norm.item() for norm in norms] == [3.0, 4.0]


def test_gradients_that_are_not_finite_are_dropped_and_others_kept(parameters):
    unused = torch.zeros(2, requires_grad=True)
    accumulate(parameters, clipped_gradients(loss_of(parameters), parameters, 10.0)[0])
    for factor in (torch.nan, torch.inf):
        gradients, _, finite = clipped_gradients(factor * loss_of(parameters), [*parameters, unused], 10.0)
        assert not finite and all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
        accumulate(parameters, gradients[:2])
    assert parameters[0].grad.item() == 3.0 and unused.grad is None


def test_means_are_over_the_times_that_a_name_was_counted():
    means = Means()
    means.add(["loss", "plan"], torch.tensor([1.0, 5.0]))
    means.add(["loss"], torch.tensor([2.0]))
    means.add(["loss"], torch.tensor([torch.nan]))
    means.add(["never"], torch.tensor([torch.inf]))
    assert means.pop() == {"loss": 1.5, "plan": 5.0} and means.pop() == {}
