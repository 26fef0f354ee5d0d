"""The latent world model's own derivatives are those of automatic differentiation, in every direction and mode."""

from __future__ import annotations

import pytest
import torch

from difftori_isaac.trajopt import gradients
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.linearize import linearize
from difftori_isaac.trajopt.problem import StructuredModel, TrajOptProblem
from difftori_isaac.trajopt.trajectory import simulate
from difftori_isaac.world_models.activations import activation_layer, curvature, value_and_slope
from difftori_isaac.world_models.config import SMOOTH_ACTIVATIONS, WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel
from difftori_isaac.world_models.prior import prior_plan


class Plain:
    """The same model without its derivatives."""

    def __init__(self, model: LatentWorldModel) -> None:
        self.next, self.stage_residual, self.terminal_residual = (
            model.next,
            model.stage_residual,
            model.terminal_residual,
        )


def make_problem(action_dim: int, **changes):
    torch.manual_seed(0)
    settings = {"head_hidden_dims": None, "num_residuals": 3, "head_scale": 1.0} | changes
    config = WorldModelConfig(encoder_dims=(8, 6), hidden_dims=(9, 7), **settings)
    model = LatentWorldModel(5, action_dim, config).double()
    z0 = torch.randn(4, 6, dtype=torch.float64)
    prior = torch.randn(4, 3, action_dim, dtype=torch.float64)
    return model, TrajOptProblem(model, z0, prior, prior_weight=0.5, discount=0.9)


