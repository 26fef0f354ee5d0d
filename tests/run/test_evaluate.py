"""Evaluation on a task of Isaac Lab's managers."""

from contextlib import closing

import pytest

from difftori_isaac.run import build, rollout
from difftori_isaac.run.compose import parse
from difftori_isaac.run.config import EvaluateConfig, PlayConfig, RolloutConfig
from difftori_isaac.run.errors import ConfigError
from difftori_isaac.run.evaluate import run_episodes


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
