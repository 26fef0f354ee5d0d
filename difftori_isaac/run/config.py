"""What a run is made of: typed, validated once at the start, immutable afterwards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, TypeAdapter, ValidationError, with_config

from difftori_isaac.learners.config import PPOConfig
from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.learners.model_based_config import ModelBasedConfig
from difftori_isaac.run.errors import ConfigError, unknown_key
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.chunk_config import ChunkModelConfig
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.td_config import TdWorldModelConfig

PYDANTIC = ConfigDict(
    extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, use_attribute_docstrings=True, str_min_length=1
)

VARIANTS: dict[str, tuple[type, ...]] = {
    "learner": (PPOConfig, ModelBasedConfig, ImitationConfig),
    "world_model": (WorldModelConfig, TdWorldModelConfig, ChunkModelConfig),
}
"""Sections that have several forms, told apart by their ``name``; the first one is the default."""

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".mpeg", ".wmv")
"""Formats of a video, by the suffix of its file."""

_VARIANT_NAMES = tuple(f"{section}.name" for section in VARIANTS)

ALLOWED = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list, for example [64,64]",
    "list": "a list for each set, for example {{actor:[policy]}}",
    "dict": "a list for each set, for example {{actor:[policy]}}",
    "dataclass": "keys of its own, written {key}.<name>=<value>",
}
"""What pydantic's error types, by their first word, allow."""


