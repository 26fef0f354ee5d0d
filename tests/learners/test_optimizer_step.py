"""Losses, gradients and optimizer steps of the model-based learner on a small cart."""

import pytest
import torch
from small_cart import CHEAP, SCALAR, SMALL, build, collect, train

from difftori_isaac.learners.td_losses import model_losses, plan_loss, prior_loss
from difftori_isaac.policies.planner import SolverStatistics

PARTS = ("encoder", "dynamics", "reward", "q", "prior")


@pytest.mark.parametrize(
    ("trajopt", "world_model"),
    [({}, {}), ({"objective": "return"}, SCALAR)],
    ids=["least_squares", "return"],
)
def test_the_plan_loss_has_the_gradient_of_finite_differences_in_every_part(trajopt, world_model):
    tight = {
        "prior_weight": 3.0,
        "iterations": 60,
        "tolerance": 1e-8,
        "hessian": "exact",
        "hessian_every": 1,
        "horizon": 2,
    }
    env, algorithm = build(trajopt=tight | trajopt, world_model=world_model, horizon_start=2)
    model = algorithm.world_model.double()
    collect(env, algorithm, env.get_observations(), 6)
    batch = algorithm.replay.sample(8, 2)
    batch = batch._replace(obs=batch.obs.double())
    for part, parameters in model.parts().items():
        for parameter in parameters:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        direction = [torch.randn_like(parameter) for parameter in parameters]
        gradients = torch.autograd.grad(plan_loss(algorithm.policy, batch, 8), parameters, materialize_grads=True)
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
        values, step = [], 1e-6
        for sign in (1.0, -1.0):
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.data.add_(sign * step * along)
            values.append(plan_loss(algorithm.policy, batch, 8).item())
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.data.sub_(sign * step * along)
        assert algorithm.policy.statistics.pop()["update_solver_converged"] == 1.0
        assert abs(slope) > 1e-9 and slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3), part


@pytest.mark.parametrize(
    ("trajopt", "learner", "trained"),
    [
        ({}, {}, set(PARTS)),
        ({"train_through_plan": False}, {}, set()),
        ({"solver": "mppi", "mppi": {"num_samples": 16, "num_elites": 4}}, {}, set()),
        ({}, {"plan_coef": 0.0}, set()),
    ],
    ids=["default", "mismatch", "mppi", "no plan loss"],
)
def test_which_parts_have_a_gradient_through_the_plan(trajopt, learner, trained):
    env, algorithm = build(trajopt=trajopt, **CHEAP | learner)
    metrics = train(env, algorithm, 256)[-1][1]
    assert {part for part in PARTS if metrics.get(f"grad_plan_{part}", 0.0) > 0.0} == trained
    assert {part for part in PARTS if metrics.get(f"grad_model_{part}", 0.0) > 0.0} == set(PARTS) - {"prior"}
    assert metrics["grad_prior_prior"] > 0.0 and 0.0 <= metrics["solver_converged"] <= 1.0


@pytest.mark.parametrize("coef", [0.1, 0.0])
def test_a_saturated_prior_comes_back_to_where_it_can_learn(coef):
    _, algorithm = build(saturation_coef=coef)
    model, z = algorithm.world_model, torch.randn(1, 64, SMALL["latent_dim"])
    model.prior[-1].bias.data.fill_(12.0)
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        prior_loss(model, z, torch.full((1, 64), 1 / 64), algorithm.config)[0].backward()
        optimizer.step()
    assert (model.prior(z).abs().max() < 2.6) == (coef > 0.0)


@pytest.mark.parametrize("bootstrap", ["observation", "latent"])
def test_values_bootstrap_from_the_critics_asked_for(bootstrap):
    env, algorithm = build(bootstrap=bootstrap)
    collect(env, algorithm, env.get_observations(), 6)
    batch, model = algorithm.replay.sample(32, 3), algorithm.world_model

    def value_loss():
        return model_losses(model, batch, algorithm.config, algorithm.discount).losses["value"].item()

    for name in ("observation", "latent"):
        before = value_loss()
        for parameter in (model.target_raw_critics if name == "observation" else model.target_critics).parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        assert (value_loss() != before) == (name == bootstrap)


