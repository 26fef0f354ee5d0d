"""From demonstrations to an evaluated policy, with the scripts: on the DeepMind Control suite and a real cart-pole."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from ctypes.util import find_library
from itertools import accumulate, count
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.data import demonstrations
from difftori_isaac.envs.dm_control import make_env
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.build import fill_from_task, seed_everything
from difftori_isaac.run.collect import _episodes
from difftori_isaac.run.config import CollectConfig, TrainConfig
from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.scripts.collect_demos import main as collect_demos
from difftori_isaac.scripts.evaluate import main as evaluate
from difftori_isaac.scripts.train import main as train
from difftori_isaac.world_models.chunk_config import ChunkModelConfig

CART = ("task=cartpole-swingup", "env.num_workers=1", "env.episode_steps=20", "device=cpu")
LEARNER = ("learner=imitation", "learner.num_updates=5", "learner.batch_size=16", "logger=none", "save_interval=1")


def collect(*arguments: str) -> int:
    return collect_demos([*CART, "policy=random", *arguments])


def test_collect_train_resume_and_evaluate(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=5", "num_envs=2", "output=demos/random.hdf5", "seed=3") == 0
    text = capsys.readouterr().out
    assert "5 demonstrations of 50 steps, return " in text
    learn = text.partition("learn from it with scripts/train.py ")[2].split()
    assert learn == [*CART[:3], "learner=imitation", "learner.dataset=demos/random.hdf5"]
    with h5py.File("demos/random.hdf5") as file:
        assert file["data"].attrs["total"] == 50 and file["data/demo_4/obs/policy"].shape == (10, 5)
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "cartpole-swingup"
        actions = file["data/demo_0/actions"][()]
        assert actions.shape == (10, 1) and actions.std() > 0.1
    rest = ("device=cpu", "num_envs=3", "learner.total_updates=10", "run_dir=run")
    assert train([*learn, *LEARNER[1:], *rest]) == 0
    assert "note: learner.dataset was made" not in capsys.readouterr().out
    other = ("task=cartpole-balance", *learn[1:], *LEARNER[1:], "num_envs=3", "max_iterations=1", "run_dir=other")
    assert train(other) == 0
    note = "note: learner.dataset was made in task cartpole-swingup, and this is cartpole-balance"
    assert note in capsys.readouterr().out
    assert train(["resume=run", "max_iterations=3"]) == 2
    message = "max_iterations is 3, but the learning rate is 0 after 2; allowed: at most 2, or raise learner.total_up"
    assert message in capsys.readouterr().err
    assert train(["resume=run", "learner.total_updates=15"]) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    assert [(row["iteration"], row["num_updates"]) for row in rows] == [("1", "5"), ("2", "10"), ("3", "15")]
    assert float(rows[-1]["mean_return"]) > 0 and float(rows[-1]["validation_error"]) > 0
    assert float(rows[-1]["update_solver_converged"]) > 0.5

    Path("demos/random.hdf5").unlink()
    asked = ("run_dir=run", "num_episodes=4", "device=cpu", "output=eval.json")
    returns = []
    for weight in ("0.3", "10"):
        assert evaluate([*asked, f"trajopt.prior_weight={weight}"]) == 0
        returns.append(json.loads(Path("eval.json").read_text(encoding="utf-8"))["return"]["mean"])
    assert returns[0] != returns[1]


@pytest.mark.parametrize(
    ("made_with", "note"),
    [
        (["env.num_workers=4", "env.episode_steps=20"], ""),
        ([], "note: learner.dataset was made with defaults, and this is with env.episode_steps=20\n"),
        (
            ["env.episode_steps=20", "env.action_repeat=8"],
            "note: learner.dataset was made with env.action_repeat=8, and this is with defaults\n",
        ),
    ],
)
def test_other_settings_of_the_environment_are_told(tmp_path: Path, capsys: pytest.CaptureFixture, made_with, note):
    made_in = {"env_name": CART[0][5:], "type": "difftori_isaac", "env_kwargs": {"env_overrides": made_with}}
    with demonstrations.writing(tmp_path / "demos.hdf5", made_in):
        pass
    learner = ImitationConfig(dataset=str(tmp_path / "demos.hdf5"))
    model = ChunkModelConfig()
    fill_from_task(TrainConfig(task=CART[0][5:], env_overrides=CART[1:3], learner=learner, world_model=model), {})
    assert capsys.readouterr().out == note


def test_losses_that_are_not_finite_say_where_to_go_on(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    chosen = ("policy=mlp", "num_envs=2", "learner.dataset=demos.hdf5", "learner.total_updates=15")
    assert train([*CART, *LEARNER, *chosen, "learner.learning_rate=1e15", "run_dir=lost"]) == 1
    assert "the learner's state is lost, nothing was saved yet: begin anew" in capsys.readouterr().err
    assert train([*CART, *LEARNER, *chosen, "max_iterations=1", "run_dir=run"]) == 0
    assert train(["resume=run", "max_iterations=3", "learner.learning_rate=1e15"]) == 1
    assert "the learner's state is lost, the last checkpoint in run is good" in capsys.readouterr().err


def test_a_resume_with_another_number_of_updates_does_those_that_are_left(
    in_tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    chosen = ("policy=mlp", "num_envs=2", "learner.dataset=demos.hdf5", "learner.total_updates=10", "run_dir=run")
    assert train([*CART, *LEARNER, *chosen]) == 0
    assert train(["resume=run", "learner.total_updates=20", "learner.num_updates=8"]) == 0
    capsys.readouterr()
    assert train(["resume=run", "learner.num_updates=8", "max_iterations=5"]) == 2
    assert "max_iterations is 5, but the learning rate is 0 after 4; allowed: at most 4" in capsys.readouterr().err
    assert [row["num_updates"] for row in read_metrics(Path("run/metrics.csv"))] == ["5", "10", "18", "20"]
    assert train(["resume=run/checkpoints/checkpoint_0000003.pt", "learner.num_updates=1"]) == 0
    assert [row["num_updates"] for row in read_metrics(Path("run/metrics.csv"))][3:] == ["19", "20"]


def test_a_resume_ends_where_its_user_has_said(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    chosen = ("policy=mlp", "num_envs=2", "learner.dataset=demos.hdf5", "learner.total_updates=40", "run_dir=run")
    assert train([*CART, *LEARNER, *chosen, "max_iterations=2"]) == 0
    assert train(["resume=run", "learner.num_updates=5"]) == 0
    assert "at iteration 2 of 2: nothing to do" in capsys.readouterr().out
    assert train(["resume=run/checkpoints/checkpoint_0000001.pt", "learner.num_updates=35"]) == 0
    assert [row["num_updates"] for row in read_metrics(Path("run/metrics.csv"))] == ["5", "40"]


@pytest.mark.parametrize("policy", ["mlp", "diffusion", "ibc"])
def test_baselines_train_and_are_evaluated(in_tmp_path: Path, policy: str):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    chosen = (f"policy={policy}", "num_envs=2", "learner.dataset=demos.hdf5", "max_iterations=1", "run_dir=run")
    assert train([*CART, *LEARNER, *chosen]) == 0
    assert evaluate(["run_dir=run", f"policy={policy}", "num_episodes=2", "device=cpu"]) == 0
    assert json.loads(Path("run/eval.json").read_text(encoding="utf-8"))["policy"] == policy


def test_plans_start_from_a_trained_policy(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    common = [*CART, *LEARNER, "num_envs=2", "learner.dataset=demos.hdf5", "max_iterations=1"]
    assert train([*common, "policy=diffusion", "run_dir=first"]) == 0
    plan = [*common, "learner.base_checkpoint=first", "run_dir=run"]
    refused = {
        "world_model.base is 'regression', but first/checkpoints/checkpoint_0000001.pt is of policy=diffusion; "
        "allowed: world_model.base=diffusion": [],
        "allowed with learner.base_checkpoint: policy=trajopt": ["policy=mlp"],
        "which does not fit (": ["world_model.base=diffusion", "world_model.hidden_dims=[32]"],
        "learner.base_checkpoint is nowhere.pt, which does not exist": ["learner.base_checkpoint=nowhere.pt"],
    }
    for message, asked in refused.items():
        capsys.readouterr()
        assert train([*plan, *asked]) == 2
        assert message in capsys.readouterr().err
    assert train([*plan, "world_model.base=diffusion", "learner.base_coef=0"]) == 0
    states = [
        checkpoints.load(checkpoints.find(Path(run), "latest")).learner["policy_state_dict"] for run in ("first", "run")
    ]
    head = {name.removeprefix("head."): value for name, value in states[0].items() if name.startswith("head.")}
    assert head and all(torch.equal(states[1][f"base.{name}"], value) for name, value in head.items())
    shutil.rmtree("first")
    assert train(["resume=run", "max_iterations=2"]) == 0
    capsys.readouterr()
    assert train([*common, "world_model.base=regression", "learner.base_checkpoint=run", "run_dir=other"]) == 2
    assert (
        "of learner=imitation policy=trajopt; allowed: of learner=imitation policy=mlp or diffusion"
        in capsys.readouterr().err
    )


def test_what_is_held_back_may_have_been_learned_from(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=3", "output=demos.hdf5") == 0
    common = [*CART, *LEARNER, "num_envs=2", "learner.dataset=demos.hdf5", "max_iterations=1"]
    assert train([*common, "policy=mlp", "learner.validation_share=0", "run_dir=run"]) == 0
    for before, asked in {
        "learner.validation_share=0.0": ["resume=run", "max_iterations=2", "learner.validation_share=0.5"],
        "learner.num_demos=None": ["resume=run", "max_iterations=3", "learner.num_demos=2"],
        "": ["resume=run", "max_iterations=4"],
        "learner.validation_share=0.5": [*common, "learner.base_checkpoint=run", "learner.num_demos=2"],
    }.items():
        capsys.readouterr()
        assert train(asked) == 0
        note = f"note: the checkpoint was trained with {before}: where it has learned from what is held back now"
        assert capsys.readouterr().out.count(note if before else "note: the checkpoint") == bool(before)


@pytest.mark.skipif(find_library("EGL") is None, reason="pictures need EGL")
@pytest.mark.parametrize("seen", ["env.num_points=16", "env.pixels=true"])
def test_what_metaworld_s_camera_sees_is_learned_from(in_tmp_path: Path, capsys: pytest.CaptureFixture, seen: str):
    scene = ("task=reach-v3", "env.num_workers=1", "env.episode_steps=4", "device=cpu")
    assert collect_demos([*scene, seen, "policy=expert", "num_demos=2", "output=demos.hdf5"]) == 0
    rest = ("num_envs=2", "learner.dataset=demos.hdf5", "max_iterations=1")
    assert train([*scene, seen, *LEARNER, *rest, "run_dir=run"]) == 0
    assert evaluate(["run_dir=run", "num_episodes=2", "device=cpu"]) == 0
    assert json.loads(Path("run/eval.json").read_text(encoding="utf-8"))["success_rate"] is not None

    capsys.readouterr()
    assert train([*scene, "env.num_points=8", *LEARNER, *rest, "run_dir=other"]) == 2
    message = r"have observation group point_cloud of shape \(16, 3\); allowed here: \(8, 3\)"
    if "pixels" in seen:
        message = "has no observation group point_cloud; it has: expert, pixels, policy"
    assert re.search(message, capsys.readouterr().err)


def test_demonstrations_from_a_checkpoint_lie_in_its_run(in_tmp_path: Path):
    ppo = ("policy=mlp", "num_envs=2", "learner.num_steps_per_env=12", "max_iterations=1", "logger=none", "run_dir=ppo")
    assert train([*CART, *ppo]) == 0
    assert collect_demos(["run_dir=ppo", "policy=mlp", "num_demos=3", "device=cpu"]) == 0
    with h5py.File("ppo/demos.hdf5") as file:
        assert json.loads(file["data"].attrs["env_args"])["env_kwargs"]["env_overrides"] == [
            "env.num_workers=1",
            "env.episode_steps=20",
        ]


def test_only_episodes_that_are_good_enough_are_kept(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=4", "output=demos.hdf5") == 0
    with h5py.File("demos.hdf5") as file:
        returns = sorted(float(file[f"data/demo_{i}/rewards"][()].sum()) for i in range(4))
    least = (returns[1] + returns[2]) / 2
    assert collect("num_demos=2", "num_envs=4", f"min_return={least}", "output=good.hdf5", "max_episodes=100") == 0
    with h5py.File("good.hdf5") as file:
        assert all(file[f"data/demo_{i}/rewards"][()].sum() >= least for i in range(2))
    capsys.readouterr()
    assert collect("num_demos=2", "min_return=1e6", "output=best.hdf5") == 1
    assert "0 of 20 episodes are finite and return min_return=1000000.0 or more" in capsys.readouterr().err
    assert collect("num_demos=2", "max_episodes=1", "output=best.hdf5") == 1
    assert "1 of 1 episodes are finite and return min_return=None or more, but 2" in capsys.readouterr().err
    assert not Path("best.hdf5").exists()


def test_episodes_that_are_not_finite_are_no_demonstrations(
    in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    forces = iter([torch.nan])
    monkeypatch.setattr(
        "difftori_isaac.run.rollout.make_policy", lambda *_: lambda obs: torch.full((2, 1), next(forces, 0.0))
    )
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    assert "2 demonstrations of 20 steps" in capsys.readouterr().out


def test_observations_that_are_dictionaries_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    obs = TensorDict({"policy": torch.ones(2, 3), "terms": {"grasp": torch.ones(2, 1)}}, [2])
    following = (obs, torch.ones(2), torch.ones(2), {"nonfinite": torch.zeros(2)})
    env = SimpleNamespace(num_envs=2, clip_actions=None, reset=lambda: (obs, {}), step=lambda actions: following)
    env.hold_curricula = lambda: None
    with demonstrations.writing(tmp_path / "demos.hdf5", {}) as writer:
        for number, demo in _episodes(CollectConfig(task="Cart", num_demos=2), env, lambda obs: torch.zeros(2, 1)):
            writer.add(demo, number)
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert list(file["data/demo_1/obs"]) == ["policy"]
    assert capsys.readouterr().out.endswith("which no learner observes: observation groups terms\n")


def test_demonstrations_are_numbered_by_environments_and_not_by_when_they_end():
    """Otherwise the first ones would be the short ones. One that is not finite has no number."""
    ends = [set(accumulate(lengths)) for lengths in ([5, 4, 1], [2, 3], [1, 1, 9])]
    obs, steps = TensorDict({"policy": torch.ones(3, 3)}, [3]), count(1)

    def step(actions: torch.Tensor):
        now = next(steps)
        dones = torch.tensor([now in ended for ended in ends]).long()
        return obs, torch.ones(3), dones, {"nonfinite": torch.tensor([now == 9, False, False])}

    env = SimpleNamespace(num_envs=3, clip_actions=None, reset=lambda: (obs, {}), step=step)
    env.hold_curricula = lambda: None
    found = dict(_episodes(CollectConfig(task="Cart", num_demos=6), env, lambda obs: torch.zeros(3, 1)))
    assert list(found) != sorted(found) == list(range(6))
    assert [len(found[number].actions) for number in range(6)] == [5, 2, 1, 1, 3, 1]


def test_demonstrations_begin_elsewhere_than_what_is_evaluated(in_tmp_path: Path):
    """With one seed for both: the episodes of an environment follow from it, whatever they are for."""
    starts = []
    for output in ("demos.hdf5", "again.hdf5"):
        assert collect("num_demos=4", "num_envs=4", f"output={output}", "seed=5") == 0
        with h5py.File(output) as file:
            starts.append(torch.stack([torch.as_tensor(file[f"data/demo_{i}/obs/policy"][0]) for i in range(4)]))
    assert torch.equal(*starts)
    with closing(make_env("cartpole-swingup", num_envs=4, device="cpu", seed=5, overrides=CART[1:3])) as env:
        seed_everything(5)
        evaluated = env.reset()[0]["policy"]
    assert (starts[0][:, None] - evaluated).abs().amax(dim=-1).min() > 1e-4


def test_noise_is_executed_and_not_demonstrated(in_tmp_path: Path):
    for noise in ("0", "0.3", "3"):
        asked = ("policy=zero", "num_demos=2", f"action_noise={noise}", f"output={noise}.hdf5")
        assert collect_demos([*CART, *asked]) == 0
    with h5py.File("0.hdf5") as still, h5py.File("0.3.hdf5") as moved:
        names = ("data/demo_0/obs/policy", "data/demo_0/actions")
        (obs, actions), (other_obs, other_actions) = ([file[name][()] for name in names] for file in (still, moved))
        executed = moved["data/demo_0/executed_actions"][()]
        assert "executed_actions" not in still["data/demo_0"] and executed.shape == actions.shape
    assert (actions == 0).all() and (other_actions == 0).all() and 0.1 < executed.std() < 0.6
    assert (obs[0] == other_obs[0]).all() and abs(obs - other_obs).max() > 0.01
    with h5py.File("3.hdf5") as clipped:
        assert abs(clipped["data/demo_0/executed_actions"][()]).max() == 1.0, "what the environment clips to"


def test_what_an_environment_clips_actions_to_is_what_was_executed(in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("difftori_isaac.run.rollout.make_policy", lambda *_: lambda obs: torch.full((2, 1), 1.2))
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    with h5py.File("demos.hdf5") as file:
        actions, executed = (file[f"data/demo_0/{name}"][()] for name in ("actions", "executed_actions"))
    assert abs(actions - 1.2).max() < 1e-6 and (executed == 1).all()


def test_bad_input_is_one_line(in_tmp_path: Path, capsys: pytest.CaptureFixture):
    assert collect("num_demos=2", "output=demos.hdf5") == 0
    dataset = "learner.dataset=demos.hdf5"
    errors = {
        (): "learner.dataset is missing; give learner.dataset=<file>.hdf5",
        ("learner.dataset=none.hdf5",): "learner.dataset is none.hdf5, which is no HDF5 file",
        (f"learner.dataset={__file__}",): f"learner.dataset is {__file__}, which is no HDF5 file",
        (
            dataset,
            "world_model=td",
        ): "world_model is 'td', which learner=imitation cannot train; allowed: world_model=chunk",
        (dataset, "learner.num_demos=3"): "demos.hdf5 has 2, but 3 are asked for",
        (
            dataset,
            "learner.base_coef=0",
        ): "learner.base_coef is 0, so that world_model.base=regression would stay untrained; allowed: above 0, ",
        (dataset, "task=walker-walk"): "have actions of shape (1,); allowed here: (6,)",
        (dataset, "trajopt.solver=mppi"): "trajopt.solver is 'mppi', which has no gradient",
        (dataset, "learner.ibc.iterations=0"): "learner.ibc.iterations is 0; allowed: an integer of at least 1",
        (dataset, "learner.horizon=3"): "learner.horizon is no setting of this learner, 'imitation'",
    }
    for arguments, message in errors.items():
        capsys.readouterr()
        assert train([*CART, *LEARNER, "num_envs=2", *arguments]) == 2, arguments
        text = capsys.readouterr().err
        assert message in text and "Traceback" not in text and text.count("\n") == 1, text
    for learner in ("ppo", "model_based"):
        capsys.readouterr()
        assert train([*CART, f"learner={learner}", "policy=diffusion", "max_iterations=1"]) == 2
        assert f"policy is 'diffusion'; allowed with learner={learner}: policy=trajopt" in capsys.readouterr().err
    Path("demos.hdf5").write_text("", encoding="utf-8")
    assert train([*CART, *LEARNER, "num_envs=2", dataset]) == 2
    assert "learner.dataset is demos.hdf5, which is no HDF5 file" in capsys.readouterr().err


@pytest.mark.sim
@pytest.mark.slow
def test_cart_pole_in_isaac_lab(in_tmp_path: Path):
    assert collect_demos(["task=Cartpole", "policy=random", "num_demos=4", "device=cpu", "output=demos.hdf5"]) == 0
    chosen = ("num_envs=4", "learner.dataset=demos.hdf5", "max_iterations=2", "device=cpu", "run_dir=run")
    assert train(["task=Cartpole", *LEARNER, *chosen]) == 0
    rows = read_metrics(Path("run/metrics.csv"))
    assert len(rows) == 2 and float(rows[-1]["solver_failures"]) == 0
    assert evaluate(["run_dir=run", "num_episodes=2", "device=cpu"]) == 0
