"""A subclass is planned with as its methods say, whatever its base class knows about its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.trajectory import overridden
from difftori_isaac.world_models.analytic import AnalyticModel, Pendulum
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel


class Urged(LatentWorldModel):
    """Has a residual that the derivatives of its base class know nothing of."""

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.cat((super().stage_residual(z, a), 5.0 * (a - 1.0)), dim=1)


class Heavier(Pendulum):
    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return super().next(z, 0.5 * a)


class Slower(Pendulum):
    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, 1:]


class Own(AnalyticModel):
    next = Pendulum.next


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_plan_and_gradient_are_those_of_the_overriding_methods(hessian):
    torch.manual_seed(0)
    model = Urged(3, 2, WorldModelConfig()).double()
    plain = SimpleNamespace(
        next=model.next, stage_residual=model.stage_residual, terminal_residual=model.terminal_residual
    )
    z0 = model.encode(torch.randn(4, 3, dtype=torch.float64)).detach()
    prior = torch.zeros(4, 5, 2, dtype=torch.float64)
    layer = TrajOptLayer(TrajOptConfig(horizon=5, iterations=30, tolerance=1e-9, hessian=hessian))
    solution, expected = (layer(each, z0, prior) for each in (model, plain))
    assert solution.converged.all() and (solution.action > 0.9).all()
    torch.testing.assert_close(solution.actions, expected.actions, rtol=0.0, atol=1e-8)
    weights = list(model.dynamics.parameters())
    gradients = [torch.autograd.grad(each.actions.square().sum(), weights) for each in (solution, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "method"), [(Heavier(), "next"), (Slower(), "terminal_residual")], ids=["next", "terminal_residual"]
)
def test_warp_refuses_what_its_system_does_not_say(model, method):
    layer = TrajOptLayer(TrajOptConfig(horizon=3, solver="warp"))
    with pytest.raises(ValueError, match=f"{type(model).__name__} overrides {method}; allowed"):
        layer(model, torch.zeros(2, 2), torch.zeros(2, 3, 1))
    own = Own(Pendulum().system, dict.fromkeys(Pendulum().system.parameters, 1.0))
    assert layer(own, torch.zeros(2, 2), torch.zeros(2, 3, 1)).converged.all()


def test_the_latent_kernel_refuses_what_the_networks_do_not_say():
    model = Urged(3, 2, WorldModelConfig())
    layer = TrajOptLayer(TrajOptConfig(horizon=3, latent_kernel="warp", hessian_every=2))
    z0 = torch.zeros(2, model.encode(torch.zeros(1, 3)).shape[1])
    with pytest.raises(ValueError, match="Urged overrides what they are used for; allowed"):
        layer(model, z0, torch.zeros(2, 3, 2))


def test_a_model_may_have_slots():
    class Slotted:
        __slots__ = ()

        next = staticmethod(lambda z, a: z)
        stage_residual = staticmethod(lambda z, a: a)
        terminal_residual = staticmethod(lambda z: z)

    assert not overridden(Slotted(), "next", "next_derivatives", "next") and overridden(Slotted(), "next", "other")
