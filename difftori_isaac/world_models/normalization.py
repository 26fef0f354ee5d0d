"""Normalisations of a layer's components and their derivatives in closed form, which are symmetric but for a weight."""

from __future__ import annotations

import torch
from torch import nn

from difftori_isaac.trajopt.problem import Along, WeightGradients


class SimNorm(nn.Module):
    """Simplicial normalisation: a softmax over each group of components (TD-MPC2, arXiv 2310.16828, equation 5)."""

    def __init__(self, dim: int) -> None:
        """Take the components of a group."""
        super().__init__()
        self.dim = dim

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Normalised latent states, of the shape of ``z``."""
        return z.unflatten(-1, (-1, self.dim)).softmax(dim=-1).flatten(-2)


class LayerNormAt:
    """A layer normalisation ``w x̂ + b`` at some inputs, with ``x̂ = r (x − mean(x))``; rows are of their last shape."""

    def __init__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        """Evaluate it at ``x``, shape (num_envs, dim)."""
        centered = x - x.mean(dim=-1, keepdim=True)
        self._weight, self._bias = weight, bias
        self.scale = (centered.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
        """r, shape (num_envs, 1)."""
        self.normalized = self.scale * centered
        """x̂, shape (num_envs, dim)."""
        self.value = torch.addcmul(bias, self.normalized, weight)
        """Output, shape (num_envs, dim)."""

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """The Jacobian times each of k tangents, shape (k, num_envs, dim)."""
        return self.project(tangents) * self._weight

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """The transposed Jacobian times each of k cotangents, shape (k, num_envs, dim)."""
        return self.project(cotangents * self._weight)

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along:
        """See :class:`~difftori_isaac.trajopt.problem.Derivatives`."""

        def pull(rows: torch.Tensor) -> torch.Tensor:
            grads[self._weight].add_((rows * torch.stack((self.normalized, self.project(tangent)))).sum(dim=(0, 1)))
            grads[self._bias].add_(rows[0].sum(dim=0))
            pulled = self.pull(rows)
            pulled[0] += self.bend(rows[1] * self._weight, tangent)
            return pulled

        return Along(self.push(tangent), pull)

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean of ``x̂ row`` over the components, shape (..., 1)."""
        return (rows * self.normalized).mean(dim=-1, keepdim=True)

    def project(self, rows: torch.Tensor) -> torch.Tensor:
        """The derivative of x̂, which is symmetric, times ``rows``: ``r (row − mean(row) − x̂ mean(x̂ row))``."""
        rest = torch.addcmul(rows - rows.mean(dim=-1, keepdim=True), self.share(rows), self.normalized, value=-1.0)
        return rest * self.scale

    def bend(self, rows: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """Derivative of ``Σ rows project(tangent)`` by the inputs, of one row and tangent, shape (num_envs, dim)."""
        through_normalized = torch.addcmul(self.share(tangent) * rows, self.share(rows), tangent)
        through_scale = (rows * self.project(tangent)).mean(dim=-1, keepdim=True) * self.normalized
        return -self.scale * (self.project(through_normalized) + through_scale)


class SimNormAt:
    """A :class:`SimNorm` at some inputs; its Jacobian is symmetric."""

    def __init__(self, x: torch.Tensor, dim: int) -> None:
        """Evaluate groups of ``dim`` components at ``x``, shape (num_envs, latent_dim)."""
        self._dim = dim
        self._share = self._grouped(x).softmax(dim=-1)
        self.value = self._share.flatten(-2)
        """Output, shape (num_envs, latent_dim)."""

    def push(self, tangents: torch.Tensor) -> torch.Tensor:
        """The Jacobian times each of k tangents, (k, num_envs, latent_dim): ``p (tangent − Σ p tangent)`` in groups."""
        weighted = self._share * self._grouped(tangents)
        return torch.addcmul(weighted, self._share, weighted.sum(dim=-1, keepdim=True), value=-1.0).flatten(-2)

    def pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """The same, as it is symmetric."""
        return self.push(cotangents)

    def along(self, grads: WeightGradients, tangent: torch.Tensor) -> Along:
        """See :class:`~difftori_isaac.trajopt.problem.Derivatives`."""

        def pull(rows: torch.Tensor) -> torch.Tensor:
            pulled = self.pull(rows)
            pulled[0] += self.bend(rows[1], tangent)
            return pulled

        return Along(self.push(tangent), pull)

    def bend(self, rows: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """See :meth:`LayerNormAt.bend`."""
        rows, tangent = self._grouped(rows), self._grouped(tangent)
        means = [(self._share * values).sum(dim=-1, keepdim=True) for values in (rows, tangent)]
        return self.push((rows * tangent - rows * means[1] - means[0] * tangent).flatten(-2))

    def _grouped(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(-1, (-1, self._dim))
