from __future__ import annotations

import shlex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from difftori_isaac.run.compose import compose, compose_values, parse, setting
from difftori_isaac.run.config import (
    EvaluateConfig,
    PlayConfig,
    TrainConfig,
    leaf_keys,
    shared_keys,
    text_keys,
    to_dict,
    validate,
)
from difftori_isaac.run.errors import ConfigError


def make(*arguments: str, layers: tuple = (), task: dict | None = None, schema: type = TrainConfig):
    return compose(schema, parse(arguments, schema), *layers, task=task)


def test_defaults_are_the_dataclasses():
    config = make("task=Cartpole")
    assert config == TrainConfig(task="Cartpole")
    assert validate(TrainConfig, to_dict(config)) == config


def test_user_wins_over_task_wins_over_defaults():
    own = {"num_envs": 8, "trajopt": {"horizon": 7, "iterations": 9}}
    config = make("task=Cartpole", "trajopt.horizon=5", task=own)
    assert (config.num_envs, config.trajopt.horizon, config.trajopt.iterations) == (8, 5, 9)


def test_last_of_two_values_wins():
    assert make("task=A", "seed=1", "seed=2").seed == 2


def test_groups_choose_variants():
    assert make("task=A", "policy=mlp", "learner=ppo", "world_model=latent").policy == "mlp"


def test_a_learner_brings_its_settings_and_its_world_model():
    config = make("task=A", "learner=model_based", "learner.horizon=4")
    assert (config.learner.name, config.learner.horizon, config.world_model.name) == ("model_based", 4, "td")
    assert (config.trajopt.action_low, config.trajopt.objective) == (-1.0, "least_squares")
    config = make("task=A", "learner=model_based", "world_model=tdmpc2")
    assert (config.world_model.num_q, config.world_model.value_head) == (5, "two_hot")
    assert config.trajopt.objective == "return"
    for name, units in (("td_wide", 128), ("td_large", 256)):
        config = make("task=A", "learner=model_based", f"world_model={name}")
        assert config.world_model.hidden_dims == (units, units)
        assert config.trajopt == make("task=A", "learner=model_based").trajopt


def test_a_learner_for_many_environments_is_the_same_with_other_settings():
    config = make("task=A", "learner=model_based_parallel", "learner.horizon=4")
    assert (config.learner.name, config.learner.horizon, config.learner.batch_size) == ("model_based", 4, 512)
    assert config.learner.update_to_data == 1 / 16 and config.world_model.name == "td"
    assert config.trajopt == make("task=A", "learner=model_based").trajopt
    own = {"num_envs": 8, "learner": {"gamma": 0.9}}
    assert make("task=A", "learner=model_based_parallel", task=own).num_envs == 8


def test_a_saved_learner_stays_what_it_is():
    saved = to_dict(make("task=A", "learner=model_based", "world_model=difftori", "learner.horizon=4"))
    config = make("learner.tau=0.5", layers=(saved,))
    assert (config.learner.horizon, config.learner.tau, config.world_model.num_q) == (4, 0.5, 2)
    assert (config.world_model.value_head, config.trajopt.objective) == ("scalar", "return")
    assert make(layers=(shared_keys(saved, EvaluateConfig),), schema=EvaluateConfig).learner.horizon == 4


def test_settings_of_a_task_for_ppo_are_for_ppo():
    own = {"num_envs": 8, "learner": {"gamma": 0.9}}
    assert make("task=A", task=own).learner.gamma == 0.9
    assert make("task=A", "learner=model_based", task=own).num_envs == 8


def test_settings_of_a_task_for_a_learner_it_names_are_for_that_learner():
    own = {"num_envs": 8, "learner": {"name": "model_based", "action_scale": 2.0}}
    assert make("task=A", task=own) == make("task=A", "num_envs=8")
    for learner in ("model_based", "model_based_parallel"):
        config = make("task=A", f"learner={learner}", task=own)
        assert config == make("task=A", f"learner={learner}", "learner.action_scale=2.0", "num_envs=8")


