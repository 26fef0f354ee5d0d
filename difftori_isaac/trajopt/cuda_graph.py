"""What a solver computes without autograd, replayed on a GPU as one CUDA graph instead of hundreds of launches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from difftori_isaac.trajopt.host import capturable
from difftori_isaac.trajopt.problem import StructuredModel, TrajOptProblem

Function = Callable[[TrajOptProblem, torch.Tensor], tuple[torch.Tensor, ...]]

_MAX_GRAPHS = 32
"""Graphs of one model, for as many settings and batch sizes; the one that was not used for the longest time goes."""
_GRAPHS: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, _Graph | None]] = WeakKeyDictionary()


def replayed(
    function: Function, problem: TrajOptProblem, warm_start: torch.Tensor, settings: Hashable
) -> tuple[torch.Tensor, ...]:
    """``function(problem, warm_start)`` without autograd, as a graph where the like has been asked for before.

    The first call for a model, batch size and settings computes, the second captures, later ones replay. Captured are
    problems on CUDA whose model is a module and a :class:`StructuredModel`; others are computed every time.

    Args:
        function: Reads its arguments, parameters and buffers of the model, and nothing else that changes; nothing of
            it may wait for the device.
        problem: Its first argument.
        warm_start: Its second argument, shape (num_envs, horizon, action_dim).
        settings: What else the result depends on.
    """
    model = problem.model
    with torch.no_grad():
        if not (capturable(warm_start) and isinstance(model, nn.Module) and isinstance(model, StructuredModel)):
            return tuple(function(problem, warm_start))
        values = {field.name: getattr(problem, field.name) for field in fields(problem) if field.name != "model"}
        tensors = {"warm_start": warm_start} | {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
        key = (
            settings,
            type(problem),
            tuple((name, value) for name, value in values.items() if name not in tensors),
            tuple((name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors.items()),
            tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())),
        )
        graphs = _GRAPHS.setdefault(model, OrderedDict())
        if key not in graphs:
            graphs[key] = None
            if len(graphs) > _MAX_GRAPHS:
                graphs.popitem(last=False)
            return tuple(function(problem, warm_start))
        graphs.move_to_end(key)
        graph = graphs[key]
        if graph is None:
            graph = graphs[key] = _Graph(function, problem, tensors)
        return graph.replay(tensors)


class _Graph:
    """One captured call, and the memory that it reads from and writes to."""

    def __init__(self, function: Function, problem: TrajOptProblem, tensors: dict[str, torch.Tensor]) -> None:
        self._inputs = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        fixed: dict[str, Any] = dict(self._inputs)
        warm_start = fixed.pop("warm_start")
        problem = problem.replaced(**fixed)
        here, aside = torch.cuda.current_stream(warm_start.device), torch.cuda.Stream(warm_start.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            function(problem, warm_start)  # lets libraries set themselves up before the capture
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        pool = _pool(warm_start.device)
        with torch.cuda.graph(self._graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            self._outputs = tuple(function(problem, warm_start))

    def replay(self, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The outputs for other inputs of the same names and shapes."""
        for name, fixed in self._inputs.items():
            fixed.copy_(tensors[name])
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


@cache
def _pool(device: torch.device) -> Any:
    """Memory that all graphs of a device share: none runs beside another, and what it returns is copied at once."""
    return torch.cuda.graph_pool_handle()
