"""Which observation groups a policy sees."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import TensorDict

UNLESS_ASKED = ("policy", "pixels", "point_cloud")
"""Groups that are seen unless asked otherwise, as far as there are such."""


def observed_groups(obs: TensorDict, obs_groups: Mapping[str, list[str]] | None) -> list[str]:
    """Groups of the set ``actor``, or :data:`UNLESS_ASKED`.

    Raises:
        ValueError: If one is not among the observations, ``actor`` is empty, or there is a set that is neither this nor
            PPO's ``critic``.
    """
    there = ", ".join(map(str, obs.keys()))
    if unknown := [name for name in obs_groups or {} if name not in ("actor", "critic")]:
        raise ValueError(f"learner.obs_groups has the set {unknown[0]!r}; allowed with this learner: actor")
    groups = (obs_groups or {}).get("actor", [name for name in UNLESS_ASKED if name in obs])
    if not groups:
        raise ValueError(f"learner.obs_groups leaves actor no group; allowed: {there}")
    if missing := [name for name in groups if name not in obs]:
        raise ValueError(f"learner.obs_groups has {missing[0]!r}; allowed: {there}")
    return groups
