"""A trained policy that the plans of ``policy=trajopt`` start from, with ``learner=imitation``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from difftori_isaac.learners.imitation_config import ImitationConfig
from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run import locate
from difftori_isaac.run.checkpoint import Checkpoint
from difftori_isaac.run.config import RunConfig, saved_variant
from difftori_isaac.run.errors import ConfigError

if TYPE_CHECKING:
    from difftori_isaac.learners.imitation import Imitation
    from difftori_isaac.learners.learner import Learner

BASES = {"regression": "mlp", "diffusion": "diffusion"}
"""Values of ``world_model.base``, and of the ``policy`` that has such chunks."""

LEARNED_FROM = ("dataset", "num_demos", "validation_share")
"""Settings that decide which demonstrations are learned from."""


def read_base(config: RunConfig) -> Checkpoint | None:
    """Checkpoint of the policy that ``learner.base_checkpoint`` names, if it names one.

    Raises:
        ConfigError: If there is no such checkpoint, or plans of this configuration cannot start from it; or if none is
            named and nothing else would train what they start from.
    """
    learner, base = config.learner, getattr(config.world_model, "base", None)
    if not isinstance(learner, ImitationConfig):
        return None
    if learner.base_checkpoint is None:
        if learner.base_coef == 0.0 and config.policy == "trajopt" and base in BASES:
            raise ConfigError(
                f"learner.base_coef is 0, so that world_model.base={base} would stay untrained; "
                "allowed: above 0, learner.base_checkpoint=<run>, or world_model.base=zero"
            )
        return None
    if config.policy != "trajopt":
        raise ConfigError(f"policy is {config.policy!r}; allowed with learner.base_checkpoint: policy=trajopt")
    path = locate.find_checkpoint(
        learner.base_checkpoint,
        run_dir=None,
        task=config.task,
        policy=BASES.get(base or "", ""),
        key="learner.base_checkpoint",
    )
    saved = checkpoints.load(path)
    policy, learned_by = saved.config["policy"], saved_variant(saved.config, "learner")
    if learned_by != "imitation" or policy not in BASES.values():
        raise ConfigError(
            f"learner.base_checkpoint is {path}, of learner={learned_by} policy={policy}; "
            f"allowed: of learner=imitation policy={' or '.join(BASES.values())}"
        )
    if policy != BASES.get(base or ""):
        fitting = next(name for name, of in BASES.items() if of == policy)
        raise ConfigError(
            f"world_model.base is {base!r}, but {path} is of policy={policy}; allowed: world_model.base={fitting}"
        )
    return saved


def start_from_base(alg: Learner, config: RunConfig) -> None:
    """Lets plans start from the policy that ``learner.base_checkpoint`` names, if it names one.

    Raises:
        ConfigError: See :func:`read_base`; or if its networks have other shapes.
    """
    if (saved := read_base(config)) is None:
        return
    note_held_back(saved.config, config)
    try:
        cast("Imitation", alg).start_from(saved.learner["policy_state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"learner.base_checkpoint is {cast('ImitationConfig', config.learner).base_checkpoint}, which does not fit "
            f"({reason}); allowed: the observations, trajopt.horizon and world_model settings that it was trained with"
        ) from None


def note_held_back(saved: Mapping[str, Any], config: RunConfig) -> None:
    """Says where a policy that was trained with ``saved`` may have learned from what is held back from now on."""
    learner = config.learner
    if not isinstance(learner, ImitationConfig) or not learner.validation_share:
        return
    before = {name: saved["learner"].get(name) for name in LEARNED_FROM}
    if others := [f"learner.{name}={value}" for name, value in before.items() if value != getattr(learner, name)]:
        print(
            f"note: the checkpoint was trained with {' '.join(others)}: where it has learned from what is held back "
            "now, validation_error is too small"
        )
