"""Exporting: the deterministic policy as a file of its own, checked against the policy and timed beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table
from rsl_rl.modules import EmpiricalNormalization
from tensordict import TensorDict

from difftori_isaac.learners.config import PPOConfig
from difftori_isaac.run import rollout
from difftori_isaac.run.compose import Overrides
from difftori_isaac.run.config import ExportConfig
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.world_models.config import WorldModelConfig

if TYPE_CHECKING:
    from rsl_rl.models import MLPModel

Function = Callable[[torch.Tensor], torch.Tensor]
"""Flat observations, shape (num_envs, obs_dim), to actions, shape (num_envs, num_actions)."""

FILES = {"torchscript": "policy.pt", "torch_export": "policy.pt2", "onnx": "policy.onnx"}
BATCHES = (1, 64, 1024)
NUM_OBS = 256
TOLERANCE = 1e-4
"""Largest difference from the policy, in the units of the action."""
MAX_SHARE = 0.01
"""Share of observations that may differ more: rounding can decide whether a solver's last step is taken."""


def export(overrides: Overrides) -> None:
    """Writes a policy in the formats asked for and prints how they compare to it.

    Raises:
        ConfigError: If what was asked for cannot be.
        RunError: If a file cannot be written, or acts otherwise than the policy.
    """
    config, origin = rollout.configure(ExportConfig, overrides)
    assert origin is not None
    formats = tuple(FILES) if config.format == "all" else (config.format,)
    if "onnx" in formats and find_spec("onnxruntime") is None:
        raise ConfigError(
            f"format is {config.format}, which needs onnxruntime to check the file; allowed: "
            "pip install 'difftori-isaac[export]', or format=torchscript or format=torch_export"
        )
    policy = load_policy(config, origin)
    folder = Path(config.output) if config.output else (origin.run_dir or Path()) / "exported"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        functions = write(policy, folder, formats)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; give output=<directory>") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:  # of the exporters, whose messages are long
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"cannot export this policy with format={config.format} ({reason}); try another format"
        ) from error
    _report(functions, sample(policy, config.seed), folder)


def load_policy(config: ExportConfig, origin: rollout.Origin) -> MLPModel:
    """The policy of a checkpoint, without an environment: its sizes are those of the saved weights.

    Raises:
        ConfigError: If the weights do not fit the configuration, or observations are not flat.
    """
    from difftori_isaac.learners.ppo import build_actor

    learner, world_model, policy = config.learner, config.world_model, config.policy
    if policy == "mlp":
        world_model = WorldModelConfig()  # it has none, whatever the run was given
    if (
        not isinstance(learner, PPOConfig)
        or not isinstance(world_model, WorldModelConfig)
        or policy not in ("trajopt", "mlp")
    ):
        raise ConfigError(f"{origin.path} was trained with learner={learner.name}; allowed: a policy of learner=ppo")
    state = origin.checkpoint.learner["actor_state_dict"]
    if any(name.startswith("encoders.") for name in state):
        raise ConfigError(
            f"the policy of {origin.path} observes images or point clouds; allowed: flat observation groups"
        )
    first = next(value for name, value in state.items() if name.startswith("mlp.") and value.ndim == 2)
    obs = TensorDict({"policy": torch.zeros(1, first.shape[1])}, batch_size=[1])
    try:
        actor = build_actor(
            obs,
            {"actor": ["policy"]},
            len(state["distribution.std_param"]),
            policy=policy,
            trajopt=config.trajopt,
            world_model=world_model,
            learner=learner,
        )
        actor.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint {origin.path} does not fit this configuration ({reason})") from None
    return actor.eval()


def write(policy: MLPModel, folder: Path, formats: tuple[str, ...]) -> dict[str, Function]:
    """Writes the files and reads them back; the policy itself comes first.

    Raises:
        ValueError: If the policy cannot be exported.
    """
    functions: dict[str, Function] = {
        "policy": lambda obs: policy(TensorDict({"policy": obs}, batch_size=[len(obs)])),
    }
    if "torchscript" in formats:
        path = folder / FILES["torchscript"]
        torch.jit.script(policy.as_jit()).save(path)
        functions["torchscript"] = torch.jit.load(path)
    if formats == ("torchscript",):
        return functions
    obs, num_envs = torch.zeros(2, policy.obs_dim), torch.export.Dim("num_envs")
    with torch.no_grad():
        program = torch.export.export(policy.as_onnx(verbose=False), (obs,), dynamic_shapes=({0: num_envs},))
    if "torch_export" in formats:
        path = folder / FILES["torch_export"]
        torch.export.save(program, path)
        functions["torch_export"] = torch.export.load(path).module()
    if "onnx" in formats:
        path = folder / FILES["onnx"]
        torch.onnx.export(
            program, f=path, input_names=["obs"], output_names=["actions"], external_data=False, verbose=False
        )
        functions["onnx"] = _onnx(path)
    return functions


def sample(policy: MLPModel, seed: int) -> torch.Tensor:
    """Observations distributed as those that the policy has normalised, or standard normal, (NUM_OBS, obs_dim)."""
    obs = torch.randn(NUM_OBS, policy.obs_dim, generator=torch.Generator().manual_seed(seed))
    normalizer = policy.obs_normalizer
    return obs * normalizer.std + normalizer.mean if isinstance(normalizer, EmpiricalNormalization) else obs


@torch.inference_mode()
def difference(function: Function, policy: Function, obs: torch.Tensor) -> torch.Tensor:
    """Largest difference of an action component for each observation, shape (num_obs,)."""
    return (function(obs) - policy(obs)).abs().amax(dim=1)


@torch.inference_mode()
def latency(function: Function, obs: torch.Tensor, repeats: int = 20) -> float:
    """Median wall-clock time of a call [s]."""
    times = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        function(obs)
        times.append(time.perf_counter() - start)
    return median(times[3:])


def _onnx(path: Path) -> Function:
    from onnxruntime import InferenceSession, SessionOptions  # pyright: ignore[reportAttributeAccessIssue]

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own have no other class in common
        path.unlink()
        raise RuntimeError(f"onnxruntime: {error}") from error
    return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])


def _report(functions: dict[str, Function], obs: torch.Tensor, folder: Path) -> None:
    table = Table(title=f"latency \\[ms], {torch.get_num_threads()} CPU threads")
    for column in ("", *(f"batch {size}" for size in BATCHES), "max difference"):
        table.add_column(column, justify="right" if column else "left")
    policy, wrong = functions["policy"], []
    for name, function in functions.items():
        gaps = difference(function, policy, obs)
        if not (gaps > TOLERANCE).float().mean() <= MAX_SHARE or not gaps.isfinite().all():
            wrong.append(name)
        times = [latency(function, obs.repeat(-(-size // len(obs)), 1)[:size]) for size in BATCHES]
        gap = "" if name == "policy" else f"{gaps.max():.1e}"
        table.add_row(name, *(f"{1e3 * seconds:.3g}" for seconds in times), gap)
    console = Console(highlight=False)
    console.print(table)
    if wrong:
        raise RunError(
            f"{', '.join(wrong)}: more than {MAX_SHARE:.0%} of {len(obs)} actions differ from the policy's by more "
            f"than {TOLERANCE}; do not use the files in {folder}"
        )
    for name in functions:
        if name != "policy":
            console.print(f"written to {folder / FILES[name]}", markup=False, soft_wrap=True)