def test_help_shows_the_keys_of_the_chosen_learner():
    keys = leaf_keys(TrainConfig, "model_based", "td")
    assert keys["learner.learning_rate"] == "Learning rate of all networks."
    assert "learner.tau" in keys and "learner.clip_param" not in keys and "learner.name" not in keys


def test_values_keep_their_types():
    config = make(
        "task=A",
        "learner.actor_hidden_dims=[64,32]",
        "learner.gamma=1",
        "trajopt.action_low=[-1,null,-inf]",
        "run_dir=2024",
        "wandb={mode: offline}",
        "seed=1e3",
    )
    assert config.learner.actor_hidden_dims == (64, 32)
    assert config.learner.gamma == 1.0 and isinstance(config.learner.gamma, float)
    assert config.trajopt.action_low == (-1.0, None, float("-inf"))
    assert (config.run_dir, config.wandb.mode, config.seed) == ("2024", "offline", 1000)


@pytest.mark.parametrize("text", ["2026_12_01", "1e3", "007", "0.50", "True", "nan"])
def test_texts_stay_as_they_were_typed(text: str):
    overrides = parse([f"run_dir={text}", f"wandb.name={text}", "task=A"], TrainConfig)
    assert overrides.get("run_dir") == text
    config = compose(TrainConfig, overrides)
    assert config.run_dir == config.wandb.name == text
    assert make("task=A", "run_dir=null").run_dir is None


def test_keys_that_take_more_than_texts_are_no_texts():
    assert {"task", "run_dir", "wandb.name", "learner.dataset", "device"} <= text_keys(TrainConfig)
    assert not {"seed", "trajopt.action_low", "learner.obs_groups", "env_overrides"} & text_keys(TrainConfig)


def test_interpolation():
    assert make("task=A", "seed=3", "max_iterations=${seed}").max_iterations == 3


def test_isaac_lab_overrides_pass_through_and_the_last_wins():
    saved = {"env_overrides": ["env.sim.dt=0.01", "physics=newton_mjwarp"]}
    config = make("task=A", "env.sim.dt=0.02", "presets=a,b", "env.x='[1,2]'", layers=(saved,))
    assert config.env_overrides == ("env.sim.dt=0.02", "physics=newton_mjwarp", "presets=a,b", "env.x='[1,2]'")


def test_missing_value_is_shown_in_help_but_not_accepted():
    assert compose_values(TrainConfig, parse([], TrainConfig))["task"] == "???"
    with pytest.raises(ConfigError, match=r"^task is missing; give task=<value>"):
        make("seed=1")


def test_every_key_has_a_default_and_inherited_keys_their_description():
    keys = leaf_keys(PlayConfig)
    assert keys["num_envs"].startswith("Parallel environments; null is 16")
    assert keys["device"].startswith("auto")
    assert keys["policy"].endswith("[trajopt|mlp|diffusion|ibc|random|zero|expert]")
    assert "trajopt.solver" in keys


