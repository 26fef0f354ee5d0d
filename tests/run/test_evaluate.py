"""Evaluation on a task of Isaac Lab's managers."""

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from difftori_isaac.run import build, rollout
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.compose import compose, parse
from difftori_isaac.run.config import EvaluateConfig, PlayConfig, RolloutConfig, TrainConfig, shared_keys, to_dict
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.evaluate import _evaluate_all, changed, run_episodes, summary


@pytest.mark.sim
def test_one_environment_evaluates_several_policies():
    asked = ["task=Reach", "policy=zero", "num_envs=2", "num_episodes=2", "device=cpu", "env.episode_length_s=0.1"]
    config, origin = rollout.configure(EvaluateConfig, parse(asked, EvaluateConfig))
    with closing(build.make_environment(config)) as env:
        policy = rollout.make_policy(config, env, origin)
        env.unwrapped.common_step_counter = 4499  # Reach's curriculum raises penalties from 4501 on
        first, second = (run_episodes(config, env, policy)["return"]["mean"] for _ in range(2))
        assert env.unwrapped.reward_manager.get_term_cfg("joint_vel").weight == pytest.approx(-1e-4)
    assert first < 0.0 and second == pytest.approx(first, rel=1e-4)


def test_a_checkpoint_that_is_deleted_meanwhile_is_left_out(
    tmp_path: Path, make_checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    paths = [checkpoints.save(make_checkpoint(number), tmp_path, keep=3, best=False) for number in (1, 2, 3)]
    numbers = {"num_episodes": 1, "return": summary([1.0]), "episode_length": summary([2.0])}
    numbers |= {"success_rate": None, "nonfinite_episodes": 0}

    def act(*_) -> dict[str, Any]:
        paths[1].unlink(missing_ok=True)
        return numbers

    monkeypatch.setattr("difftori_isaac.run.build.make_environment", lambda _: None)
    monkeypatch.setattr("difftori_isaac.run.evaluate.closing", nullcontext)
    monkeypatch.setattr("difftori_isaac.run.evaluate.changed", lambda *_: {})
    monkeypatch.setattr("difftori_isaac.run.evaluate.run_episodes", act)
    monkeypatch.setattr("difftori_isaac.run.rollout.make_policy", lambda *_: None)
    config, table = EvaluateConfig(task="Cartpole"), tmp_path / "eval.csv"
    _evaluate_all(config, paths, table)
    assert [line.partition(",")[0] for line in table.read_text().splitlines()] == ["iteration", "1", "3"]
    assert f"note: {paths[1]} is not there any more: left out\n3 of 3: 300 " in capsys.readouterr().out
    with pytest.raises(RunError, match="none of 1 checkpoints is there any more"):
        _evaluate_all(config, paths[1:2], table)
    paths[0].write_text("")
    with pytest.raises(ConfigError, match="is truncated"):
        _evaluate_all(config, paths, table)


@pytest.mark.parametrize("schema", [EvaluateConfig, PlayConfig])
def test_a_policy_without_parameters_has_nothing_of_a_run(schema: type[RolloutConfig]):
    file = "video_path" if schema is PlayConfig else "output"
    for given, hint in {
        "checkpoint=best": "",
        "run_dir=run": f"; {file}=<file> says where to write",
        "trajopt.iterations=3": "",
        "world_model.hidden_dims=[8]": "",
        "learner.gamma=0.9": "",
    }.items():
        asked = parse(["task=Reach", "policy=random", given], schema)
        with pytest.raises(ConfigError) as error:
            rollout.configure(schema, asked)
        assert str(error.value) == f"policy=random has no checkpoint; leave {given.partition('=')[0]}= out{hint}"


def test_settings_that_differ_from_the_training_are_told():
    asked = ["task=walker-walk", "learner=model_based", "trajopt.horizon=4", "env.episode_steps=20", "seed=3"]
    trained = to_dict(compose(TrainConfig, parse(asked, TrainConfig)))
    del trained["trajopt"]["prior_weight"]  # the checkpoint is of a version that had no such setting

    def told(*arguments: str):
        overrides = parse(arguments, EvaluateConfig)
        return changed(compose(EvaluateConfig, overrides, shared_keys(trained, EvaluateConfig)), trained)

    assert told() == told("trajopt.horizon=4", "trajopt.prior_weight=1", "env.episode_steps=20", "seed=4") == {}
    assert told("trajopt.prior_weight=1000", "learner.act_with=prior", "env.episode_steps=30") == {
        "trajopt.prior_weight": 1000.0,
        "learner.act_with": "prior",
        "env_overrides": ["env.episode_steps=30"],
    }
