"""Which observation groups a policy sees."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import TensorDict

from difftori_isaac.learners.config import OBS_SETS

UNLESS_ASKED = ("policy", "pixels", "point_cloud")
"""Groups that are seen unless asked otherwise, as far as there are such."""


def observed_groups(obs: TensorDict, obs_groups: Mapping[str, list[str]] | None) -> list[str]:
    """Groups of the set ``actor``, or :data:`UNLESS_ASKED`.

    Raises:
        ValueError: If one is not among the observations or comes twice, ``actor`` is empty, or there is a set that is
            neither this nor PPO's ``critic``.
    """
    _check_names(obs_groups, "actor")
    groups = (obs_groups or {}).get("actor", [name for name in UNLESS_ASKED if name in obs])
    _check(obs, "actor", groups)
    return groups


def check_sets(obs: TensorDict, obs_groups: Mapping[str, list[str]] | None) -> None:
    """Check the sets of PPO, of which rsl_rl fills in ``actor`` and ``critic``: by a group of that name or ``policy``.

    Raises:
        ValueError: If a group is not among the observations or comes twice, a set is empty, or there is another set.
    """
    _check_names(obs_groups, ", ".join(OBS_SETS))
    filled = {name: [group for group in (name, "policy") if group in obs][:1] for name in OBS_SETS}
    for name, groups in (filled | dict(obs_groups or {})).items():
        _check(obs, name, groups)


def _check_names(obs_groups: Mapping[str, list[str]] | None, allowed: str) -> None:
    if unknown := [name for name in obs_groups or {} if name not in OBS_SETS]:
        raise ValueError(f"learner.obs_groups has the set {unknown[0]!r}; allowed with this learner: {allowed}")


def _check(obs: TensorDict, obs_set: str, groups: list[str]) -> None:
    there = ", ".join(map(str, obs.keys()))
    if not groups:
        raise ValueError(f"learner.obs_groups leaves {obs_set} no group; allowed: {there}")
    if missing := [name for name in groups if name not in obs]:
        raise ValueError(f"learner.obs_groups has {missing[0]!r}; allowed: {there}")
    if twice := [name for name in groups if groups.count(name) > 1]:
        raise ValueError(f"learner.obs_groups has {twice[0]!r} twice in {obs_set}; allowed: each group once")
