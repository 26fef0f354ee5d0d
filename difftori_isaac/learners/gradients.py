"""Gradients of several losses for one optimizer step, each clipped and checked on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch


def clipped_gradients(
    loss: torch.Tensor, parameters: Sequence[torch.Tensor], max_norm: float
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Gradient of ``loss`` for each parameter, of norm at most ``max_norm`` over all of them; zero if not finite.

    Nothing here waits for the device.

    Returns:
        The gradients, the norm of each before it was clipped, and whether they were finite, a bool of no dimension.
    """
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    norms = list(torch._foreach_norm(gradients))
    total = torch.stack(norms).norm()
    finite = total.isfinite()
    flat = torch.cat([gradient.flatten() for gradient in gradients]) * (max_norm / total).clamp(max=1.0)
    parts = torch.where(finite, flat, 0.0).split([gradient.numel() for gradient in gradients])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)], norms, finite


def accumulate(parameters: Iterable[torch.Tensor], gradients: Iterable[torch.Tensor]) -> None:
    """Add gradients to those of the parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