def _at_least(config: object, low: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < low:
            raise ConfigError(f"{name} is {value}; allowed: an integer of at least {low}")


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Where Weights & Biases logs, when ``logger=wandb``."""

    mode: Literal["online", "offline", "disabled"] = "online"
    """Send the log at once, keep it in the run directory for ``wandb sync``, or not at all."""
    project: str = "difftori_isaac"
    """Project of the run."""
    entity: str | None = None
    """User or team; null is your own."""
    name: str | None = None
    """Name of the run; null is the run directory's."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every script that builds an environment and a policy needs.

    Raises:
        ConfigError: If a value is outside its range; the message names the value and what is allowed.
    """

    task: str
    """Alias such as Lift, any registered Isaac Lab id, domain-task of the DeepMind Control suite such as walker-walk,
    or a task of MetaWorld such as reach-v3; `scripts/list_tasks.py` lists them."""
    policy: Literal["trajopt", "mlp", "diffusion", "ibc"] = "trajopt"
    """Trajectory-optimizer policy, or a baseline: an MLP and, with learner=imitation, a diffusion or an energy-based
    policy (implicit behaviour cloning)."""
    num_envs: int | None = None
    """Parallel environments; null is the task's own number on CUDA (often 4096) and 512 on CPU, and 8 for a task of the
    DeepMind Control suite or of MetaWorld."""
    seed: int = 0
    """Seed of torch, numpy, python and the environment."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, or cuda:N."""
    run_dir: str | None = None
    """Directory of the run; null is a new runs/<task>/<policy>/<time>_seed<seed>, or the newest one to read from."""
    trajopt: TrajOptConfig = field(default_factory=lambda: TrajOptConfig(hessian_every=4))
    """Trajectory optimizer of ``policy=trajopt``."""
    world_model: Annotated[WorldModelConfig | TdWorldModelConfig | ChunkModelConfig, Discriminator("name")] = field(
        default_factory=WorldModelConfig
    )
    """World model of ``policy=trajopt``, and with learner=imitation the networks of every policy."""
    learner: Annotated[PPOConfig | ModelBasedConfig | ImitationConfig, Discriminator("name")] = field(
        default_factory=PPOConfig
    )
    """How the policy learns; what is null in PPO is taken from the task's own rsl_rl settings."""
    env_overrides: tuple[str, ...] = ()
    """Settings of the environment, Isaac Lab's own or, for the DeepMind Control suite, action_repeat, pixels, shadows,
    num_workers and episode_steps, for MetaWorld pixels, num_points and the last two; given as env.<key>=<value>, and
    for Isaac Lab physics=, renderer= and presets=."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_envs")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; allowed: an integer from 0 to {2**32 - 1}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; allowed: auto, cpu, cuda:N")


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """What `scripts/train.py` takes."""

    max_iterations: int | None = None
    """Iterations in total, also after a resume; null is the number in the task's rsl_rl settings, and those of
    learner.total_env_steps with learner=model_based, of learner.total_updates, the most, with learner=imitation."""
    resume: str | None = None
    """latest, best, a checkpoint file or a run directory to continue; null starts a new run."""
    distributed: bool = False
    """Whether torchrun started several processes that train one policy; num_envs and batch sizes are per process."""
    save_interval: int = 25
    """Iterations between two checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept, beside the best one."""
    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where curves go, beside metrics.csv."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "max_iterations", "save_interval", "keep_checkpoints")


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class RolloutConfig(RunConfig):
    """What scripts that only act take: a policy from a checkpoint, or one that needs none."""

    policy: Literal["trajopt", "mlp", "diffusion", "ibc", "random", "zero", "expert"] = "trajopt"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Policy of the checkpoint; random, zero and, where the task has one, its scripted expert need no checkpoint."""
    checkpoint: str = "latest"
    """latest, best, a checkpoint file or a run directory."""


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class PlayConfig(RolloutConfig):
    """What `scripts/play.py` takes."""

    num_envs: int | None = None
    """Parallel environments; null is 16."""
    num_steps: int | None = None
    """Steps to play; null is one full episode, and with a viewer until Ctrl-C."""
    viewer: Literal["viser"] | None = None
    """Where to watch, in real time unless that is too fast: viser is a page for the browser; null is nowhere."""
    viewer_port: int = 8080
    """Port of the page, at localhost; the next free one if another program has it."""
    video: bool = False
    """Whether to write an mp4."""
    video_path: str | None = None
    """File of the video; null is videos/<time>.mp4 in the run directory, or here if there is none."""
    plan: bool | None = None
    """Whether video and viewer show where the plan leads; null is yes where the policy plans and the task says how."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "num_steps")
        if self.video_path is not None and Path(self.video_path).suffix.lower() not in VIDEO_SUFFIXES:
            raise ConfigError(f"video_path is {self.video_path}; allowed: a file ending in {', '.join(VIDEO_SUFFIXES)}")
        if not 1 <= self.viewer_port < 2**16:
            raise ConfigError(f"viewer_port is {self.viewer_port}; allowed: an integer from 1 to {2**16 - 1}")
        if self.viewer and self.video:
            raise ConfigError(f"viewer is {self.viewer} with video=true; allowed: one of them")
        if self.plan and not ((self.video or self.viewer) and self.policy == "trajopt"):
            raise ConfigError(
                f"plan is true with video={str(self.video).lower()}, viewer={self.viewer} and policy={self.policy}; "
                "allowed: with policy=trajopt, and video=true or viewer=viser"
            )


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RolloutConfig):
    """What `scripts/evaluate.py` takes."""

    checkpoint: str = "latest"
    """latest, best, a checkpoint file or a run directory; all is every numbered checkpoint of the run, to eval.csv."""
    num_envs: int | None = None
    """Parallel environments; null is one per episode, at most the default of training."""
    num_episodes: int = 100
    """Episodes to evaluate; each environment contributes the same number, up to one."""
    output: str | None = None
    """File of the result; null is eval.json in the run directory, or here if there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "num_episodes")


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class CollectConfig(RolloutConfig):
    """What `scripts/collect_demos.py` takes."""

    num_envs: int | None = None
    """Parallel environments; null is one per demonstration, at most the default of training."""
    seed: int = 0
    """Seed; episodes begin elsewhere than those of the same seed in training and evaluation."""
    num_demos: int = 50
    """Demonstrations, episodes of the policy, to write; each environment contributes the same number, up to one."""
    min_return: float | None = None
    """Return from which on an episode is a demonstration; null is any."""
    max_episodes: int | None = None
    """Episodes after which to give up where ``min_return`` asks for too much; null is ten per demonstration."""
    action_noise: float = 0.0
    """Standard deviation of noise on the actions that are executed, which the demonstrations do not hold: so they show
    how to get back from where a policy that learns from them will stray (DART, arXiv 1703.09327)."""
    output: str | None = None
    """File of the demonstrations; null is demos.hdf5 in the run directory, or here if there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "num_demos", "max_episodes")
        if not 0.0 <= self.action_noise < math.inf:
            raise ConfigError(f"action_noise is {self.action_noise}; allowed: a finite number of at least 0")


@with_config(PYDANTIC)
@dataclass(frozen=True, kw_only=True)
class ExportConfig(RolloutConfig):
    """What `scripts/export.py` takes."""

    policy: Literal["trajopt", "mlp", "diffusion", "ibc"] = "trajopt"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Policy of the checkpoint; those of learner=ppo, trajopt and mlp, can be exported."""
    device: Literal["cpu"] = "cpu"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Device that TorchScript and torch.export files run on; ONNX files run on any."""
    format: Literal["torchscript", "onnx", "torch_export", "all"] = "torchscript"
    """What to write: policy.pt, policy.onnx, policy.pt2, or all three."""
    output: str | None = None
    """Directory of the files; null is exported/ in the run directory, or here if there is none."""


@cache
def leaf_keys(schema: type, *variants: str) -> dict[str, str]:
    """Dotted key of every setting of ``schema``, with its description and, where they are few, its allowed values.

    Args:
        schema: A configuration class.
        variants: Names of the forms whose keys are wanted, where a section has several; without any, all.
    """

    def described(item: dict[str, Any]) -> str:
        choices = [str(value) for part in _alternatives(item) for value in part.get("enum", [])]
        return (item["description"] + (f" [{'|'.join(choices)}]" if choices else "")).strip()

    return {key: described(item) for key, item in _leaves(schema, variants).items()}


@cache
def text_keys(schema: type) -> frozenset[str]:
    """Dotted keys of the settings whose values are texts, or lists of them."""

    def is_text(item: dict[str, Any]) -> bool:
        types = {part.get("type") for part in _alternatives(item)}
        return "string" in types and types <= {"string", "array", "null", None}

    return frozenset(key for key, item in _leaves(schema, ()).items() if is_text(item))


def _alternatives(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A setting's JSON schema, and those of the alternatives that it has."""
    return [item, *item.get("anyOf", [])]