BAD = {
    "learner.tau=0.5": "learner.tau is no setting of this learner, 'ppo'",
    "learner.name=model_based": "unknown key 'learner.name'",
    "world_model=x": "world_model is 'x'; allowed: chunk, difftori, latent, td, td_large, td_wide, tdmpc2",
    "Lift": "'Lift' is not an override; allowed: key=value",
    "--num_envs": "'--num_envs' is not an override; allowed: key=value, for example num_envs=<value>",
    "--task=Lift": "for example task=<value>",
    "=3": "is not an override",
    "trajopt.horizn=3": "unknown key 'trajopt.horizn'; did you mean trajopt.horizon",
    "horizon=3": "did you mean trajopt.horizon or learner.horizon",
    "agent.max_iterations=3": "did you mean max_iterations",
    "learning_rate=1": "did you mean learner.learning_rate",
    "env=3": "env.<key>=<value>",
    "xyz=1": "allowed: device, ",
    "trajopt={foo: 1}": "unknown key 'trajopt.foo'",
    "seed=1,2": "is a sweep",
    "seed=range(1,3)": "is a sweep",
    "+seed=1": "adds or deletes",
    "~seed=1": "adds or deletes",
    "run_dir=a(b)": "cannot be read",
    "policy=foo": "policy is 'foo'; allowed: diffusion, ibc, mlp, trajopt",
    "learner=sac": "learner is 'sac'; allowed: imitation, model_based, model_based_parallel, ppo",
    "trajopt.solver=ipopt": "trajopt.solver is 'ipopt'; allowed: gauss_newton, theseus",
    "trajopt.backward_mode=x": "trajopt.backward_mode is 'x'; allowed: implicit, truncated, unroll",
    "trajopt.horizon=0": "trajopt.horizon is 0; allowed: an integer of at least 1",
    "trajopt.discount=nan": "trajopt.discount is nan; allowed: a finite number",
    "trajopt.horizon=long": "trajopt.horizon is 'long'; allowed: an integer",
    "trajopt.action_low=wide": "trajopt.action_low is 'wide'; allowed: a list, for example [64,64], or a number",
    "trajopt.action_low=[-1,wide]": "trajopt.action_low is 'wide'; allowed: a number",
    "trajopt=3": "trajopt is 3; allowed: keys of its own",
    "world_model.activation=sin": "world_model.activation is 'sin'; allowed: ",
    "learner.actor_hidden_dims=64": "learner.actor_hidden_dims is 64; allowed: a list",
    "learner.obs_groups={actor:policy}": "learner.obs_groups is {'actor': 'policy'}; allowed: a list for each set",
    "learner.obs_groups=policy": "obs_groups is 'policy'; allowed: a list for each set, for example {actor:[policy]}",
    "learner.obs_normalization=maybe": "allowed: true or false",
    "num_envs=0": "num_envs is 0; allowed: an integer of at least 1",
    "num_envs=2.5": "num_envs is 2.5; allowed: an integer",
    "num_envs=true": "num_envs is 'true'; allowed: an integer",
    "max_iterations=-1": "max_iterations is -1; allowed: an integer of at least 1",
    "save_interval=0": "save_interval is 0",
    "keep_checkpoints=0": "keep_checkpoints is 0",
    "seed=-1": "seed is -1; allowed: an integer from 0 to 4294967295",
    "seed=4294967296": "seed is 4294967296; allowed: an integer from 0 to 4294967295",
    "learner.critic_hidden_dims=[]": "learner.critic_hidden_dims is []; allowed: widths of at least 1",
    "seed=null": "seed is null; allowed: an integer",
    "seed=${foo}": "Interpolation key 'foo' not found",
    "device=gpu": "device is 'gpu'; allowed: auto, cpu, cuda:N",
    "logger=csv": "logger is 'csv'; allowed: tensorboard, wandb, none",
    "wandb.mode=on": "wandb.mode is 'on'; allowed: online, offline, disabled",
    "run_dir=": "run_dir is ''; allowed: a text that is not empty",
    "env_overrides=3": "env_overrides is 3; allowed: a list",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_is_one_line_that_names_the_value(argument: str):
    with pytest.raises(ConfigError) as error:
        make("task=Cartpole", argument)
    assert BAD[argument] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_learner_is_chosen_in_training_only():
    with pytest.raises(ConfigError, match=r"learner=model_based' is for scripts/train.py; .* leave learner= out"):
        make("task=A", "learner=model_based", schema=EvaluateConfig)


def test_keys_of_other_scripts_are_unknown():
    with pytest.raises(ConfigError, match="unknown key 'max_iterations'"):
        make("task=A", "max_iterations=3", schema=EvaluateConfig)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["C"]) | st.sampled_from("\\'\"=,[]{}()$ ~ "), min_size=1))
@example("runs/Lift/mlp/2026-11-28_11-52-53_seed0")
@example("sweeps/policy=mlp,seed=1")
@example("o'neil \\'\\")
@example("1e3")
@example("null")
def test_a_setting_that_is_printed_can_be_pasted(text: str):
    assert parse(shlex.split(setting("run_dir", text)), TrainConfig).values == {"run_dir": text}
