"""The temporal-difference world model: heads, normalisations, targets, and what the planner sees of it."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torch.func import jvp, vmap
from torch.nn import functional as F

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.trajopt.problem import SecondOrderModel
from difftori_isaac.world_models.normalization import SimNorm
from difftori_isaac.world_models.td import TdWorldModel
from difftori_isaac.world_models.td_config import TdWorldModelConfig
from difftori_isaac.world_models.td_networks import ROOM, symexp, symlog, two_hot

NUM_ENVS, OBS_DIM, ACTION_DIM = 5, 6, 2
SMALL = {"latent_dim": 8, "encoder_dims": (8,), "hidden_dims": (12,)}
ACTIONS = torch.linspace(-1.0, 1.0, NUM_ENVS * ACTION_DIM).view(NUM_ENVS, ACTION_DIM)
NORMALIZED = {"layer_norm": True, "latent_norm": "simnorm", "simnorm_dim": 4, "prior": "gaussian", "num_q": 3}


def build(obs=None, groups=("policy",), **settings):
    torch.manual_seed(0)
    obs = TensorDict({"policy": torch.randn(NUM_ENVS, OBS_DIM)}, [NUM_ENVS]) if obs is None else obs
    model = TdWorldModel(obs, list(groups), ACTION_DIM, TdWorldModelConfig(**SMALL | settings), return_unit=20.0)
    for head in [*model.heads(), model.reward_head]:
        if head.maximum is not None:
            head.maximum.data.uniform_(0.5, 1.5)
    return model, obs


@settings(max_examples=50, deadline=None)
@given(x=st.lists(st.floats(-2e4, 2e4), min_size=1, max_size=5).map(lambda x: torch.tensor(x, dtype=torch.float64)))
def test_two_hot_keeps_the_mean_in_symmetric_logarithms(x):
    bins = torch.linspace(-10.0, 10.0, 101, dtype=torch.float64)
    probabilities = two_hot(x, bins)
    assert probabilities.sum(dim=-1).allclose(torch.ones_like(x)) and (probabilities > 0).sum(dim=-1).max() <= 2
    assert symexp((probabilities * bins).sum(dim=-1)).allclose(x, rtol=1e-9, atol=1e-9)
    assert symexp(symlog(x)).allclose(x)


def test_simnorm_gives_probabilities_in_every_group():
    z = SimNorm(4)(torch.randn(3, 5, 8)).unflatten(-1, (2, 4))
    assert (z > 0).all() and z.sum(dim=-1).allclose(torch.ones(3, 5, 2))


@pytest.mark.parametrize("head", ["scalar", "two_hot", "residual"])
def test_a_head_learns_a_number(head):
    model, _ = build(value_head=head)
    critic, x, target = model.heads()[0], torch.randn(16, 10), torch.linspace(-12.0, 15.0, 16)
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-2)
    for _ in range(400):
        optimizer.zero_grad()
        critic.loss(critic(x), target).mean().backward()
        optimizer.step()
    assert (critic.value(critic(x)) - target).abs().mean() < 2.0


@pytest.mark.parametrize("head", ["scalar", "residual"])
def test_a_far_target_pulls_no_harder_than_one_a_unit_away(head):
    model, _ = build(value_head=head)
    critic, output = model.heads()[0], torch.zeros(4, 1 if head == "scalar" else 4, requires_grad=True)
    offset = 0.0 if critic.maximum is None else critic.maximum.item()
    targets = critic.unit * (torch.tensor([-3.0, -0.5, 0.5, 3.0]) + offset)
    losses = critic.loss(output + 0.1, targets, robust=True)
    errors = critic.normalized(output + 0.1) - targets / critic.unit
    assert losses[1:3].allclose(errors[1:3].square()) and losses[::3].allclose(2.0 * errors[::3].abs() - 1.0)
    gradients = torch.autograd.grad(losses.sum(), output)[0].norm(dim=1)
    assert gradients[0].allclose(gradients[3]) and (gradients[1:3] < gradients[0]).all()
    assert critic.loss(output + 0.1, targets).allclose(errors.square())


@pytest.mark.parametrize("mean", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("head", ["scalar", "residual"])
def test_predictions_start_at_the_mean_reward_with_room_and_a_gradient(head, mean):
    model, obs = build(value_head=head, reward_head=head)
    model.set_rewards(torch.tensor(mean), torch.tensor(2.0))
    assert model.reward_scale == 2.0
    x = torch.randn(16, 10, requires_grad=True)
    heads = [model.reward_head, *model.heads(), *model.heads(target=True)]
    features = model.features(obs)
    raw_critics = (model.raw_critics, model.target_raw_critics)
    raw = [pair for critics in raw_critics for pair in critics.outputs(features, ACTIONS)]
    for critic, output in [*((critic, critic(x)) for critic in heads), *raw]:
        assert (critic.normalized(output) - 0.5 * mean).abs().max() < 0.5
        assert critic.maximum is None or critic.maximum == 0.5 * mean + ROOM
    assert (torch.autograd.grad(model.reward_head.value(model.reward_head(x)).sum(), x)[0] != 0).all()


def test_critics_on_observations_have_sizes_of_their_own_and_plans_stay_as_they_are():
    model, obs = build(raw_critic_dims=(20, 16), raw_critic_layer_norm=True)
    for critic in [*model.raw_critics.twins, *model.target_raw_critics.twins]:
        assert [layer.out_features for layer in critic.net if isinstance(layer, nn.Linear)] == [20, 16, 4]
        assert sum(isinstance(layer, nn.LayerNorm) for layer in critic.net) == 2
    others = [*model.heads(), model.reward_head]
    assert all(not isinstance(layer, nn.LayerNorm) for head in others for layer in head.net)
    assert model.raw_critics(model.features(obs), ACTIONS).shape == (NUM_ENVS,)
    model, _ = build(layer_norm=True, raw_critic_layer_norm=False)
    assert not any(isinstance(module, nn.LayerNorm) for module in model.raw_critics.modules())
    assert [layer.out_features for layer in model.raw_critics.twins[0].net if isinstance(layer, nn.Linear)] == [12, 4]


def test_targets_move_towards_the_critics_by_tau():
    model, _ = build()
    pairs = [(model.critics, model.target_critics), (model.raw_critics, model.target_raw_critics)]
    before = [[p.clone() for p in target.parameters()] for _, target in pairs]
    for critics, _ in pairs:
        for parameter in critics.parameters():
            parameter.data.add_(1.0)
    model.update_targets(0.25)
    for olds, (critics, targets) in zip(before, pairs, strict=True):
        for old, source, target in zip(olds, critics.parameters(), targets.parameters(), strict=True):
            assert target.allclose(old + 0.25 * (source - old)) and not target.requires_grad


def test_the_value_unit_follows_the_spread_of_values_and_is_at_least_one():
    model, _ = build()
    values = torch.cat((torch.linspace(0.0, 100.0, 101), torch.full((20,), torch.nan)))
    model.update_value_unit(values, tau=1.0)
    assert model.value_unit.item() == pytest.approx(90.0)
    model.update_value_unit(torch.full((20,), torch.nan), tau=1.0)
    assert model.value_unit.item() == pytest.approx(90.0)
    model.update_value_unit(torch.zeros(10), tau=1.0)
    assert model.value_unit.item() == 1.0


@pytest.mark.parametrize("settings", [{}, NORMALIZED])
def test_squared_residuals_are_the_return_up_to_constants(settings):
    model, obs = build(**settings)
    model.value_unit.fill_(3.0)
    z, a = model.encode(obs), torch.rand(NUM_ENVS, ACTION_DIM) * 2 - 1
    top = sum(head.maximum for head in model.twins) / 2.0 * model.twins[0].unit / 3.0
    squares = 0.5 * model.terminal_residual(z).square().sum(dim=1)
    assert (top - squares).allclose(model.terminal_value(z), atol=1e-5)
    assert model.terminal_value(z).allclose(model.q(z, model.pi(z))[:2].mean(dim=0) / 3.0, atol=1e-5)
    squares = 0.5 * model.stage_residual(z, a).square().sum(dim=1)
    assert (model.reward_head.maximum / 3.0 - squares).allclose(model.reward(z, a), atol=1e-5)


@pytest.mark.parametrize("settings", [{}, NORMALIZED])
@pytest.mark.parametrize("name", ["next", "stage", "terminal"])
def test_derivatives_are_those_of_automatic_differentiation(name, settings):
    model, obs = build(**settings)
    model.bound_actions(torch.tensor([-0.3, -1.0]), torch.tensor([0.8, 0.2]))
    model.double()
    z = model.encode(obs.double()).detach()
    primals = (z,) if name == "terminal" else (z, torch.rand(NUM_ENVS, ACTION_DIM).double())
    function = model.next if name == "next" else getattr(model, f"{name}_residual")
    derivatives = getattr(model, f"{name}_derivatives")(*primals)
    tangents = [torch.randn(3, *z.shape, dtype=torch.float64)]
    if name != "terminal":  # those of the states, then the unit ones of the actions
        units = torch.eye(ACTION_DIM, dtype=torch.float64)[:, None].expand(-1, NUM_ENVS, -1)
        tangents = [F.pad(tangents[0], (0, 0, 0, 0, 0, ACTION_DIM)), F.pad(units, (0, 0, 0, 0, 3, 0))]
    expected = vmap(lambda *rows: jvp(function, primals, rows)[1])(*tangents)
    assert derivatives.value.allclose(function(*primals))
    assert derivatives.push(tangents[0][:3].clone()).allclose(expected)
    cotangents = torch.randn_like(expected)
    pulled = derivatives.pull(cotangents.clone())
    inner = sum((rows * tangent).sum() for rows, tangent in zip(pulled, tangents, strict=True))
    assert inner.allclose((cotangents * expected).sum())


@pytest.mark.parametrize("normalized", [{}, {"layer_norm": True}, {"latent_norm": "simnorm"}, NORMALIZED])
@pytest.mark.parametrize("prior", ["deterministic", "gaussian"])
def test_implicit_gradient_is_that_of_automatic_differentiation(prior, normalized):
    model, _ = build(**{"prior": prior, "hidden_dims": (9, 7), "head_scale": 3.0} | normalized)
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight, mean=1.0, std=0.3)
            nn.init.normal_(layer.bias)
    model.bound_actions(torch.tensor([-0.3, -1.0]), torch.tensor([0.8, 0.2]))
    model.double().value_unit.fill_(3.0)
    plain = SimpleNamespace(
        next=model.next, stage_residual=model.stage_residual, terminal_residual=model.terminal_residual
    )
    z0 = torch.randn(NUM_ENVS, 8, dtype=torch.float64, requires_grad=True)
    plan = torch.rand(NUM_ENVS, 3, ACTION_DIM, dtype=torch.float64, requires_grad=True)
    layer = TrajOptLayer(TrajOptConfig(horizon=3, iterations=5, action_low=-1.0, action_high=0.6))
    upstream = torch.randn_like(plan)
    weights = model.second_order_weights()
    assert isinstance(model, SecondOrderModel) and not isinstance(plain, SecondOrderModel)
    gradients = [
        torch.autograd.grad((layer(candidate, z0, plan).actions * upstream).sum(), [z0, plan, *weights])
        for candidate in (model, plain)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("high", [1.0, 0.7])
def test_a_gaussian_prior_has_the_density_it_says(high):
    model, obs = build(prior="gaussian", log_std_min=-1.0, log_std_max=0.5)
    model.bound_actions(torch.full((ACTION_DIM,), -1.0), torch.full((ACTION_DIM,), high))
    z = model.encode(obs)[:1].expand(20000, -1)
    actions, log_prob, _ = model.sample_pi(z)
    edges = torch.linspace(-1.0, 1.0, 5)
    inside = torch.ones(len(z), dtype=torch.bool)
    for component in range(ACTION_DIM):
        inside &= (actions[:, component] > edges[1]) & (actions[:, component] < edges[3])
    volume = (torch.where(inside, (-log_prob).exp(), 0.0)).mean()
    assert volume.item() == pytest.approx(1.0, abs=0.1), "the mean of 1/p over a region is the region's size"


def test_pixels_and_flat_groups_are_encoded_together_and_images_are_shifted():
    images = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    obs = TensorDict({"policy": torch.randn(2, OBS_DIM), "pixels": images}, [2])
    model, _ = build(obs, ("policy", "pixels"))
    z = model.encode(obs)
    assert z.shape == (2, 8)
    for group in ("policy", "pixels"):
        other = obs.clone()
        other[group] = other[group].flip(0)
        assert not model.encode(other).allclose(z), group
    sequence = obs[:, None].expand(2, 4).clone()
    shifted = model.augment(sequence)
    assert shifted["pixels"].dtype == torch.uint8 and shifted["pixels"].shape == sequence["pixels"].shape
    assert torch.equal(shifted["pixels"][:, 0], shifted["pixels"][:, 3]), "a sequence is shifted as one"


def test_images_are_shifted_whatever_their_group_is_called():
    images = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    obs = TensorDict({"camera": images, "wrist": images, "cloud": torch.randn(2, 7, 3)}, [2])
    model, _ = build(obs, ("camera", "wrist", "cloud"))
    sequence = obs[:, None].expand(2, 4).clone()
    shifted = model.augment(sequence)
    changed = {name for name in model.groups if not torch.equal(shifted[name], sequence[name])}
    assert changed == {"camera", "wrist"}


@pytest.mark.parametrize(("kernels", "strides"), [((7, 5, 3, 3), (2, 2, 2, 2)), ((8, 4, 3), (4, 2, 2))])
def test_images_of_a_small_thing_at_different_places_differ_from_the_start(kernels, strides):
    images = torch.full((16, 9, 84, 84), 120, dtype=torch.uint8)
    for place in range(16):
        images[place, :, 40:44, 5 * place : 5 * place + 4] = 255
    obs = TensorDict({"pixels": images}, [16])
    model, _ = build(obs, ("pixels",), pixel_kernels=kernels, pixel_strides=strides)
    features = model.features(obs)
    assert features.shape == (16, 50)
    assert features.std(dim=0).mean() > 0.1 * features.std()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"latent_norm": "simnorm", "latent_dim": 12},
            "latent_dim is 12; allowed with latent_norm=simnorm",
        ),
        ({"activation": "relu"}, "activation is 'relu'; allowed: swish"),
        ({"vmin": 3.0, "vmax": 1.0}, "vmin is 3.0 and world_model.vmax is 1.0"),
        ({"num_q": 1}, "num_q is 1; allowed: an integer of at least 2"),
        ({"pixel_strides": (4, 0, 2)}, r"pixel_strides is \(4, 0, 2\); allowed: integers of at least 1"),
        ({"raw_critic_dims": (8, 0)}, r"raw_critic_dims is \(8, 0\); allowed: integers of at least 1"),
        ({"pixel_kernels": (8, 4)}, r"pixel_kernels is \(8, 4\) and .*; allowed: as many of each"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TdWorldModelConfig(**settings)


def test_plans_converge_where_critics_cross():
    """The smaller critic has a kink where both are equal, at which three of these plans would stay."""
    torch.manual_seed(0)
    model, _ = build(hidden_dims=(16,), head_scale=2.0)
    model.double()
    z0, plan = torch.randn(64, 8, dtype=torch.float64), torch.zeros(64, 1, ACTION_DIM, dtype=torch.float64)
    config = TrajOptConfig(
        horizon=1, iterations=100, prior_weight=0.1, tolerance=1e-6, action_low=-1.0, action_high=1.0
    )
    assert TrajOptLayer(config)(model, z0, plan).converged.all()
