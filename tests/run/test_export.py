"""The export script, on checkpoints made without a simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict

from difftori_isaac.learners.config import PPOConfig
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.learners.ppo import build_actor
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import export as exporting
from difftori_isaac.run.config import RunConfig, to_dict
from difftori_isaac.scripts.export import main as export
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.td_config import TdWorldModelConfig

OBS_DIM, NUM_ACTIONS = 4, 2


def save_run(policy: str, make_checkpoint, **settings) -> Path:
    torch.manual_seed(0)
    config = RunConfig(
        task="Cartpole",
        policy=policy,
        learner=replace(PPOConfig(actor_hidden_dims=(16, 8)).filled_from({}), obs_normalization=True),
        trajopt=TrajOptConfig(horizon=1, iterations=1, prior_weight=0.1),
        world_model=WorldModelConfig(encoder_dims=(16, 8), hidden_dims=(16,), head_scale=1.0),
    )
    obs = TensorDict({"policy": 2.0 * torch.randn(64, OBS_DIM) - 1.0}, batch_size=[64])
    parts = {"trajopt": config.trajopt, "world_model": config.world_model, "learner": config.learner}
    actor = build_actor(obs, {"actor": ["policy"]}, NUM_ACTIONS, policy=policy, **parts)
    actor.update_normalization(obs)
    state = make_checkpoint(
        config=to_dict(replace(config, **settings)), learner={"actor_state_dict": actor.state_dict()}
    )
    checkpoints.save(state, Path("run"), keep=1, best=False)
    Path("run/config.yaml").touch()
    return Path("run/exported")


@pytest.mark.filterwarnings("ignore")  # of torch's exporters
@pytest.mark.parametrize("policy", [pytest.param("trajopt", marks=pytest.mark.slow), "mlp"])
def test_every_format_acts_as_the_policy(policy: str, in_tmp_path: Path, make_checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-5)
    monkeypatch.setattr(exporting, "MAX_SHARE", 0.0)
    monkeypatch.setattr(exporting, "BATCHES", (1, 8))
    folder = save_run(policy, make_checkpoint)
    assert export(["run_dir=run", f"policy={policy}", "format=all"]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["policy.onnx", "policy.pt", "policy.pt2"]
    text = capsys.readouterr().out
    assert "latency [ms]" in text and "batch 8" in text and "written to run/exported/policy.onnx" in text


def test_an_mlp_is_exported_whatever_world_model_the_run_was_given(in_tmp_path: Path, make_checkpoint, capsys):
    folder = save_run("mlp", make_checkpoint, world_model=TdWorldModelConfig())
    assert export(["run_dir=run", "policy=mlp"]) == 0, capsys.readouterr().err
    assert (folder / "policy.pt").exists()


def test_a_model_based_policy_is_refused(in_tmp_path: Path, make_checkpoint, capsys):
    config = RunConfig(task="Cartpole", learner=ModelBasedConfig(), world_model=TdWorldModelConfig())
    checkpoints.save(make_checkpoint(config=to_dict(config)), Path("run"), keep=1, best=False)
    assert export(["run_dir=run"]) == 2
    assert "was trained with learner=model_based; allowed: a policy of learner=ppo" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["trajopt", "ibc"])
def test_a_policy_of_imitation_is_refused(policy: str, in_tmp_path: Path, make_checkpoint, capsys):
    config = RunConfig(task="Cartpole", policy=policy, learner=ImitationConfig(), world_model=ChunkModelConfig())
    checkpoints.save(make_checkpoint(config=to_dict(config)), Path("run"), keep=1, best=False)
    assert export(["run_dir=run"]) == 2
    text = capsys.readouterr().err
    assert "run/checkpoints/" in text and "was trained with learner=imitation; allowed: a policy of learner=ppo" in text


def test_an_export_that_acts_otherwise_is_refused(in_tmp_path: Path, make_checkpoint, capsys, monkeypatch):
    save_run("mlp", make_checkpoint)
    monkeypatch.setattr(torch.jit, "load", lambda path: lambda obs: torch.full((len(obs), 1), torch.nan))
    assert export(["run_dir=run", "policy=mlp"]) == 1
    assert "torchscript: more than 1% of 256 actions differ" in capsys.readouterr().err


def test_an_export_that_torch_refuses_is_one_line(in_tmp_path: Path, make_checkpoint, capsys, monkeypatch):
    save_run("mlp", make_checkpoint)
    monkeypatch.setattr(MLPModel, "as_onnx", lambda policy, verbose: FixedBatch())
    assert export(["run_dir=run", "policy=mlp", "format=torch_export"]) == 1
    text = capsys.readouterr().err
    assert "cannot export this policy with format=torch_export (Constraints violated (num_envs)!" in text
    assert text.count("\n") == 1


class FixedBatch(torch.nn.Module):
    """For two observations only."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs + torch.zeros(2, OBS_DIM)


def test_a_file_that_does_not_load_is_one_line(in_tmp_path: Path, make_checkpoint, capsys, monkeypatch):
    folder = save_run("mlp", make_checkpoint)
    monkeypatch.setattr(torch.onnx, "export", lambda program, f, **settings: f.write_bytes(b"no model"))
    assert export(["run_dir=run", "policy=mlp", "format=onnx"]) == 1
    text = capsys.readouterr().err
    assert "cannot export this policy with format=onnx (onnxruntime: " in text and text.count("\n") == 1
    assert not (folder / "policy.onnx").exists()


def test_bad_export_is_one_line(in_tmp_path: Path, make_checkpoint, capsys, monkeypatch):
    save_run("trajopt", make_checkpoint)
    Path("file").touch()
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    for arguments, code, message in (
        ("format=tflite", 2, "format is 'tflite'; allowed: torchscript, onnx, torch_export, all"),
        ("format=onnx", 2, "format is onnx, which needs onnxruntime"),
        ("policy=zero task=Cartpole", 2, "policy is 'zero'; allowed: trajopt, mlp"),
        ("device=cuda", 2, "device is 'cuda'; allowed: cpu"),
        ("trajopt.solver=mppi", 2, "trajopt.solver is 'mppi', which cannot be exported"),
        ("world_model.hidden_dims=[3]", 2, "does not fit this configuration"),
        ("output=file/here", 1, "cannot write to file/here"),
    ):
        assert export(["run_dir=run", *arguments.split()]) == code
        text = capsys.readouterr().err
        assert message in text and text.count("\n") == 1
