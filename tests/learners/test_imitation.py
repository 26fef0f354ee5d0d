"""The imitation learner: every policy learns from demonstrations, goes on from what it saved, and acts without them."""

from __future__ import annotations

import re
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.data.demonstrations import Demonstration, writing
from difftori_isaac.learners.chunk_dataset import ChunkDataset
from difftori_isaac.learners.imitation import POLICIES, build_imitation
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig

HORIZON = 2


def steered(obs: torch.Tensor) -> torch.Tensor:
    """What is demonstrated: two actions, of other units than observations and of another origin."""
    return 5.0 + 3.0 * torch.tanh(torch.stack((obs[:, 0], 0.1 * (obs[:, 1] - obs[:, 2])), dim=1))


def write_demos(path, act=steered, num_demos=150, spread=1.0):
    """Three steps each, in which nothing changes, so that all of a chunk can be told from the first observation."""
    generator = torch.Generator().manual_seed(0)
    with writing(path, {}) as writer:
        for _ in range(num_demos):
            obs = (spread * torch.tensor([1.0, 10.0, 10.0]) * torch.randn(3, generator=generator)).expand(3, 3)
            writer.add(Demonstration({"policy": obs}, act(obs), torch.zeros(3)))
    return path


def make_env(num_envs=4, **groups):
    obs = {"policy": torch.randn(num_envs, 3)} | groups
    return SimpleNamespace(
        num_envs=num_envs, num_actions=2, device="cpu", get_observations=lambda: TensorDict(obs, [num_envs])
    )


def build(path, policy="trajopt", *, seed=0, env=None, trajopt=None, world_model=None, **learner):
    torch.manual_seed(seed)
    settings = {"total_updates": 400, "num_updates": 50, "batch_size": 64, "learning_rate": 3e-3}
    return build_imitation(
        env or make_env(),
        policy=policy,
        trajopt=TrajOptConfig(**{"horizon": HORIZON, "iterations": 8, "prior_weight": 0.3} | (trajopt or {})),
        world_model=ChunkModelConfig(**{"hidden_dims": (32, 32)} | (world_model or {})),
        learner=ImitationConfig(dataset=str(path), **settings | learner),
        device="cpu",
    )


def train(algorithm, iterations):
    algorithm.train_mode()
    return [algorithm.update() for _ in range(iterations)]


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    return write_demos(tmp_path_factory.mktemp("demos") / "demos.hdf5")


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


@pytest.mark.parametrize("policy", POLICIES)
def test_demonstrations_beyond_the_units_of_those_before_are_told(demos, tmp_path, capsys, policy):
    """Some policies reach no further, and no measure of the others is what it was."""
    trained = build(demos, policy, num_updates=1)
    train(trained, 1)
    wide = write_demos(tmp_path / "wide.hdf5", lambda obs: 2.0 * steered(obs))
    same, wider = (build(path, policy) for path in (demos, wide))
    for learner in (same, wider):
        learner.load(trained.save(), None, True)
    same.train_mode()
    assert not capsys.readouterr().out
    found = r"learner\.dataset has actions up to 3\.\d+ in the units of those that were learned from before"
    if policy in ("diffusion", "ibc"):
        with pytest.raises(ValueError, match=f"{found}; allowed with policy=diffusion and ibc, .*: at most 1$"):
            wider.train_mode()
    else:
        wider.train_mode()
        assert re.fullmatch(f"note: {found}: validation_error is in those units\n", capsys.readouterr().out)


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


def test_strange_observations_are_taken_to_be_at_the_edge(demos):
    """And one that never changed in the demonstrations keeps its unit."""
    algorithm = build(demos, "mlp", num_updates=1)
    train(algorithm, 1)
    policy = algorithm.policy
    far, further = (policy(TensorDict({"policy": torch.full((1, 3), size)}, [1])) for size in (1e4, 1e8))
    assert torch.equal(far, further) and far.isfinite().all()
    policy.set_units(
        {"policy": torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]])}, torch.tensor([[1.0, 0.0], [1.0, 4.0]])
    )
    normalizer = policy.normalizers["policy"]
    assert normalizer.std.tolist() == [1.0, 1.0, 1.0] and normalizer.mean.tolist() == [1.0, 3.0, 3.0]
    assert policy.action_scale.tolist() == [1.0, 2.0] and policy.action_mean.tolist() == [1.0, 2.0]


def test_demonstrations_held_back_are_not_learned_from(demos, capsys):
    algorithm = build(demos, validation_share=0.5, num_demos=5)
    algorithm.train_mode()
    assert len(algorithm._training) == 2 * 3 and len(algorithm._validation) == 3 * 3
    algorithm = build(demos, validation_share=0.07, num_demos=100)
    algorithm.train_mode()
    assert len(algorithm._validation) == 7 * 3, "as in decimal numbers"
    assert not capsys.readouterr().out
    algorithm = build(demos, validation_share=0.9, num_demos=1)
    algorithm.train_mode()
    assert len(algorithm._training) == 3 and algorithm._validation is None
    assert capsys.readouterr().out == "note: learner.validation_share is 0.9: not used, with one demonstration\n"
    algorithm = build(demos, "mlp", validation_share=0.5, num_demos=5, num_updates=1)
    (row,) = train(algorithm, 1)
    learned, held_back = (algorithm._error(part) for part in (algorithm._training, algorithm._validation))
    assert row["validation_error"] == held_back != learned


