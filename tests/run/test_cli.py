from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import gymnasium
import pytest
import torch

from difftori_isaac.envs.isaaclab import load_ppo_settings
from difftori_isaac.envs.registry import resolve_task
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import locate
from difftori_isaac.run.build import fill_from_task
from difftori_isaac.run.cli import Command
from difftori_isaac.run.compose import compose, parse
from difftori_isaac.run.config import RunConfig, TrainConfig, to_dict
from difftori_isaac.run.configure import configure
from difftori_isaac.run.errors import ConfigError

ROOT = Path(__file__).parents[2]
SCRIPTS = (
    "train",
    "play",
    "evaluate",
    "collect_demos",
    "export",
    "list_tasks",
    "new_task",
    "plot",
    "report",
    "benchmark",
)


def run(script: str, *arguments: str) -> int:
    """What the console script of this name does."""
    return import_module(f"difftori_isaac.scripts.{script}").main(list(arguments))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains(script: str, capsys: pytest.CaptureFixture):
    assert run(script, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: scripts/{script}.py key=value" in text and "examples:" in text


def test_output_that_nobody_reads_ends_a_script_in_one_line():
    code = """if True:
        from difftori_isaac.run.cli import Command
        play = Command(name="play.py", summary="", schema="difftori_isaac.run.config:PlayConfig", run="builtins:print")
        print("begins", flush=True)
        input()
        raise SystemExit(play(["task=Lift"]))
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONUNBUFFERED": ""}, **pipes)
    assert process.stdout is not None and process.stdout.readline() == b"begins\n"
    process.stdout.close()
    _, errors = process.communicate(b"\n", timeout=60)
    assert process.returncode == 1
    assert errors == b"error: who read the output has closed it; nothing more was done\n"


@pytest.mark.slow
def test_files_and_terminals_may_be_of_another_encoding_than_the_locale():
    """Reach's settings have comments with characters beyond ASCII, and so has what --help says."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, ROOT / "scripts" / "train.py", "task=Reach", "--help"]
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"usage: scripts/train.py" in done.stdout and done.stdout.isascii()


def test_help_shows_every_key_with_its_current_value(capsys: pytest.CaptureFixture):
    assert run("train", "-h", "task=Lift", "trajopt.horizon=9") == 0
    text = capsys.readouterr().out
    for part in (
        "task=Lift",
        "trajopt.horizon=9",
        "Number of planned actions",
        "wandb.mode=online",
        "learner.gamma=null",
        "learner=ppo",
        "[imitation|model_based|model_based_parallel|ppo]",
    ):
        assert part in text
    assert run("train", "-h", "learner=model_based_parallel") == 0
    text = capsys.readouterr().out
    assert "learner=model_based_parallel" in text and "world_model=td " in text and "learner.batch_size=512" in text
    assert "learner.action_scale=1.0 " in text
    assert run("train", "-h", "task=Lift", "learner=model_based_parallel", "learner.horizon=4") == 0
    text = capsys.readouterr().out
    assert "learner.action_scale=2.0 " in text and "learner.horizon=4" in text, "what the task sets for itself"


def test_scripts_run_as_files():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "train.py"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: task is missing") and done.stderr.count("\n") == 1


def one_line(capsys: pytest.CaptureFixture) -> str:
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text
    return text


@pytest.fixture
def run_dir(in_tmp_path: Path, make_checkpoint) -> Path:
    """A run of another policy, with one good checkpoint."""
    path = locate.runs_of("Cartpole", "mlp") / "first"
    checkpoints.save(make_checkpoint(), path, keep=1, best=False)
    return path


TRAIN = {
    "task=Cartpol": "Unknown task 'Cartpol'. Close matches: Cartpole",
    "task=Cartpole trajopt.solver=ipopt": "trajopt.solver is 'ipopt'; allowed: gauss_newton, theseus",
    "task=Cartpole trajopt.backward_mode=magic": "allowed: implicit, truncated, unroll",
    "task=Cartpole trajopt.horizn=3": "did you mean trajopt.horizon",
    "task=Cartpole num_envs=0": "num_envs is 0; allowed: an integer of at least 1",
    "task=Cartpole policy=mlp learner.encoders.image_kernels=[3]": "image_kernels",
    "task=Cartpole env.scene.num_envs=16": "'env.scene.num_envs=16' would be overwritten; give num_envs=16 instead",
    "task=Cartpole run_dir=runs/Cartpole/mlp/first": "exists; allowed: a new directory, or resume=latest",
    "task=Cartpole resume=none.pt": "resume is none.pt, which does not exist",
    "task=Cartpole resume=truncated.pt": "checkpoint truncated.pt is truncated",
    "task=Cartpole resume=foreign.pt": "foreign.pt is not a checkpoint of difftori_isaac",
    "task=Cartpole resume=latest": "finds no run of task Cartpole with policy trajopt",
    "task=Cartpole policy=mlp resume=best": "has no best checkpoint; its checkpoints: checkpoint_0000001.pt",
    "resume=latest": "needs to know the run",
    "resume=latest num_envs=0": "num_envs is 0",
    "task=Lift resume=runs/Cartpole/mlp/first": "task is Lift, but",
    "policy=trajopt resume=runs/Cartpole/mlp/first": "policy is trajopt, but",
    "learner=model_based resume=runs/Cartpole/mlp/first": "learner is model_based, but",
    "world_model=tdmpc2 resume=runs/Cartpole/mlp/first": "world_model is td, but",
}


@pytest.mark.parametrize("arguments", TRAIN)
def test_bad_training_is_one_line(arguments: str, run_dir: Path, capsys: pytest.CaptureFixture):
    whole = checkpoints.find(run_dir, "latest").read_bytes()
    Path("truncated.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"iter": 1}, "foreign.pt")
    assert run("train", *arguments.split()) == 2
    assert TRAIN[arguments] in one_line(capsys)
    assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoints"]


def test_a_world_model_of_other_sizes_is_refused_at_a_resume(
    in_tmp_path: Path, make_checkpoint, capsys: pytest.CaptureFixture
):
    trained = ["task=Cartpole", "learner=model_based", "world_model=difftori"]
    saved = make_checkpoint(config=to_dict(compose(TrainConfig, parse(trained, TrainConfig))))
    path = checkpoints.save(saved, Path("run"), keep=1, best=False)
    assert run("train", f"resume={path}", "world_model=tdmpc2") == 2
    text = one_line(capsys)
    assert "world_model=tdmpc2 has world_model.latent_dim 512" in text and "was trained with 50" in text


@pytest.mark.parametrize("num_updates", [0, 1])
def test_another_unit_of_rewards_is_refused_once_it_is_in_use(
    num_updates: int, in_tmp_path: Path, make_checkpoint, capsys: pytest.CaptureFixture
):
    learner = {"num_updates": num_updates, "world_model_state_dict": {"reward_scale": torch.tensor(0.484)}}
    config = to_dict(compose(TrainConfig, parse(["task=Cartpole", "learner=model_based"], TrainConfig)))
    path = checkpoints.save(make_checkpoint(config=config, learner=learner), Path("run"), keep=1, best=False)
    asked = parse([f"resume={path}", "learner.reward_scale=5", "run_dir=fork"], TrainConfig)
    if num_updates == 0:
        assert configure(asked)[0].learner == ModelBasedConfig(reward_scale=5.0)
    else:
        with pytest.raises(ConfigError, match=r"reward_scale is 5.0, but .*\.pt was trained with 0.484; leave "):
            configure(asked)


@pytest.fixture
def own_settings(in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, not there yet, of what Cartpole sets for itself."""
    package = in_tmp_path / "my_defaults"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(in_tmp_path))
    monkeypatch.delitem(sys.modules, "my_defaults", raising=False)
    task_id = resolve_task("Cartpole").id
    monkeypatch.setitem(gymnasium.spec(task_id).kwargs, "difftori_cfg_entry_point", "my_defaults:own.yaml")
    return package / "own.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "my_defaults:own.yaml, which cannot be read ([Errno 2] No such file or directory"),
        ("trajopt: [", "my_defaults:own.yaml, which cannot be read (while parsing a flow node"),
        ("- trajopt", "my_defaults:own.yaml, which holds ['trajopt']; allowed: keys with values"),
        (
            "trajopt.horizon: 5",
            "task Cartpole sets 'trajopt.horizon' itself, a key with dots; allowed: trajopt: {horizon: 5}",
        ),
        ("trajopt: {mppi.seed: 5}", "task Cartpole sets 'mppi.seed' itself, a key with dots; allowed: mppi: {seed: 5}"),
        ("learner: model_based", "task Cartpole sets learner to 'model_based' itself; allowed: keys with values"),
        ("learner: {name: model}", "and among them a name: ppo, model_based, imitation"),
    ],
)
def test_a_task_s_own_settings_that_cannot_be_are_one_line(
    text: str | None, message: str, own_settings: Path, capsys: pytest.CaptureFixture
):
    if text is not None:
        own_settings.write_text(text, encoding="utf-8")
    for arguments in (["task=Cartpole"], ["task=Cartpole", "--help"]):
        assert run("train", *arguments) == 2
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trajopt: {horizn: 3}", "unknown key 'trajopt.horizn'; did you mean trajopt.horizon"),
        ("num_envs: 0", "num_envs is 0; allowed: an integer of at least 1"),
    ],
)
def test_the_file_of_a_task_s_own_settings_is_named(
    text: str, message: str, own_settings: Path, capsys: pytest.CaptureFixture
):
    own_settings.write_text(text, encoding="utf-8")
    assert run("train", "task=Cartpole") == 2
    where = "difftori_cfg_entry_point of task Cartpole is my_defaults:own.yaml"
    assert f"{where}, with which {message}" in one_line(capsys)


@pytest.mark.parametrize("kwarg", ["env_cfg_entry_point", "rsl_rl_cfg_entry_point"])
def test_a_task_s_configuration_that_is_not_there_is_one_line(
    kwarg: str, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setitem(gymnasium.spec(resolve_task("Cartpole").id).kwargs, kwarg, "nowhere.cfg:Cfg")
    assert run("train", "task=Cartpole", "device=cpu") == 2
    assert f"{kwarg} of Cartpole is nowhere.cfg:Cfg, which cannot be loaded" in one_line(capsys)


def test_what_is_not_used_of_a_task_s_settings_is_said(capsys: pytest.CaptureFixture):
    config = compose(TrainConfig, parse(["task=Cartpole"], TrainConfig))
    fill_from_task(config, {"algorithm": {"rnd_cfg": {"weight": 1.0}, "symmetry_cfg": None}})
    assert capsys.readouterr().out == "note: rnd_cfg of the task's rsl_rl settings: not used here\n"
    actor = {"class_name": "RNNModel", "activation": "elu", "obs_normalization": False}
    fill_from_task(config, {"actor": actor, "critic": {"class_name": "MLPModel", "obs_normalization": True}})
    text = "actor.class_name=RNNModel and critic.obs_normalization=True of the task's rsl_rl settings: not used here"
    assert capsys.readouterr().out == f"note: {text}\n"
    fill_from_task(config, load_ppo_settings("Lift"))
    assert capsys.readouterr().out == ""


def test_settings_at_a_resume_are_those_of_the_checkpoint_s_learner(
    in_tmp_path: Path, make_checkpoint, capsys: pytest.CaptureFixture
):
    trained = ["task=Cartpole", "learner=model_based"]
    saved = make_checkpoint(config=to_dict(compose(TrainConfig, parse(trained, TrainConfig))))
    path = checkpoints.save(saved, Path("run"), keep=1, best=False)
    given = [f"resume={path}", "learner.update_to_data=0.2", "world_model.pixel_shift=2"]
    config, _ = configure(parse(given, TrainConfig))
    assert (config.learner.update_to_data, config.world_model.pixel_shift) == (0.2, 2)
    for learner in ((), ("learner=model_based",)):
        assert run("train", f"resume={path}", "learner.gamma=0.9", *learner) == 2
        assert "learner.gamma is no setting of this learner, 'model_based'" in one_line(capsys)


def test_a_learning_rate_that_is_given_at_a_resume_replaces_the_schedule_s(in_tmp_path: Path, make_checkpoint):
    config = to_dict(compose(TrainConfig, parse(["task=Cartpole", "learner.learning_rate=1e-3"], TrainConfig)))
    path = checkpoints.save(make_checkpoint(config=config, learning_rate=4e-4), Path("run"), keep=1, best=False)
    for given, rate in (((), 4e-4), (("learner.learning_rate=1e-3",), 1e-3), (("learner.learning_rate=2e-3",), 2e-3)):
        _, start = configure(parse([f"resume={path}", *given], TrainConfig))
        assert start is not None and start.learning_rate == rate


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("script", ["train", "play", "evaluate"])
def test_cuda_without_cuda(script: str, in_tmp_path: Path, capsys: pytest.CaptureFixture):
    policy = "policy=mlp" if script == "train" else "policy=zero"
    assert run(script, "task=Cartpole", policy, "device=cuda:0") == 2
    assert "device is cuda:0, but torch sees 0 CUDA devices; allowed here: auto, cpu" in one_line(capsys)


@pytest.mark.parametrize("script", ["play", "evaluate"])
def test_bad_rollout_is_one_line(script: str, run_dir: Path, capsys: pytest.CaptureFixture):
    for arguments, message in {
        "task=Cartpole": "finds no run of task Cartpole with policy trajopt",
        "task=Nothing policy=zero": "Unknown task 'Nothing'",
        "policy=zero": "task is missing",
        "checkpoint=none.pt": "checkpoint is none.pt, which does not exist",
        "task=Reach checkpoint=runs/Cartpole/mlp/first": "task is Reach, but",
        "task=Cartpole policy=best": "policy is 'best'; allowed: trajopt, mlp, diffusion, ibc, random, zero, expert",
        "task=Cartpole num_envs=0": "num_envs is 0",
        "resume=latest": "unknown key 'resume'",
    }.items():
        assert run(script, *arguments.split()) == 2
        assert message in one_line(capsys)


@pytest.mark.parametrize("script", ["evaluate", "collect_demos"])
def test_a_directory_for_a_result_is_refused_before_it_is_there(
    script: str, in_tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert run(script, "task=Cartpole", "policy=random", f"output={in_tmp_path}") == 2
    assert f"output is {in_tmp_path}, a directory; allowed: a file" in one_line(capsys)


def test_bad_list_and_plot_are_one_line(run_dir: Path, capsys: pytest.CaptureFixture):
    for script, arguments, message in (
        ("list_tasks", "filter=nowhere", "fits none of"),
        ("plot", "runs=nowhere/*", "no directory has the file metrics.csv"),
        ("plot", "", "runs is missing"),
    ):
        assert run(script, *arguments.split()) == 2
        assert message in one_line(capsys)


def test_list_tasks(capsys: pytest.CaptureFixture):
    assert run("list_tasks") == 0
    text = capsys.readouterr().out
    assert "Lift" in text and "DiffTori-Lift-Franka" in text and "Isaac-Ant-Direct" in text


def interrupt(overrides):
    signal.raise_signal(signal.SIGINT)


def terminate(overrides):
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def sigint_interrupts() -> Iterator[None]:
    """As in a process that a user starts; one that runs tests beside others may not listen to it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_signals_before_anything_can_be_saved(sigint_interrupts, capsys: pytest.CaptureFixture):
    for action, word in ((interrupt, "interrupted"), (terminate, "terminated")):
        names = {"schema": f"{RunConfig.__module__}:{RunConfig.__name__}", "run": f"{__name__}:{action.__name__}"}
        command = Command(name="x.py", summary="", **names)
        sys.modules.setdefault(__name__, sys.modules[action.__module__])
        assert command([]) == 130
        assert capsys.readouterr().err == f"{word}: nothing more was saved\n"


def test_a_signal_while_torch_is_imported(sigint_interrupts, in_tmp_path: Path):
    (in_tmp_path / "torch.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    for script in ("train", "benchmark"):
        path = ROOT / "scripts" / f"{script}.py"
        done = subprocess.run(
            [sys.executable, path, "--help"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{in_tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        )
        assert (done.returncode, done.stderr) == (130, "interrupted: nothing more was saved\n"), script


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="num_envs is 0"):
        run("train", "task=Cartpole", "num_envs=0")
