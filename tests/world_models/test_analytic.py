"""The torch and the Warp dynamics of each system are one, and they are physics."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.kernels.rollout import rollout
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.world_models.analytic import AnalyticModel, CartPole, DoubleIntegrator, Pendulum, PlanarReacher

SYSTEMS = [Pendulum, CartPole, DoubleIntegrator, PlanarReacher]


def make(system, **keywords):
    """A system with parameters unlike any default, and 5 states and plans of 3 actions."""
    torch.manual_seed(0)
    model = system(**keywords).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    z = torch.randn(5, model.system.state_dim, dtype=torch.float64, requires_grad=True)
    actions = torch.randn(5, 3, model.system.action_dim, dtype=torch.float64, requires_grad=True)
    return model, z, actions


@pytest.mark.parametrize("system", SYSTEMS)
def test_torch_and_warp_agree_on_states_outputs_and_jacobians(system):
    model, z0, actions = make(system)
    states = [z0]
    for t in range(3):
        states.append(model.next(states[-1], actions[:, t]))
    outputs = torch.stack([model.outputs(z) for z in states], dim=1)
    states = torch.stack(states, dim=1)
    warp = rollout(model.system, z0, actions, model.physical())
    torch.testing.assert_close(warp.states, states, rtol=0, atol=1e-12)
    torch.testing.assert_close(warp.outputs, outputs, rtol=0, atol=1e-12)

    upstream = torch.randn_like(states), torch.randn_like(outputs)
    inputs = [z0, actions, *(model.get_parameter(name) for name in model.system.parameters)]
    expected = torch.autograd.grad((states, outputs), inputs, upstream)
    for grad, e in zip(torch.autograd.grad((warp.states, warp.outputs), inputs, upstream), expected, strict=True):
        torch.testing.assert_close(grad, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("system", [Pendulum, CartPole, PlanarReacher])
def test_energy_is_conserved_without_action_and_friction(system):
    model, z, actions = make(system, dt=1e-6)
    if system is not CartPole:
        with torch.no_grad():
            model.damping.zero_()

    def energy(z):
        if system is Pendulum:
            angle, rate = z.unbind(dim=1)
            kinetic = 0.5 * model.mass * (model.length * rate).square()
            return kinetic + model.mass * model.gravity * model.length * angle.cos()
        if system is CartPole:
            _, velocity, angle, rate = z.unbind(dim=1)
            arm = model.half_length * rate
            kinetic = 0.5 * (model.cart_mass + model.pole_mass) * velocity.square()
            kinetic = kinetic + model.pole_mass * (velocity * arm * angle.cos() + 2.0 / 3.0 * arm.square())
            return kinetic + model.pole_mass * model.gravity * model.half_length * angle.cos()
        _, elbow, rate1, rate2 = z.unbind(dim=1)
        total = rate1 + rate2
        upper = model.mass1 * (model.length1 * rate1).square() / 6.0
        joint = (model.length1 * rate1).square() + (model.length2 * total).square() / 3.0
        joint = joint + model.length1 * rate1 * model.length2 * total * elbow.cos()
        return upper + 0.5 * model.mass2 * joint

    power = (energy(model.next(z, torch.zeros_like(actions[:, 0]))) - energy(z)) / model.dt
    assert power.abs().max() < 1e-3


def test_an_action_moves_a_double_integrator_as_newton_says():
    model = DoubleIntegrator(mass=2.0, dt=0.1).double()
    z = model.next(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[4.0, -2.0]], dtype=torch.float64))
    torch.testing.assert_close(z, torch.tensor([[0.02, -0.01, 0.2, -0.1]], dtype=torch.float64))


def test_the_residuals_are_weighted_distances_to_the_goal():
    model = Pendulum(weights=[2.0, 3.0], terminal_weights=[4.0, 5.0], action_weights=6.0, goal=[1.0, 0.0])
    z, a = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5]])
    assert model.stage_residual(z, a).tolist() == [[2.0, 3.0, 3.0]]
    assert model.terminal_residual(z).tolist() == [[4.0, 5.0]]


def test_a_system_is_planned_with_its_warp_dynamics_alone():
    reference, z, actions = make(PlanarReacher)
    values = {name: reference.get_parameter(name).item() for name in reference.system.parameters}
    model = AnalyticModel(reference.system, values).double()
    torch.testing.assert_close(model.next(z, actions[:, 0]), reference.next(z, actions[:, 0]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.outputs(z), reference.outputs(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("system", [Pendulum, PlanarReacher])
def test_models_can_be_saved_whole(system):
    model, z0, actions = make(system, goal=0.5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for loaded in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))):
        assert (loaded.system.step, loaded.system.outputs) == (model.system.step, model.system.outputs)
        states = [rollout(m.system, z0, actions, m.physical()).states for m in (loaded, model)]
        assert torch.equal(*states) and torch.equal(loaded.goal, model.goal)
    elsewhere = replace(model.system, step=lambda z, a, p: z)
    with pytest.raises(pickle.PicklingError, match=r"<lambda> cannot be pickled; allowed: one of that name in "):
        pickle.dumps(elsewhere)


def test_copies_of_a_model_share_its_kernels():
    model = CartPole()
    assert copy.deepcopy(model).system is model.system


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AnalyticModel(Pendulum().system, {"mass": 1.0}), "allowed: mass, length, damping, gravity"),
        (lambda: Pendulum(weights=[1.0, 2.0, 3.0]), "weights has 3 values; allowed: 1 or 2"),
        (
            lambda: AnalyticModel.next(Pendulum().half(), torch.zeros(1, 2).half(), torch.zeros(1, 1).half()),
            "allowed in Warp kernels: float32, float64",
        ),
    ],
)
def test_bad_models_name_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("mode", ["implicit", "unroll"])
def test_a_state_may_change_before_the_gradient_of_its_plan(mode):
    model, layer, results = Pendulum(), TrajOptLayer(TrajOptConfig(backward_mode=mode)), []
    for change in (0.0, 1.0):
        state, prior = torch.ones(2, 2), torch.zeros(2, 3, 1)
        plan = layer(model, state, prior).actions
        state.add_(change)
        prior.add_(change)
        results.append(torch.autograd.grad(plan.sum(), model.damping)[0])
    assert torch.equal(*results)
