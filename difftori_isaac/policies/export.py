"""A planner as one graph of tensor operations, for any number of environments, on the CPU.

The graph is traced below :mod:`torch.func`, where derivatives have become plain operations, and holds every iteration:
which of them an environment accepts is data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import fx, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_aggregate

from difftori_isaac.policies.planner import TrajOptPlanner
from difftori_isaac.trajopt.layer import TrajOptLayer

Decompositions = Mapping[Any, Callable[..., Any]]

_aten = torch.ops.aten
_SCRIPT_TARGETS: dict[Any, Any] = {
    _aten.sym_size.int: _aten.size,
    _aten.view.default: _aten.reshape,  # TorchScript's optimizations change strides
    _aten._unsafe_view.default: _aten.reshape,
}


class PlannedAction(nn.Module):
    """Observation to first planned action: a copy of what a deterministic policy does, on the CPU."""

    def __init__(self, obs_normalizer: nn.Module, planner: TrajOptPlanner) -> None:
        """Copy a policy's parts.

        Raises:
            ValueError: If the planner's solver or objective has no such graph.
        """
        super().__init__()
        config = planner.layer.config
        for name, allowed in (("solver", "gauss_newton"), ("objective", "least_squares")):
            if getattr(config, name) != allowed:
                raise ValueError(
                    f"trajopt.{name} is {getattr(config, name)!r}, which cannot be exported; "
                    f"allowed: trajopt.{name}={allowed}"
                )
        self.obs_normalizer = deepcopy(obs_normalizer).cpu()
        self.planner = deepcopy(planner).cpu()
        self.planner.layer = TrajOptLayer(replace(config, latent_kernel="torch"))
        self.eval()

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """First planned actions, shape (num_envs, num_actions), of flat observations, shape (num_envs, obs_dim)."""
        return self.planner.plan(self.obs_normalizer(obs)).action


class OnnxPolicy(nn.Module):
    """A policy in operations that ONNX has, with what rsl_rl's exporter asks for."""

    is_recurrent = False
    input_names = ("obs",)
    output_names = ("actions",)

    def __init__(self, policy: PlannedAction, obs_dim: int) -> None:
        """Trace a policy for flat observations."""
        super().__init__()
        self.obs_dim = obs_dim
        self.traced = trace(policy, obs_dim, _ONNX)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """See :class:`PlannedAction`."""
        return self.traced(obs)

    def get_dummy_inputs(self) -> tuple[torch.Tensor]:
        """An observation of the right shape, (1, obs_dim)."""
        return (torch.zeros(1, self.obs_dim),)


def trace(policy: nn.Module, obs_dim: int, decompositions: Decompositions | None = None) -> fx.GraphModule:
    """The graph of a policy for flat observations, with some operations replaced."""
    with torch.no_grad():
        policy(torch.zeros(2, obs_dim))  # what a planner computes once and keeps has to exist before it is traced
        tracer = make_fx(policy, dict(decompositions or {}), tracing_mode="symbolic", _allow_non_fake_inputs=True)
        return tracer(torch.zeros(2, obs_dim))


def script(graph: fx.GraphModule) -> torch.jit.ScriptModule:
    """TorchScript of a traced graph; the graph is used up."""
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = _SCRIPT_TARGETS.get(node.target, node.target.overloadpacket)

        def literal(value: Any, node: fx.Node = node) -> Any:  # TorchScript reads neither nan nor device(type='cpu')
            if isinstance(value, float) and not isfinite(value):
                with graph.graph.inserting_before(node):
                    return graph.graph.call_function(float, (str(value),))
            return value.type if isinstance(value, torch.device) else value

        node.args = map_aggregate(node.args, literal)
        node.kwargs = map_aggregate(node.kwargs, literal)
    graph.recompile()
    return torch.jit.freeze(torch.jit.script(graph.eval()))


def _factor(matrix: torch.Tensor, **_: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of a Cholesky factor, which planning uses to solve only, the matrix itself."""
    return matrix.clone(), torch.zeros_like(matrix[:, 0, 0], dtype=torch.int32)


def _solve(rhs: torch.Tensor, matrix: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """``A⁻¹ b`` of positive definite matrices (num_envs, n, n) by Gauss-Jordan elimination without pivoting.

    ONNX has no factorisation. Scaling to a unit diagonal keeps every pivot within (0, 1] (Golub and Van Loan, Matrix
    Computations, section 4.2), which bounds the rounding of an elimination in this form.
    """
    n = matrix.shape[1]
    scale = matrix.diagonal(dim1=1, dim2=2).rsqrt()[:, :, None]
    rows = torch.cat((scale * matrix * scale.mT, scale * rhs), dim=2)
    units = torch.eye(n, dtype=matrix.dtype, device=matrix.device)[:, :, None]
    for i in range(n):
        pivot_row = rows[:, i : i + 1]
        rows = rows - (rows[:, :, i : i + 1] - units[i]) * (pivot_row / pivot_row[:, :, i : i + 1])
    return scale * rows[:, :, n:]


_ONNX: Decompositions = {
    **get_decompositions([getattr(_aten, f"{name}_backward") for name in ("silu", "elu", "gelu", "mish", "softplus")]),
    _aten.linalg_cholesky_ex.default: _factor,
    _aten.cholesky_solve.default: _solve,
}