@pytest.mark.parametrize("recording", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("action_dim", [2, 5], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    "changes", [{"head_hidden_dims": ()}, *({"activation": name} for name in SMOOTH_ACTIVATIONS)], ids=str
)
def test_derivatives_match_automatic_differentiation(changes, action_dim, recording):
    model, problem = make_problem(action_dim, **changes)
    assert isinstance(model, StructuredModel) and not isinstance(Plain(model), StructuredModel)
    actions = 0.5 * problem.prior
    with torch.set_grad_enabled(recording):
        ours, theirs = linearize(problem, actions), linearize(problem.replaced(model=Plain(model)), actions)
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("action_dim", [2, 5], ids=["forward", "reverse"])
def test_unrolled_gradients_match_automatic_differentiation(action_dim):
    model, problem = make_problem(action_dim)
    layer = TrajOptLayer(TrajOptConfig(iterations=6, backward_mode="unroll", prior_weight=0.5))
    parameters = [p for m in (model.dynamics, model.reward_head, model.value_head) for p in m.parameters()]
    results = [
        torch.autograd.grad(layer(candidate, problem.z0, problem.prior).actions.square().sum(), parameters)
        for candidate in (model, Plain(model))
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("hidden_dims", "head_hidden_dims"), [((), None), ((9,), ()), ((9,), None), ((9, 7), (5,))], ids=str
)
@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_implicit_gradient_matches_automatic_differentiation(activation, hidden_dims, head_hidden_dims):
    """Both are derivatives of the cost gradient at the same optimum."""
    torch.manual_seed(0)
    widths = {"hidden_dims": hidden_dims, "head_hidden_dims": head_hidden_dims}
    config = WorldModelConfig(encoder_dims=(8, 6), activation=activation, head_scale=1.0, **widths)
    model = LatentWorldModel(5, 2, config).double()
    z0 = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    layer = TrajOptLayer(TrajOptConfig(iterations=3, prior_weight=0.7, action_rate_weight=0.3))
    variables = [z0, prior, *model.second_order_weights()]
    upstream = torch.randn(4, 3, 2, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((layer(candidate, z0, prior).actions * upstream).sum(), variables)
        for candidate in (model, Plain(model))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("head_scale", "changes", "num_rollouts"),
    [
        (1.0, {"hessian_every": 8}, 0),
        (1.0, {"hessian_every": 8, "iterations": 1}, 0),
        (14.0, {"hessian_every": 8, "iterations": 1}, 1),
        (1.0, {"hessian_every": 1}, 1),
    ],
    ids=["converged", "still_moving", "rejected", "pushed_forward"],
)
def test_the_rollout_a_solve_ends_with_serves_its_gradient(monkeypatch, head_scale, changes, num_rollouts):
    """It is rolled out anew where the solver has not kept it; either way the gradient is that of autograd."""
    model, problem = make_problem(2, head_scale=head_scale)
    z0, prior, weights = problem.z0, problem.prior, model.second_order_weights()
    guess = TrajOptLayer(TrajOptConfig(iterations=50))(model, z0, prior).actions.detach()
    guess[0] += 2e-4  # near enough to stay where it is
    guess[1:] = prior[1:]
    layer = TrajOptLayer(TrajOptConfig(**{"iterations": 8, "tolerance": 1e-2} | changes))
    calls = []
    monkeypatch.setattr(gradients, "simulate", lambda *given: calls.append(1) or simulate(*given))
    solutions = [layer(candidate, z0, prior, warm_start=guess) for candidate in (model, Plain(model))]
    moved = (solutions[0].iterations > 0).tolist()
    assert moved == ([False] * 4 if head_scale > 1.0 else [False, True, True, True])
    assert len(calls) == num_rollouts
    upstream = torch.randn_like(prior)
    results = [torch.autograd.grad((plan.actions * upstream).sum(), weights) for plan in solutions]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_plan_has_its_gradient_under_hooks_on_what_is_saved():
    model, problem = make_problem(2)
    layer, weights = TrajOptLayer(TrajOptConfig(hessian_every=8)), model.second_order_weights()
    plan = layer(model, problem.z0, problem.prior).actions
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        hooked = layer(model, problem.z0, problem.prior).actions
    for ours, theirs in zip(*(torch.autograd.grad(a.sum(), weights) for a in (hooked, plan)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_step_between_a_plan_and_its_gradient_is_noticed():
    model, problem = make_problem(2)
    plan = TrajOptLayer(TrajOptConfig(hessian_every=8))(model, problem.z0, problem.prior).actions
    with torch.no_grad():
        model.dynamics[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        plan.sum().backward()


@pytest.mark.parametrize("bounds", [{}, {"action_low": -0.3, "action_high": 0.4}], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("hessian_every", [1, 8])
def test_what_still_moves_is_solved_as_in_a_small_batch(hessian_every, bounds):
    """In large batches the environments that have not converged are gathered; the plans are the same."""
    torch.manual_seed(0)
    config = WorldModelConfig(encoder_dims=(6,), hidden_dims=(9,), head_hidden_dims=(9,), head_scale=3.0)
    model = LatentWorldModel(5, 2, config).double()
    z0, prior = torch.randn(600, 6, dtype=torch.float64), torch.randn(600, 3, 2, dtype=torch.float64)
    z0[::3] *= 6.0
    layer = TrajOptLayer(TrajOptConfig(iterations=8, hessian_every=hessian_every, tolerance=1e-3, **bounds))
    with torch.no_grad():
        whole = layer(model, z0, prior)
        parts = [layer(model, *part) for part in zip(z0.split(100), prior.split(100), strict=True)]
    assert whole.iterations.unique().numel() > 2
    for name, value in whole._asdict().items():
        torch.testing.assert_close(value, torch.cat([getattr(part, name) for part in parts]))


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_slopes_and_curvatures_are_derivatives(activation):
    layer = activation_layer(activation)
    x = torch.tensor([-30.0, -4.0, -1.3, -0.1, 0.2, 1.7, 5.0, 30.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    for result in (value_and_slope(layer, x), value_and_slope(layer, x.detach())):
        torch.testing.assert_close(result, (layer(x), slope), check_dtype=False)
    given = curvature(layer, x.detach(), layer(x).detach(), slope.detach())
    torch.testing.assert_close(given, second)


def test_prior_plan_is_the_prior_rolled_through_the_model():
    model, problem = make_problem(2)
    plan = prior_plan(model, problem.z0, 3)
    zs = problem.rollout(plan)
    torch.testing.assert_close(plan, torch.stack([model.pi(zs[:, t]) for t in range(3)], dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_residuals": 0}, "world_model.num_residuals is 0"),
        ({"encoder_dims": ()}, "one or more widths"),
        ({"hidden_dims": (0,)}, "widths of at least 1"),
        ({"head_hidden_dims": (8, 0)}, r"head_hidden_dims is \(8, 0\); allowed: widths of at least 1"),
        ({"activation": "relu"}, "second derivatives"),
        ({"head_scale": 0.0}, "above 0"),
    ],
)
def test_bad_settings_name_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        WorldModelConfig(**changes)


def test_encoder_and_prior_are_the_tasks_ppo_mlp():
    config = WorldModelConfig().filled_from((32, 16), "elu")
    model = LatentWorldModel(5, 2, config)
    network = [*model.encoder, *model.prior]
    shapes = [tuple(layer.weight.shape) for layer in network if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(32, 5), (16, 32), (2, 16)]
    assert [type(layer).__name__ for layer in network] == ["Linear", "ELU", "Linear", "ELU", "Linear"]
    assert WorldModelConfig(encoder_dims=(7,)).filled_from((32,), "relu").encoder_activation == "swish"
    assert WorldModelConfig(encoder_dims=(7,)).filled_from((32,), "elu").encoder_dims == (7,)
    assert config.hidden_dims == (16,) and WorldModelConfig(hidden_dims=()).filled_from((32,), "elu").hidden_dims == ()
    assert config.head_hidden_dims == () and isinstance(model.reward_head[0], torch.nn.Linear)
    filled = WorldModelConfig(hidden_dims=(9, 7), head_hidden_dims=None).filled_from((32,), "elu")
    assert filled.head_hidden_dims == (9, 7)


def test_return_statistics_are_those_of_all_returns():
    model = LatentWorldModel(5, 2, WorldModelConfig())
    batches = [torch.tensor([8.0, 10.0, 12.0]), torch.tensor([5.0, 5.0, 5.0]), torch.tensor([-3.0, 0.0, 1.0])]
    for count in range(1, 4):
        model.update_return_statistics(batches[count - 1])
        seen = torch.cat(batches[:count])
        torch.testing.assert_close(model.return_mean, seen.mean())
        torch.testing.assert_close(model.return_std, seen.std(unbiased=False))
