"""Gradients of several losses for one optimizer step, each clipped and checked on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import torch


def clipped_gradients(
    loss: torch.Tensor, parameters: Sequence[torch.Tensor], max_norm: float
) -> tuple[list[torch.Tensor], list[torch.Tensor], bool]:
    """Gradient of ``loss`` for each parameter, of norm at most ``max_norm`` over all of them; zero if not finite.

    Returns:
        The gradients, the norm of each before it was clipped, and whether they were finite.
    """
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    norms = list(torch._foreach_norm(gradients))
    total = torch.stack(norms).norm().item()
    if not isfinite(total):
        return [torch.zeros_like(gradient) for gradient in gradients], norms, False
    if total > max_norm:
        return list(torch._foreach_mul(gradients, max_norm / total)), norms, True
    return list(gradients), norms, True


def accumulate(parameters: Iterable[torch.Tensor], gradients: Iterable[torch.Tensor]) -> None:
    """Add gradients to those of the parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
