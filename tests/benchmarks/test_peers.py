"""Planners of others, by stand-ins for their packages: they get our problem, and answer with plans that we judge."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.benchmarks.config import Size
from difftori_isaac.benchmarks.learned_model import LatentProblem
from difftori_isaac.benchmarks.peers import PEERS
from difftori_isaac.scripts.benchmark import main

SIZE = Size(num_envs=3, horizon=4, iterations=2)
PROBLEM = LatentProblem(latent_dim=6, action_dim=2, hidden_dims=(16,), dtype=torch.float64)


class Batched:
    """In place of pytorch-mppi's planner: it takes its first sample and remembers what every sample costs."""

    cost: torch.Tensor

    def __init__(self, dynamics, running_cost, nx, noise_sigma, num_envs, *, num_samples, horizon, **_):
        self.dynamics, self.running_cost, self.num_samples = dynamics, running_cost, num_samples
        self.shape = (num_envs, num_samples, horizon, len(noise_sigma))
        self.U = torch.empty(0)

    def command(self, states, shift_nominal_trajectory):
        shifts = self.U[:, None] + torch.randn(self.shape, dtype=states.dtype)
        state, cost = states.repeat_interleave(self.num_samples, dim=0), torch.zeros(())
        for t in range(self.shape[2]):
            a = shifts[:, :, t].flatten(0, 1)
            state = self.dynamics(state, a, t)
            cost = cost + self.running_cost(state, a, t)
        Batched.cost = cost.view(self.shape[:2])[:, 0]
        self.U = shifts[:, 0]


class ModelBasedEnvBase:
    def __init__(self, world_model, device):
        self.world_model = world_model


class Planner:
    """In place of torchrl's planners, likewise."""

    cost: torch.Tensor

    def __init__(self, env, planning_horizon, optim_steps, num_candidates, top_k, **_):
        assert planning_horizon == 1
        self.env, self.num_candidates = env, num_candidates

    def __call__(self, tensordict):
        samples = tensordict.unsqueeze(-1).expand(-1, self.num_candidates).clone()
        samples["action"] = torch.randn(*samples.shape, *self.env.action_spec.shape, dtype=samples["z"].dtype)
        Planner.cost = -self.env.world_model(samples)["reward"][:, 0, 0]
        return tensordict.set("action", samples["action"][:, 0])


STAND_INS = {
    "pytorch_mppi": {"MPPI_Batched": Batched},
    "torchrl.data": {
        "Composite": lambda **specs: TensorDict(specs),
        "Unbounded": lambda shape, device, dtype: torch.zeros(shape, dtype=dtype),
    },
    "torchrl.envs": {"ModelBasedEnvBase": ModelBasedEnvBase},
    "torchrl.modules.planners": {"CEMPlanner": Planner, "MPPIPlanner": Planner},
}


@pytest.mark.parametrize(
    ("solver", "planner"), [("pytorch-mppi", Batched), ("torchrl MPPI", Planner), ("torchrl CEM", Planner)]
)
def test_samples_cost_what_they_cost_us(solver: str, planner: type, monkeypatch: pytest.MonkeyPatch):
    for name, contents in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    module, function = PEERS[solver].workload.split(":")
    name = f"difftori_isaac.benchmarks.peers.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    workload = getattr(import_module(name), function)(PROBLEM, SIZE)
    actions = workload.forward()
    assert actions.shape == workload.warm_start.shape and workload.forward_backward is None
    torch.testing.assert_close(planner.cost, workload.cost(actions))


def rows(tmp_path: Path, *arguments: str) -> list[dict]:
    sizes = ["peers=true", "num_envs=2", "horizon=2", "repeats=1", "device=cpu"]
    assert main([*arguments, *sizes, f"json={tmp_path / 'rows.json'}"]) == 0
    return json.loads((tmp_path / "rows.json").read_text())["rows"]


def test_a_peer_that_cannot_be_installed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = rows(tmp_path, "suite=learned_model", "filter=torchrl CEM")
    assert (row["measured"], row["forward_ms"]) == (False, None)
    assert row["note"].startswith("cannot be run: torchrl==0.14.1 tensordict==0.14.3 hoptorch==0.1.4 is not installed")


@pytest.mark.slow
def test_a_peer_is_run_with_what_its_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "difftori-isaac" / "peers" / "+".join(PEERS["pytorch-mppi"].requirements)
    folder.mkdir(parents=True)
    program = "print('hello')\nclass MPPI_Batched:\n  def __init__(*_, **__): pass\n  def command(*_, **__): pass\n"
    (folder / "pytorch_mppi.py").write_text(program)
    (row,) = rows(tmp_path, "suite=learned_model", "filter=pytorch-mppi")
    assert row["measured"] and row["forward_ms"] > 0 and row["forward_backward_ms"] is None
    assert row["final_cost"] == row["initial_cost"] > 0
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'RuntimeError: no wheel' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    (row,) = rows(tmp_path, "suite=learned_model", "filter=pytorch-mppi")
    assert not row["measured"] and row["note"] == "cannot be run: failing ended with code 1: RuntimeError: no wheel"
