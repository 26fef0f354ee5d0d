"""What is computed over and over, replayed on a GPU as one CUDA graph instead of hundreds of launches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from difftori_isaac.trajopt.host import capturable
from difftori_isaac.trajopt.problem import StructuredModel, TrajOptProblem

Function = Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, ...]]
Solver = Callable[[TrajOptProblem, torch.Tensor], tuple[torch.Tensor, ...]]

_MAX_GRAPHS = 32
"""Graphs of one model, for as many settings and batch sizes; the one that was not used for the longest time goes."""
_GRAPHS: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, CudaGraph]] = WeakKeyDictionary()


class CudaGraph:
    """A function on a GPU, computed at the first call, captured at the second and replayed from then on.

    The function may read and write what else lies on the device and stays where it is, such as parameters, and draw
    random numbers of the device; nothing of it may wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        """Take the device."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Function, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """``function(inputs)``; the same function each time, and inputs of the same names, shapes and types."""
        if self._stream is None:  # libraries set themselves up on the stream of the capture
            self._stream = torch.cuda.Stream(self._device)
            here = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                outputs = function(inputs)
            here.wait_stream(self._stream)
            return outputs
        if self._graph is None:
            self._inputs = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in inputs.items()}
            self._graph = torch.cuda.CUDAGraph()
            shared = {"pool": _pool(self._device), "stream": self._stream}
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local", **shared):
                self._outputs = function(self._inputs)
        for name, fixed in self._inputs.items():
            fixed.copy_(inputs[name])
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


def replayed(
    function: Solver, problem: TrajOptProblem, warm_start: torch.Tensor, settings: Hashable
) -> tuple[torch.Tensor, ...]:
    """``function(problem, warm_start)`` without autograd, as a graph where the like has been asked for before.

    One graph for each model, batch size and settings. Captured are problems on CUDA whose model is a module and a
    :class:`StructuredModel`; others are computed every time, and so are those of a function that is itself captured.

    Args:
        function: Reads its arguments, parameters and buffers of the model, and nothing else that changes; see
            :class:`CudaGraph`.
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

        def solve(inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            given: dict[str, Any] = dict(inputs)
            guess = given.pop("warm_start")
            return tuple(function(problem.replaced(**given), guess))

        graphs = _GRAPHS.setdefault(model, OrderedDict())
        graph = graphs.setdefault(key, CudaGraph(warm_start.device))
        graphs.move_to_end(key)
        if len(graphs) > _MAX_GRAPHS:
            graphs.popitem(last=False)
        return graph(solve, tensors)


@cache
def _pool(device: torch.device) -> Any:
    """Memory that all graphs of a device share: none runs beside another, and what it returns is copied at once."""
    return torch.cuda.graph_pool_handle()