def test_pictures_and_point_clouds_are_observed(tmp_path):
    """What is demonstrated shows in the picture and in the cloud alone, far from the origin and in small units."""
    torch.manual_seed(0)
    with writing(tmp_path / "demos.hdf5", {}) as writer:
        for _ in range(60):
            target = torch.rand(1, 2).expand(3, 2)
            pixels = (255 * target[:, :1, None, None]).expand(3, 3, 24, 24).to(torch.uint8)
            points = 7.0 + 0.01 * target[:, None, 1:].expand(3, 5, 3)
            writer.add(Demonstration({"pixels": pixels, "points": points}, target, torch.zeros(3)))
    env = make_env(pixels=torch.zeros(4, 3, 24, 24, dtype=torch.uint8), points=torch.zeros(4, 5, 3))
    algorithm = build(tmp_path / "demos.hdf5", env=env, obs_groups={"actor": ["pixels", "points"]}, num_updates=25)
    rows = train(algorithm, 6)
    assert rows[-1]["validation_error"] < 0.15 * rows[0]["validation_error"] + 0.02, rows
    obs = env.get_observations()
    far, further = (algorithm.policy(obs.replace(points=torch.full((4, 5, 3), size))) for size in (1e4, 1e8))
    assert torch.equal(far, further) and far.isfinite().all()


def test_pictures_are_shifted_to_learn_from_and_nothing_else_is(demos, tmp_path):
    obs = make_env(pixels=torch.rand(4, 3, 24, 24), points=torch.rand(4, 5, 3)).get_observations()
    environment = SimpleNamespace(num_envs=4, num_actions=2, get_observations=lambda: obs)
    groups = {"actor": ["policy", "pixels", "points"]}
    for shift in (0, 3):
        policy = build(demos, "mlp", env=environment, obs_groups=groups, world_model={"pixel_shift": shift}).policy
        shifted = policy.augmented(obs)
        same = {name: torch.equal(shifted[name], obs[name]) for name in groups["actor"]}
        assert same == {"policy": True, "pixels": shift == 0, "points": True}
        assert torch.equal(policy(obs), policy(obs))
    with writing(tmp_path / "demos.hdf5", {}) as writer:
        for _ in range(4):
            writer.add(Demonstration({"pixels": torch.rand(3, 3, 24, 24)}, torch.rand(3, 2), torch.zeros(3)))
    first = set()
    for shift in (0, 3):
        settings = {"obs_groups": {"actor": ["pixels"]}, "world_model": {"pixel_shift": shift}, "num_updates": 1}
        (row,) = train(build(tmp_path / "demos.hdf5", "mlp", env=environment, **settings), 1)
        first.add(row["imitation"])
    assert len(first) == 2


def test_what_does_not_fit_is_refused(demos):
    settings = {
        "policy is 'random'; allowed with learner=imitation: trajopt, mlp": {"policy": "random"},
        "trajopt.solver is 'mppi', which has no gradient": {"trajopt": {"solver": "mppi"}},
        "trajopt.action_rate_weight is 1.0; allowed .*: 0, as": {"trajopt": {"action_rate_weight": 1.0}},
        "trajopt.action_low has 3 entries, but an action has 2": {"trajopt": {"action_low": (-1.0,) * 3}},
        "trajopt.objective is 'return'": {"trajopt": {"objective": "return"}},
        "learner.obs_groups has 'camera'; allowed: policy": {"obs_groups": {"actor": ["camera"]}},
    }
    for message, changes in settings.items():
        with pytest.raises(ValueError, match=message):
            build(demos, **changes)
    env = SimpleNamespace(
        num_actions=2, device="cpu", get_observations=lambda: TensorDict({"policy": torch.zeros(4, 5)}, [4])
    )
    with pytest.raises(ValueError, match=r"observation group policy of shape \(3,\); allowed here: \(5,\)"):
        build(demos, env=env).train_mode()
    env = make_env()
    env.num_actions = 7
    with pytest.raises(ValueError, match=r"actions of shape \(2,\); allowed here: \(7,\)"):
        build(demos, env=env).train_mode()


def test_pictures_of_another_type_than_the_environment_s_are_refused(tmp_path):
    """They would be learned at another scale than that at which the policy sees."""
    pixels = torch.randint(256, (3, 3, 24, 24), dtype=torch.uint8)
    for written, seen, message in (
        (pixels.float(), pixels, r"as float; allowed here: \(3, 24, 24\) as uint8"),
        (pixels, pixels.float(), r"as uint8; allowed here: \(3, 24, 24\) as float"),
    ):
        with writing(tmp_path / "demos.hdf5", {}) as writer:
            writer.add(Demonstration({"pixels": written}, torch.rand(3, 2), torch.zeros(3)))
        settings = {"env": make_env(3, pixels=seen), "obs_groups": {"actor": ["pixels"]}}
        with pytest.raises(ValueError, match=rf"have observation group pixels of shape \(3, 24, 24\) {message}"):
            build(tmp_path / "demos.hdf5", "mlp", **settings).train_mode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 1.0}, "learner.validation_share is 1.0; allowed: at least 0, below 1"),
        ({"diffusion": {"steps": 200}}, "learner.diffusion.steps is 200"),
        ({"diffusion": {"embedding_dim": 5}}, "learner.diffusion.embedding_dim is 5"),
        ({"ibc": {"num_samples": 0}}, "learner.ibc.num_samples is 0"),
        ({"ibc": {"noise_std": 0.0}}, "learner.ibc.noise_std is 0.0"),
        ({"batch_size": 0}, "learner.batch_size is 0"),
        ({"denoising_coef": -1.0}, "learner.denoising_coef is -1.0; allowed: at least 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImitationConfig(**settings)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"world_model\.denoising_std is -1\.0; allowed: at least 0"):
        ChunkModelConfig(denoising_std=-1.0)
