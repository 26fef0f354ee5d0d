"""Warp kernels: rollout, solve and gradient of dynamics given as Warp functions; rollouts of latent models.

The former run one thread per environment, the latter one block of threads for a few environments. Files with kernels
leave out ``from __future__ import annotations``: Warp reads the types of kernel arguments as objects.
"""
