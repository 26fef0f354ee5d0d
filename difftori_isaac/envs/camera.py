"""Where points of the world are in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PinholeCamera:
    """A camera without distortion."""

    intrinsics: torch.Tensor
    """Focal lengths and principal point [pixel], shape (3, 3)."""
    position: torch.Tensor
    """Optical centre in the world frame [m], shape (3,)."""
    rotation: torch.Tensor
    """Camera to world, shape (3, 3); the camera's axes point right, down and forward."""

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """Pixels (right, down) of points in the world frame [m], shape (n, 3) to (n, 2); NaN behind the camera."""
        rays = (points - self.position) @ self.rotation
        image = rays @ self.intrinsics.mT
        return torch.where(rays[:, 2:] > 0, image[:, :2] / image[:, 2:], torch.nan)