def test_a_step_through_plans_follows_so_many_without(monkeypatch):
    env, algorithm = build(**CHEAP | {"plan_interval": 3})
    train(env, algorithm, 128)
    losses = {}

    def counted(*args):
        losses[algorithm.num_updates] = loss = plan_loss(*args)
        return loss

    monkeypatch.setattr("difftori_isaac.learners.optimizer_step.plan_loss", counted)
    algorithm.updates_due = 5.0
    metrics = algorithm.update()
    assert algorithm.num_updates == 7 and list(losses) == [3, 6]
    assert metrics["plan"] == pytest.approx(sum(loss.item() for loss in losses.values()) / 2)


def test_slow_copies_follow_once_in_so_many_steps():
    env, algorithm = build(**CHEAP | {"target_update_interval": 3})
    train(env, algorithm, 128)
    model, moved = algorithm.world_model, []
    for _ in range(6):
        before = [parameter.clone() for parameter in model.target_critics.parameters()]
        algorithm.updates_due = 1.0
        algorithm.update()
        if not all(map(torch.equal, before, model.target_critics.parameters())):
            moved.append(algorithm.num_updates)
    assert algorithm.num_updates == 8 and moved == [3, 6]


def test_the_encoder_learns_at_a_rate_of_its_own():
    env, algorithm = build(**CHEAP | {"encoder_lr_scale": 0.0})
    before = {part: [p.clone() for p in parameters] for part, parameters in algorithm.world_model.parts().items()}
    train(env, algorithm, 256)
    after = algorithm.world_model.parts()
    assert [part for part in PARTS if all(map(torch.equal, before[part], after[part]))] == ["encoder"]


def test_the_unit_of_values_follows_their_range():
    env, algorithm = build(**CHEAP)
    train(env, algorithm, 128)
    unit = algorithm.world_model.value_unit.fill_(100.0)
    algorithm.updates_due = 1.0
    algorithm.update()
    assert 1.0 < unit < 100.0


def test_statistics_of_solves_begin_anew_once_they_are_read():
    env, algorithm = build(4)
    policy, fresh, obs = algorithm.policy, SolverStatistics(), env.get_observations()
    with torch.inference_mode():
        policy.plan(obs)
    assert policy.statistics.pop() and policy.statistics.pop() == {}
    fresh.add(policy.plan(obs.apply(torch.neg)))
    assert policy.statistics.pop() == fresh.pop()


def test_a_rare_large_reward_does_not_rule_what_the_model_learns():
    env, algorithm = build(4, **CHEAP)
    train(env, algorithm, 256)
    model, batch = algorithm.world_model, algorithm.replay.sample(16, 3)
    norms = []
    for penalty in (10.0, 1000.0):
        rewards = batch.rewards.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(-penalty))
        losses = model_losses(model, batch._replace(rewards=rewards), algorithm.config, algorithm.discount).losses
        gradients = torch.autograd.grad(losses["reward"], [*model.encoder.parameters()])
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm())
    assert norms[0] > 0 and norms[1].allclose(norms[0])


TD_MPC2 = {
    "latent_norm": "simnorm",
    "simnorm_dim": 4,
    "layer_norm": True,
    "num_q": 5,
    "prior": "gaussian",
    "value_scale": "percentile",
    "reward_head": "two_hot",
    "value_head": "two_hot",
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    ("trajopt", "world_model", "learner"),
    [
        ({}, {}, {}),
        ({"hessian": "exact"}, {}, {"sampling": "prioritized", "target_update_interval": 3}),
        ({"objective": "return"}, TD_MPC2, {"bootstrap": "latent", "plan_interval": 1}),
    ],
    ids=["default", "exact Hessian, prioritized", "tdmpc2"],
)
def test_on_a_gpu_replayed_steps_are_what_they_are_one_by_one(trajopt, world_model, learner):
    learned = []
    for cuda_graph in (True, False):
        settings = CHEAP | {"horizon_start": 1, "horizon_steps": 512, "update_to_data": 0.1} | learner
        env, algorithm = build(
            trajopt=trajopt | {"cuda_graph": cuda_graph}, world_model=world_model, device="cuda", **settings
        )
        metrics = train(env, algorithm, 1024)[-1][1]
        model = algorithm.world_model
        learned.append({name: value.clone() for name, value in model.state_dict().items()} | metrics)
        algorithm.replay.rows["obs/policy"][:] = torch.nan
        algorithm.updates_due = 5.0
        assert algorithm.update()["nonfinite_model_losses"] == 1.0
        assert all(value.isfinite().all() for value in model.state_dict().values())
    assert algorithm.num_updates > 80
    torch.testing.assert_close(*learned, rtol=1e-3, atol=1e-4)
