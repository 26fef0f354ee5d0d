"""Nothing in a solve waits for the device: one that does cannot be captured in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.trajopt.layer import TrajOptLayer
from difftori_isaac.world_models.config import WorldModelConfig
from difftori_isaac.world_models.latent import LatentWorldModel
from difftori_isaac.world_models.prior import prior_plan

SETTINGS = {
    "default": {},
    "bounded": {"action_low": -0.2, "action_high": [0.3, None]},
    "action rate": {"action_rate_weight": 0.5},
    "stale Hessian": {"hessian_every": 3},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_solve_reads_no_value_from_the_device(settings):
    """Fake CUDA tensors have shapes but no values: any read raises."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = LatentWorldModel(obs_dim=12, action_dim=2, config=WorldModelConfig())
        z0 = model.encode(torch.randn(8, 12))
        solution = TrajOptLayer(TrajOptConfig(horizon=3, **settings))(model, z0, prior_plan(model, z0, 3))
    assert all(tensor.device.type == "cuda" and tensor.shape[0] == 8 for tensor in solution)


def test_the_guard_sees_a_read():
    with FakeTensorMode(), torch.device("cuda"), pytest.raises(DataDependentOutputException):
        bool(torch.zeros(3).any())
