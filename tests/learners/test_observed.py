"""What policies see."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.learners.observed import check_sets, observed_groups

OBS = TensorDict({name: torch.zeros(1, 2) for name in ("critic", "expert", "point_cloud", "policy")}, [1])


def test_what_is_asked_for_is_seen_and_otherwise_what_there_is():
    assert observed_groups(OBS, None) == ["policy", "point_cloud"] == observed_groups(OBS, {"critic": ["critic"]})
    assert observed_groups(OBS.exclude("policy"), {}) == ["point_cloud"]
    assert observed_groups(OBS, {"actor": ["critic"]}) == ["critic"]
    with pytest.raises(ValueError, match=r"learner.obs_groups has 'camera'; allowed: critic, expert, point_cloud, pol"):
        observed_groups(OBS, {"actor": ["camera"]})
    with pytest.raises(ValueError, match=r"learner.obs_groups has the set 'actr'; allowed with this learner: actor$"):
        observed_groups(OBS, {"actr": ["policy"]})
    with pytest.raises(ValueError, match=r"learner.obs_groups has 'policy' twice in actor; allowed: each group once"):
        observed_groups(OBS, {"actor": ["policy", "critic", "policy"]})
    for obs, asked in ((OBS, {"actor": []}), (OBS.select("critic", "expert"), None)):
        with pytest.raises(ValueError, match=r"learner.obs_groups leaves actor no group; allowed: critic, expert"):
            observed_groups(obs, asked)


def test_groups_of_ppo_are_named_where_they_cannot_be():
    check_sets(OBS, None)
    check_sets(OBS.select("critic", "expert"), {"actor": ["expert"]})
    both = {"actor": ["policy"], "critic": ["policy"]}
    for there, asked, message in (
        ("point_cloud", None, "leaves actor no group; allowed: point_cloud"),
        ("point_cloud", both, "has 'policy'; allowed: point_cloud"),
        ("policy", both | {"critic": []}, "leaves critic no group; allowed: policy"),
        ("policy", {"actr": ["policy"]}, "has the set 'actr'; allowed with this learner: actor, critic"),
        ("policy", both | {"critic": ["policy"] * 2}, "has 'policy' twice in critic; allowed: each group once"),
    ):
        with pytest.raises(ValueError, match=f"learner.obs_groups {message}"):
            check_sets(OBS.select(there), asked)
