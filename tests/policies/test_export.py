"""Exported policies act as the policies they were made of."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from difftori_isaac.policies.export import PlannedAction, _factor, _solve, trace
from difftori_isaac.policies.trajopt_actor import TrajOptActor

OBS_DIM, NUM_OBS = 5, 256
SETTINGS = {
    "action_rate": {"action_rate_weight": 0.3, "iterations": 1},
    "bounds": {"action_low": -0.2, "action_high": (0.1, None), "horizon": 1, "iterations": 2},
}


def make_actor(**trajopt) -> TrajOptActor:
    """A policy whose plans are far from the prior, and whose normaliser has seen observations."""
    torch.manual_seed(0)
    obs = TensorDict({"policy": 3.0 * torch.randn(64, OBS_DIM) + 1.0}, batch_size=[64])
    actor = TrajOptActor(
        obs,
        {"actor": ["policy"]},
        "actor",
        2,
        trajopt={"horizon": 2, "prior_weight": 0.1, "hessian_every": 2} | trajopt,
        world_model={"encoder_dims": (16, 8), "hidden_dims": (16,), "head_scale": 1.0},
        obs_normalization=True,
        distribution_cfg={"class_name": "GaussianDistribution", "init_std": 0.5},
    )
    actor.update_normalization(obs)
    return actor.eval()


@cache
def exported_actor(settings: str) -> tuple[TrajOptActor, torch.jit.ScriptModule]:
    actor = make_actor(**SETTINGS[settings])
    return actor, actor.as_jit()


def observations(num_envs: int = NUM_OBS) -> torch.Tensor:
    return 3.0 * torch.randn(num_envs, OBS_DIM, generator=torch.Generator().manual_seed(1)) + 1.0


@torch.inference_mode()
def assert_same_actions(exported, actor: TrajOptActor) -> None:
    for num_envs in (NUM_OBS, 1):
        obs = observations(num_envs)
        actions = actor(TensorDict({"policy": obs}, batch_size=[num_envs]))
        assert (exported(obs) - actions).abs().max() <= 1e-5


@pytest.mark.parametrize("settings", SETTINGS)
def test_torchscript_acts_as_the_policy(settings: str, tmp_path):
    actor, exported = exported_actor(settings)
    torch.jit.script(exported).save(tmp_path / "policy.pt")  # as rsl_rl's runner does
    loaded = torch.jit.load(tmp_path / "policy.pt")
    assert_same_actions(loaded, actor)
    with torch.inference_mode():
        prior = actor.planner.world_model.pi(actor.planner.world_model.encode(actor.obs_normalizer(observations())))
        assert (loaded(observations()) - prior).abs().max() > 0.05


def test_a_nan_observation_stays_in_its_environment():
    exported, obs = exported_actor("action_rate")[1], observations(6)
    healthy = exported(obs)
    obs[3] = float("nan")
    others = torch.arange(6) != 3
    assert torch.equal(exported(obs)[others], healthy[others]) and exported(obs).isfinite().all()


def test_export_is_a_snapshot():
    (actor, exported), obs = exported_actor("action_rate"), observations(4)
    state, before = deepcopy(actor.state_dict()), exported(obs)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(1.5)
    assert torch.equal(exported(obs), before)
    actor.load_state_dict(state)


def test_form_for_onnx_acts_as_the_policy():
    actor = make_actor(iterations=1)
    module = actor.as_onnx(verbose=False)
    assert module.get_dummy_inputs()[0].shape == (1, OBS_DIM)
    operations = {str(node.target) for node in module.traced.graph.nodes if node.op == "call_function"}
    assert not any("cholesky" in name for name in operations)
    assert_same_actions(module, actor)


def test_bounded_plans_are_in_operations_that_onnx_runtime_has():
    """It has no choice between booleans."""
    exported = make_actor(**SETTINGS["bounds"]).as_onnx(verbose=False)
    choices = [node for node in exported.traced.graph.nodes if "where" in str(node.target)]
    assert choices and all(node.meta["val"].dtype.is_floating_point for node in choices)


def test_a_program_of_torch_export_takes_any_number_of_environments():
    actor = make_actor(horizon=3, iterations=2)
    num_envs = torch.export.Dim("num_envs")
    with torch.no_grad():
        graph = trace(PlannedAction(actor.obs_normalizer, actor.planner), OBS_DIM)
        program = torch.export.export(graph, (observations(2),), dynamic_shapes=({0: num_envs},))
    assert_same_actions(program.module(), actor)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), log_scale=st.floats(-2.0, 2.0), seed=st.integers(0, 99))
def test_elimination_solves_as_cholesky_does(n: int, log_scale: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** (log_scale * torch.rand(n, generator=generator, dtype=torch.float64))
    jacobian = torch.randn(4, n + 2, n, generator=generator, dtype=torch.float64) * scale
    matrix = jacobian.mT @ jacobian + 1e-2 * torch.eye(n, dtype=torch.float64)
    rhs = torch.randn(4, n, 1, generator=generator, dtype=torch.float64)
    expected = torch.cholesky_solve(rhs, torch.linalg.cholesky(matrix))
    torch.testing.assert_close(_solve(rhs, _factor(matrix)[0]), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("trajopt", "message"),
    [
        (
            {"solver": "mppi"},
            "trajopt.solver is 'mppi', which cannot be exported; allowed: trajopt.solver=gauss_newton",
        ),
        ({"objective": "return"}, "which cannot be exported; allowed: trajopt.objective=least_squares"),
    ],
)
def test_what_cannot_be_exported_is_refused(trajopt: dict, message: str):
    actor = make_actor(**trajopt)
    for export in (actor.as_jit, lambda: actor.as_onnx(verbose=False)):
        with pytest.raises(ValueError, match=message):
            export()
