"""The scripts on the real cart-pole and a GPU."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path

import pytest
import torch

from difftori_isaac.run.metrics import read_metrics
from difftori_isaac.scripts.collect_demos import main as collect_demos
from difftori_isaac.scripts.evaluate import main as evaluate
from difftori_isaac.scripts.train import main as train

DEVICE = "cuda:0"
pytestmark = [
    pytest.mark.sim,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize(
    "learner",
    [
        ("learner.num_steps_per_env=12",),
        ("policy=mlp", "learner.num_steps_per_env=12"),
        ("learner=imitation",),
        ("learner=imitation", "policy=diffusion"),
        ("learner=model_based", "learner.seed_steps=16", "learner.update_to_data=0.1", "learner.horizon_steps=100"),
    ],
    ids=["trajopt", "mlp", "imitation", "diffusion", "model_based"],
)
def test_train_resume_and_evaluate(learner: tuple[str, ...], tmp_path: Path):
    run_dir, output = f"run_dir={tmp_path / 'run'}", tmp_path / "eval.json"
    if "learner=imitation" in learner:
        demos = tmp_path / "demos.hdf5"
        learner = (*learner, f"learner.dataset={demos}", "learner.num_updates=10")
        asked = ("task=Cartpole", "policy=random", "num_demos=4", f"device={DEVICE}", f"output={demos}")
        assert collect_demos(asked) == 0
    small = ("task=Cartpole", "num_envs=16", "logger=none", f"device={DEVICE}", "max_iterations=4")
    assert train([*small, *learner, run_dir]) == 0
    assert train([run_dir, "resume=latest", "max_iterations=6"]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["iteration"] for row in rows] == list("123456")
    assert all(float(row["nonfinite_envs"]) == float(row.get("solver_failures") or 0) == 0 for row in rows)
    asked = ("num_episodes=4", "num_envs=4", "env.episode_length_s=0.5", f"device={DEVICE}", f"output={output}")
    assert evaluate([run_dir, *asked]) == 0
    assert isfinite(json.loads(output.read_text())["return"]["mean"])
