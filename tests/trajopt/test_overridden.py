"""A subclass is planned with as its methods say, whatever its base class knows about its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

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


def small_model() -> LatentWorldModel:
    torch.manual_seed(0)
    return LatentWorldModel(
        5, 2, WorldModelConfig(encoder_dims=(8, 4), hidden_dims=(8,), head_hidden_dims=(8,))
    ).double()


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.ELU(alpha=0.3), r"ELU\(alpha=0.3\)"),
        (nn.Softplus(beta=3.0), r"Softplus\(beta=3.0, threshold=20.0\)"),
        (nn.GELU("tanh"), r"GELU\(approximate='tanh'\)"),
        (nn.ReLU(), r"ReLU\(\)"),
        (weight_norm(nn.Linear(8, 8)), r"ParametrizedLinear\("),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_that_are_not_known_are_refused(layer, name):
    model = small_model()
    model.dynamics[1] = layer.double()
    with pytest.raises(ValueError, match=f"the model has a layer {name}, whose derivatives are not known; allowed: "):
        TrajOptLayer(TrajOptConfig(horizon=3))(model, torch.zeros(2, 4).double(), torch.zeros(2, 3, 2).double())


@pytest.mark.parametrize("hooked", [lambda model: model.dynamics[0], lambda model: model.dynamics])
def test_hooks_are_refused(hooked):
    model = small_model()
    hooked(model).register_forward_hook(lambda layer, given, out: 2.0 * out)
    with pytest.raises(ValueError, match=r"the model has a layer (Linear|Sequential)\("):
        TrajOptLayer(TrajOptConfig(horizon=3))(model, torch.zeros(2, 4).double(), torch.zeros(2, 3, 2).double())


def test_layers_may_lack_a_bias_and_be_shared():
    model = small_model()
    model.dynamics[0] = nn.Linear(6, 8, bias=False).double()
    model.value_head[2] = model.reward_head[2]
    z0, prior = torch.randn(3, 4, dtype=torch.float64), torch.zeros(3, 3, 2, dtype=torch.float64)
    gradients = []
    for mode in ("implicit", "unroll"):
        config = TrajOptConfig(horizon=3, iterations=20, tolerance=1e-9, hessian="exact", backward_mode=mode)
        actions = TrajOptLayer(config)(model, z0, prior).actions
        shared = (model.dynamics[0].weight, model.reward_head[2].weight, model.reward_head[2].bias)
        gradients.append(torch.autograd.grad(actions.square().sum() + actions.sum(), shared))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-10)


def test_a_model_may_have_slots():
    class Slotted:
        __slots__ = ()

        next = staticmethod(lambda z, a: z)
        stage_residual = staticmethod(lambda z, a: a)
        terminal_residual = staticmethod(lambda z: z)

    assert not overridden(Slotted(), "next", "next_derivatives", "next") and overridden(Slotted(), "next", "other")
