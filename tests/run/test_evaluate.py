"""Evaluation on a task of Isaac Lab's managers."""

from contextlib import closing

import pytest

from difftori_isaac.run import build, rollout
from difftori_isaac.run.compose import compose, parse
from difftori_isaac.run.config import EvaluateConfig, PlayConfig, RolloutConfig, TrainConfig, shared_keys, to_dict
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.evaluate import changed, run_episodes


@pytest.mark.sim
def test_one_environment_evaluates_several_policies():
    asked = ["task=Reach", "policy=zero", "num_envs=2", "num_episodes=2", "device=cpu", "env.episode_length_s=0.1"]
    config, origin = rollout.configure(EvaluateConfig, parse(asked, EvaluateConfig))
    with closing(build.make_environment(config)) as env:
        policy = rollout.make_policy(config, env, origin)
        first, second = (run_episodes(config, env, policy)["return"]["mean"] for _ in range(2))
    assert first < 0.0 and second == pytest.approx(first, rel=1e-4)


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
