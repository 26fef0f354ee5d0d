"""Warp kernels for dynamics given as Warp functions: rollout, solve and implicit gradient, one thread per environment.

The files here leave out ``from __future__ import annotations``: Warp reads the types of kernel arguments as objects.
"""
