"""A small nonlinear model with every kind of parameter a plan can depend on."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class TanhModel(nn.Module):
    """Smooth nonlinear dynamics and residuals."""

    def __init__(self, state_dim: int = 4, action_dim: int = 2, num_residuals: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.dynamics = nn.Linear(state_dim + action_dim, state_dim)
        self.stage = nn.Linear(state_dim + action_dim, num_residuals)
        self.terminal = nn.Linear(state_dim, num_residuals)
        self.scale = scale

    def next(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return z + 0.5 * torch.tanh(self.dynamics(torch.cat((z, a), dim=-1)))

    def stage_residual(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.tanh(self.stage(torch.cat((z, a), dim=-1)))

    def terminal_residual(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * self.terminal(z)

    def reward(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return self.stage_residual(z, a).sum(dim=-1)

    def terminal_value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.terminal_residual(z)).amin(dim=-1)


@pytest.fixture(scope="session")
def make_problem():
    """Build ``(model, z0, prior)`` of the given sizes, reproducibly."""

    def make(num_envs=5, horizon=3, action_dim=2, seed=0, scale=1.0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = TanhModel(action_dim=action_dim, scale=scale).to(dtype)
        z0 = torch.randn(num_envs, 4, generator=generator, dtype=torch.float64).to(dtype)
        prior = torch.randn(num_envs, horizon, action_dim, generator=generator, dtype=torch.float64).to(dtype)
        return model, z0, 0.5 * prior

    return make