@cache
def _leaves(schema: type, variants: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """JSON schemas of the settings, with their descriptions, by their keys."""

    def walk(node: dict[str, Any], definitions: dict[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, item in node["properties"].items():
            forms = item.get("discriminator", {}).get("mapping", {"": item.get("$ref")})
            references = [ref for form, ref in forms.items() if not (form and variants) or form in variants]
            for reference in filter(None, references):
                found |= walk(definitions[reference.rsplit("/", 1)[-1]], definitions, f"{prefix}{name}.")
            if not any(references) and f"{prefix}{name}" not in _VARIANT_NAMES:
                found[prefix + name] = item
        return found

    keys: dict[str, dict[str, Any]] = {}
    for base in reversed(schema.__mro__[:-1]):  # pydantic reads the docstrings of a class's own fields only
        root = TypeAdapter(base).json_schema()
        for key, item in walk(root, root.get("$defs", {}), "").items():
            keys[key] = {"description": keys.get(key, {}).get("description", "")} | item
    return keys


def variants_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the forms that the sections of a configuration have."""
    return tuple(values[section]["name"] for section in VARIANTS if section in values)


def saved_variant(values: Mapping[str, Any], section: str) -> str:
    """Form of a section of saved values; one that does not name it is of the first form."""
    return values.get(section, {}).get("name", VARIANTS[section][0]().name)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of a configuration: no tuples, so that it survives YAML and weights-only loading."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(asdict(config))


def shared_keys(saved: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """The part of a saved configuration that ``schema`` has a key for."""
    names = {item.name for item in fields(schema)}
    return {key: value for key, value in saved.items() if key in names}


def validate[C](schema: type[C], values: Mapping[str, Any]) -> C:
    """Turns plain values into a configuration.

    Raises:
        ConfigError: One line that names the key, the value and what is allowed.
    """

    def mark(value: Any) -> Any:  # pydantic would read a boolean as the integers 0 and 1
        if isinstance(value, Mapping):
            return {key: mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [mark(item) for item in value]
        return str(value).lower() if isinstance(value, bool) else value

    try:
        return TypeAdapter(schema).validate_python(mark(values))
    except ValidationError as error:
        errors = [(_key_of(item["loc"], schema), item) for item in error.errors()]
    key, first = errors[0]
    kind = first["type"]
    context = first.get("ctx", {})
    if kind == "value_error":
        raise ConfigError(str(context["error"])) from None
    if kind == "missing":
        raise ConfigError(f"{key} is missing; give {key}=<value>")
    if kind == "unexpected_keyword_argument":
        section = key.partition(".")[0]
        if section in VARIANTS and key in leaf_keys(schema):
            raise ConfigError(f"{key} is no setting of this {section}, {values[section]['name']!r}; --help lists them")
        raise ConfigError(unknown_key(key, leaf_keys(schema, *variants_of(values))))
    if kind == "literal_error":
        allowed = context["expected"].replace(" or ", ", ").replace("'", "")
    elif kind == "string_too_short":
        allowed = "a text that is not empty"
    else:
        each = [
            ALLOWED.get(item["type"].split("_")[0], item["msg"]).format(key=key) for at, item in errors if at == key
        ]
        allowed = ", or ".join(dict.fromkeys(each))
    whole = reduce(lambda node, name: node.get(name) if isinstance(node, Mapping) else None, key.split("."), values)
    given = whole if isinstance(whole, Mapping) else first["input"]
    raise ConfigError(f"{key} is {'null' if given is None else repr(given)}; allowed: {allowed}")


def _key_of(location: tuple[int | str, ...], schema: type) -> str:
    """The setting in which pydantic found an error, without the place in its list or in its alternatives."""
    parts, leaves = [str(part) for part in location], leaf_keys(schema)
    if parts and parts[0] in VARIANTS:
        del parts[1:2]  # the form
    prefixes = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return next((prefix for prefix in prefixes if prefix in leaves), ".".join(parts))
