"""How well a world model predicts a rollout before the model losses are taken on it."""

from __future__ import annotations

import torch

from difftori_isaac.world_models.latent import LatentWorldModel

NOTHING = 1e-12
"""Largest share of a sum of squares that is taken for rounding."""


@torch.no_grad()
def model_fit(
    model: LatentWorldModel,
    zs: torch.Tensor,
    actions: torch.Tensor,
    rewards: torch.Tensor,
    returns: torch.Tensor,
    dones: torch.Tensor,
) -> dict[str, float]:
    """Errors of one-step predictions, each as a share of what there was to predict.

    0 is perfect, 1 no better than a constant: for the dynamics that nothing moves, ``Σ‖next(z, a) − z'‖² / Σ‖z' − z‖²``
    over the steps that do not end an episode; for reward and value the mean, ``Var(error) / Var(target)``. Where there
    was nothing to predict, as with a reward that is the same everywhere, the error is left out.

    Args:
        model: The model.
        zs: Latent states of a rollout of T steps, shape (T + 1, num_envs, latent_dim).
        actions: Shape (T, num_envs, action_dim).
        rewards: Shape (T, num_envs).
        returns: λ-returns, shape (T, num_envs).
        dones: 1 where an episode ended with the step, shape (T, num_envs).
    """
    z, next_z, continued = zs[:-1], zs[1:], (dones == 0).unsqueeze(-1)
    error = ((model.next(z, actions) - next_z) * continued).square().sum()
    change = ((next_z - z) * continued).square().sum()
    reward, value = rewards / model.return_std, returns / model.return_std
    parts = {
        "dynamics": (error, change, (next_z * continued).square().sum()),
        "reward": ((model.reward(z, actions) - reward).var(), reward.var(), reward.square().mean()),
        "value": ((model.terminal_value(z) - value).var(), value.var(), value.square().mean()),
    }
    return {
        f"model_{name}_error": (part / whole).item()
        for name, (part, whole, size) in parts.items()
        if not whole <= NOTHING * size
    }
