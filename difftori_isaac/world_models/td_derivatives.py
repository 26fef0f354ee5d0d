"""Derivatives of the residuals of a temporal-difference world model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from difftori_isaac.trajopt.problem import Along, Derivatives, WeightGradients
from difftori_isaac.world_models.mlp import LinearizedMLP, step_derivatives


def reward_derivatives(network: nn.Sequential, z: torch.Tensor, a: torch.Tensor, scale: torch.Tensor) -> Derivatives:
    """Derivatives of ``scale network(z, a)``, by states and actions."""
    net = step_derivatives(network, z, a, residual=False)

    def along(grads: WeightGradients, *tangents: torch.Tensor) -> Along:
        assert net.along is not None
        tangent, pull = net.along(grads, *tangents)
        return Along(scale * tangent, lambda rows: pull(scale * rows))

    return Derivatives(
        scale * net.value, lambda rows: scale * net.push(rows), lambda rows: net.pull(scale * rows), along
    )


def value_derivatives(
    prior: nn.Sequential,
    critics: tuple[nn.Sequential, nn.Sequential],
    z: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    scale: torch.Tensor,
) -> Derivatives:
    """Derivatives of two critics side by side at the prior's action, times ``scale``, by states.

    ``bounds`` are the middle and the reach of actions, (action_dim,).
    """
    prior_at, (middle, reach), action_dim = LinearizedMLP(prior, z), bounds, len(bounds[0])
    squashed = prior_at.value[..., :action_dim].tanh()
    slope = reach * (1.0 - squashed.square())
    x = torch.cat((z, torch.addcmul(middle, reach, squashed)), dim=-1)
    first, second = (LinearizedMLP(critic, x) for critic in critics)
    num_unused = prior_at.value.shape[-1] - action_dim

    def push(z_rows: torch.Tensor) -> torch.Tensor:
        rows = scale * torch.cat((z_rows, slope * prior_at.push(z_rows)[..., :action_dim]), dim=-1)
        return torch.cat((first.push(rows), second.push(rows)), dim=-1)

    def pull(rows: torch.Tensor) -> tuple[torch.Tensor]:
        of_first, of_second = (scale * rows).chunk(2, dim=-1)
        x_rows = first.pull(of_first) + second.pull(of_second)
        z_rows, a_rows = x_rows.tensor_split((-action_dim,), dim=-1)
        return (z_rows + prior_at.pull(pad(slope * a_rows, (0, num_unused))),)

    def along(grads: WeightGradients, z_tangent: torch.Tensor) -> Along:
        of_prior = prior_at.along(grads, z_tangent)
        before = of_prior.tangent[..., :action_dim]
        x_tangent = torch.cat((z_tangent, slope * before), dim=-1)
        of_first, of_second = first.along(grads, x_tangent), second.along(grads, x_tangent)

        def pull_both(rows: torch.Tensor) -> torch.Tensor:
            first_rows, second_rows = (scale * rows).chunk(2, dim=-1)
            x_rows = of_first.pull(first_rows) + of_second.pull(second_rows)
            z_rows, (value_row, tangent_row) = x_rows.tensor_split((-action_dim,), dim=-1)
            bend = -2.0 * squashed * before * tangent_row
            prior_rows = slope * torch.stack((value_row + bend, tangent_row))
            return z_rows + of_prior.pull(pad(prior_rows, (0, num_unused)))

        return Along(scale * torch.cat((of_first.tangent, of_second.tangent), dim=-1), pull_both)

    return Derivatives(scale * torch.cat((first.value, second.value), dim=-1), push, pull, along)
