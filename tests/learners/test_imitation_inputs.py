"""What the imitation learner takes, and what it refuses: demonstrations, observations and settings."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from small_demos import build, make_env, steered, train, write_demos
from tensordict import TensorDict

from difftori_isaac.data.demonstrations import Demonstration, writing
from difftori_isaac.learners.imitation import POLICIES
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig


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
