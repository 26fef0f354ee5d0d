"""The imitation learner: every policy learns from demonstrations, goes on from what it saved, and acts without them."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from small_demos import build, make_env, steered, train, write_demos
from tensordict import TensorDict

from difftori_isaac.data.demonstrations import Demonstration, writing
from difftori_isaac.learners.chunk_dataset import ChunkDataset
from difftori_isaac.learners.imitation import POLICIES


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_learn_what_is_demonstrated(demos, policy):
    """In the units of the environment, on observations that were not demonstrated."""
    algorithm = build(demos, policy)
    rows = train(algorithm, 8)
    assert rows[-1]["validation_error"] < {"ibc": 0.1, "diffusion": 0.1}.get(policy, 0.03), rows
    obs = torch.tensor([1.0, 10.0, 10.0]) * torch.randn(200, 3, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        actions = algorithm.get_policy()(TensorDict({"policy": obs}, [200]))
    error = (actions - steered(obs)).square().mean() / steered(obs).var(dim=0).mean()
    assert actions.shape == (200, 2) and error < {"ibc": 0.4, "diffusion": 0.3}.get(policy, 0.1), error
    assert rows[-1]["num_updates"] == 400 and rows[-1]["nonfinite_losses"] == 0
    assert algorithm.learning_rate == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("base", ["zero", "regression", "diffusion"])
def test_plans_converge_and_their_error_trains_the_cost(demos, base):
    algorithm = build(demos, world_model={"base": base})
    before = [parameter.clone() for parameter in algorithm.policy.cost.parameters()]
    (row,) = train(algorithm, 1)
    assert row["update_solver_converged"] > 0.9 and row["update_solver_failures"] == 0
    assert all((old != new).any() for old, new in zip(before, algorithm.policy.cost.parameters(), strict=True))
    assert ("base" in row) == (base != "zero")


def test_plans_that_have_not_converged_train_nothing(demos):
    """Unless the iterations themselves are differentiated."""
    for mode, trained in (("implicit", False), ("unroll", True), ("truncated", True)):
        hasty = {"iterations": 1, "tolerance": 1e-9, "backward_mode": mode}
        algorithm = build(demos, trajopt=hasty, world_model={"base": "zero"}, num_updates=2, denoising_coef=0.0)
        before = [parameter.clone() for parameter in algorithm.policy.parameters()]
        (row,) = train(algorithm, 1)
        assert row["update_solver_converged"] == 0.0 and row["imitation"] > 0.01
        changed = [not torch.equal(*pair) for pair in zip(before, algorithm.policy.parameters(), strict=True)]
        assert all(changed) if trained else not any(changed), mode


def test_bounds_are_in_the_units_of_actions(demos):
    """Those of the environment, in which the demonstrated ones go from 2 to 8."""
    bounds = {"action_low": (4.5, None), "action_high": (5.5, 6.0)}
    algorithm = build(demos, trajopt=bounds)
    train(algorithm, 2)
    other = build(demos, trajopt=bounds, seed=1)
    other.load(algorithm.save(), None, True)
    obs = TensorDict({"policy": torch.tensor([1.0, 10.0, 10.0]) * torch.randn(200, 3)}, [200])
    for learner in (algorithm, other):
        with torch.inference_mode():
            actions = learner.policy.planned_actions(obs)
        low, high = actions.amin(dim=(0, 1)), actions.amax(dim=(0, 1))
        assert low[0].item() == pytest.approx(4.5, abs=1e-5) and low[1] < 4.5
        assert high.tolist() == pytest.approx([5.5, 6.0], abs=1e-5)


def test_the_shift_of_plans_is_that_of_the_executed_action(demos):
    """In its units, from the middle of those that are demonstrated."""
    algorithm = build(demos, world_model={"base": "zero"})
    train(algorithm, 1)
    with torch.inference_mode():
        actions = algorithm.act(make_env().get_observations())
    shift = (actions - algorithm.policy.action_mean).abs().mean().item()
    assert algorithm.policy.solver_statistics()["plan_shift"] == pytest.approx(shift, rel=1e-5)


def test_denoising_keeps_costs_easy_to_minimise(demos):
    """And trains them without a gradient through plans, which is the ablation of it."""
    zero = {"base": "zero"}
    rows = {coef: train(build(demos, world_model=zero, denoising_coef=coef), 8)[-1] for coef in (0.0, 1.0)}
    assert rows[1.0]["denoising"] < 0.7 * rows[0.0]["denoising"]
    assert rows[1.0]["update_solver_iterations"] <= rows[0.0]["update_solver_iterations"]
    alone = train(build(demos, world_model=zero, trajopt={"train_through_plan": False}), 8)
    assert alone[-1]["validation_error"] < 0.1 < alone[0]["validation_error"]
    assert "update_solver_converged" in alone[-1] and "solver_converged" not in alone[-1], (
        "plans of updates, all of them"
    )


@pytest.mark.parametrize("base", ["regression", "diffusion"])
def test_plans_begin_at_a_head_that_is_trained_by_its_own_loss_alone(demos, base):
    for coef in (0.0, 1.0):
        algorithm = build(demos, world_model={"base": base}, trajopt={"prior_weight": 1e3}, base_coef=coef)
        head = algorithm.policy.base
        before = [parameter.clone() for parameter in head.parameters()]
        train(algorithm, 1)
        assert all(torch.equal(*pair) == (coef == 0.0) for pair in zip(before, head.parameters(), strict=True))
    features, chunks = torch.randn(40, 3), []
    for chunk in (algorithm.policy.chunk, head.chunk):
        torch.manual_seed(0)
        chunks.append(chunk(features))
    torch.testing.assert_close(*chunks, rtol=0, atol=1e-3)
    assert torch.equal(head.chunk(features), head.chunk(features)) == (base == "regression")  # or noise is drawn


@pytest.mark.parametrize(("policy", "base"), [("mlp", "regression"), ("diffusion", "diffusion")])
def test_plans_begin_at_a_policy_that_has_been_trained(demos, policy, base):
    """In its units, which demonstrations of their own do not change."""
    trained = build(demos, policy)
    train(trained, 2)
    near = {"trajopt": {"prior_weight": 1e3}, "world_model": {"base": base}, "base_coef": 0.0}
    algorithm = build(demos, seed=1, num_demos=20, **near)
    algorithm.start_from(trained.save()["policy_state_dict"])
    train(algorithm, 1)
    obs, actions = make_env().get_observations(), []
    for learner in (trained, algorithm):
        torch.manual_seed(0)
        actions.append(learner.policy(obs).detach())
    torch.testing.assert_close(*actions, rtol=0, atol=1e-2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        build(demos, **near | {"world_model": {"base": base, "hidden_dims": (16,)}}).start_from(
            trained.policy.state_dict()
        )


@pytest.mark.parametrize("coef", [0.0, 1.0])
def test_a_head_that_stays_as_it_is_sees_what_it_was_trained_on(tmp_path, coef):
    """Point clouds go through encoders that the cost shares."""
    with writing(tmp_path / "demos.hdf5", {}) as writer:
        for _ in range(8):
            writer.add(Demonstration({"points": torch.randn(3, 5, 3)}, torch.rand(3, 2), torch.zeros(3)))
    env = make_env(points=torch.randn(4, 5, 3))
    algorithm = build(tmp_path / "demos.hdf5", env=env, obs_groups={"actor": ["points"]}, base_coef=coef, num_updates=3)
    policy = algorithm.policy
    before = [parameter.clone() for parameter in (*policy.encoders.parameters(), *policy.base.parameters())]
    train(algorithm, 1)
    after = [*policy.encoders.parameters(), *policy.base.parameters()]
    assert all(torch.equal(*pair) == (coef == 0.0) for pair in zip(before, after, strict=True))


def test_a_head_stays_as_it_is_after_a_resume_too(demos):
    """Adam would move it on by its momentum."""
    learned = build(demos)
    train(learned, 1)
    resumed = build(demos, base_coef=0.0)
    resumed.load(learned.save(), None, strict=True)
    before = [parameter.clone() for parameter in resumed.policy.base.parameters()]
    train(resumed, 1)
    assert all(map(torch.equal, before, resumed.policy.base.parameters()))


def test_a_latent_variable_tells_ways_apart(tmp_path):
    """In the same state, half of the demonstrations go left and half right: without it, plans go neither way."""
    sides = iter(torch.tensor([-1.0, 1.0]).repeat(10))
    path = write_demos(tmp_path / "demos.hdf5", lambda obs: next(sides).expand(3, 2), num_demos=20, spread=0.0)
    obs = TensorDict({"policy": torch.zeros(500, 3)}, [500])
    plain = build(path, validation_share=0.0)
    rows = train(plain, 2)
    assert rows[-1]["imitation"] > 0.8 and plain.policy(obs).abs().max() < 0.4
    latent = build(path, world_model={"latent_dim": 2, "base": "zero"}, validation_share=0.0)
    rows = train(latent, 8)
    assert rows[-1]["imitation"] < 0.1 and 0.5 < rows[-1]["divergence"] < 5.0
    assert "validation_error" not in rows[-1]
    with torch.inference_mode():
        actions = latent.policy(obs)[:, 0]
    assert (actions < -0.5).float().mean() > 0.2 and (actions > 0.5).float().mean() > 0.2
    assert (actions.abs() < 0.5).float().mean() < 0.4


def test_past_the_end_the_last_action_is_repeated():
    demos = [
        Demonstration({"policy": torch.full((length, 1), value)}, value + torch.arange(length)[:, None], torch.zeros(1))
        for length, value in ((3, 0.0), (1, 10.0), (2, 20.0))
    ]
    dataset = ChunkDataset(demos, 3, "cpu")
    assert len(dataset) == 6
    obs, actions = dataset.rows(torch.arange(6))
    assert obs["policy"][:, 0].tolist() == [0, 0, 0, 10, 20, 20]
    assert actions[..., 0].tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [10, 10, 10], [20, 21, 21], [21, 21, 21]]
    assert set(dataset.sample(200).actions[:, 0, 0].tolist()) == {0, 1, 2, 10, 20, 21}


def test_a_search_with_shrinking_noise_gets_closer_to_the_lowest_energy(demos):
    errors = []
    for shrink in (1.0, 0.5):
        head = build(demos, "ibc", ibc={"iterations": 6, "noise_shrink": shrink}).policy.head
        head.energies = lambda features, chunks: 100.0 * (chunks - 0.3).square().sum(dim=2)
        errors.append((head.chunk(torch.zeros(50, 3)) - 0.3).abs().mean().item())
    assert errors[1] < 0.3 * errors[0], errors


def test_a_search_takes_no_more_memory_for_more_observations(demos):
    head, found = build(demos, "ibc").policy.head, []
    head.energies = lambda features, chunks: (found.append(len(chunks)), chunks.square().sum(dim=2))[1]
    assert head.chunk(torch.zeros(150, 3)).shape == (150, 4)
    assert max(found) == 64 and sum(found) == 150 * head.settings.iterations


@pytest.mark.parametrize("policy", POLICIES)
def test_training_goes_on_from_a_saved_state_bit_for_bit(demos, policy):
    algorithm = build(demos, policy, num_updates=5)
    train(algorithm, 2)
    file = BytesIO()
    torch.save(algorithm.save(), file)
    file.seek(0)
    again = build(demos, policy, seed=9, num_updates=5)
    assert again.load(torch.load(file, weights_only=True), None, True)
    rows = []
    for learner in (algorithm, again):
        torch.manual_seed(3)
        rows.append(train(learner, 1)[0])
    assert rows[0] == rows[1] and rows[0]["num_updates"] == 15
    torch.manual_seed(4)
    expected = algorithm.policy(make_env().get_observations())
    torch.manual_seed(4)
    assert torch.equal(again.policy(make_env().get_observations()), expected)


def test_policies_act_without_demonstrations(demos):
    trained = build(demos)
    train(trained, 1)
    acting = build("nowhere.hdf5")
    acting.load(trained.save(), None, True)
    acting.eval_mode()
    obs = make_env().get_observations()
    assert torch.equal(acting.act(obs), trained.policy(obs))
    with pytest.raises(ValueError, match=r"demonstrations nowhere.hdf5 cannot be read: there is no such file"):
        acting.train_mode()
