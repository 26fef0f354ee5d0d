"""Multi-layer perceptrons of any size on blocks of environments, by tile products: forward and adjoint.

Weights and activations stream through shared memory in tiles of one size, so that the shared memory is the same
whatever the widths are, and one compiled kernel serves all models.
"""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from functools import cache
from typing import Any, NamedTuple

import warp as wp

MAX_LAYERS = 8
"""Linear layers that a network may have."""
TILE_ENVS = 16
"""Environments of one block."""
ACTIVATIONS = ("SiLU", "ELU", "GELU", "Mish", "Softplus", "Tanh")
"""Activation modules of torch, at their default settings, in the order of the numbers that kernels know them by."""

_TILE_K, _TILE_N = 32, 64
_SILU, _ELU, _GELU, _MISH, _SOFTPLUS = (wp.constant(number) for number in range(5))


class NetworkFunctions(NamedTuple):
    """Warp functions on networks in one precision; every thread of a block calls them."""

    struct: Any
    """Sizes and pointers of a network."""
    push: Any
    """``(network, time, first_env, keep, out)`` writes the output at the inputs of a time."""
    pull: Any
    """``(network, time, first_env, inputs_grad)`` adds the gradient for the inputs of a time."""
    add: Any
    """``(source, first_env, target)`` adds one matrix to another."""
    scale_to: Any
    """``(source, scale, first_env, target)`` writes a multiple of a matrix."""


@wp.func_native("WP_TILE_SYNC();")
def _barrier():
    """Waits until every thread of the block has written what the others read next."""


@cache
def network_functions(scalar: Any) -> NetworkFunctions:
    """The functions of one precision."""
    sizes, pointers = wp.types.vector(MAX_LAYERS + 1, wp.int32), wp.types.vector(MAX_LAYERS + 1, wp.uint64)
    item_size = wp.uint64(wp.types.type_size_in_bytes(scalar))
    matrix_type = wp.array2d(dtype=scalar)

    @wp.struct
    class Network:
        num_layers: int
        num_envs: int
        activation: int
        widths: sizes  # of the inputs and of every layer's output
        strides: sizes  # row lengths in memory of the same
        weights: pointers  # (widths[l + 1], widths[l])
        biases: pointers  # (widths[l + 1],)
        values: pointers  # inputs, then every hidden layer's output: (times, num_envs, strides[l])
        slopes: pointers  # of the activations, by the layer that they follow
        grads: pointers  # gradient for every layer's output before its activation, by the layer's index + 1

    @wp.func
    def matrix(pointer: wp.uint64, index: int, rows: int, columns: int):
        offset = wp.uint64(index) * wp.uint64(rows) * wp.uint64(columns) * item_size
        return wp.array(ptr=pointer + offset, shape=(rows, columns), dtype=scalar)

    @wp.func
    def logistic(x: scalar):
        return scalar(1.0) / (scalar(1.0) + wp.exp(-x))

    @wp.func
    def softplus(x: scalar):
        return wp.max(x, scalar(0.0)) + wp.log(scalar(1.0) + wp.exp(-wp.abs(x)))

    @wp.func
    def normal_cdf(x: scalar):
        return scalar(0.5) * (scalar(1.0) + wp.erf(x * scalar(0.7071067811865476)))

    @wp.func
    def activate(x: scalar, activation: int):
        if activation == _SILU:
            return x * logistic(x)
        if activation == _ELU:
            return wp.where(x > scalar(0.0), x, wp.exp(x) - scalar(1.0))
        if activation == _GELU:
            return x * normal_cdf(x)
        if activation == _MISH:
            return x * wp.tanh(softplus(x))
        if activation == _SOFTPLUS:
            return wp.where(x > scalar(20.0), x, softplus(x))  # linear there in torch
        return wp.tanh(x)

    @wp.func
    def slope(x: scalar, activation: int):
        if activation == _SILU:
            return logistic(x) * (scalar(1.0) + x * (scalar(1.0) - logistic(x)))
        if activation == _ELU:
            return wp.where(x > scalar(0.0), scalar(1.0), wp.exp(x))
        if activation == _GELU:
            return normal_cdf(x) + scalar(0.3989422804014327) * x * wp.exp(scalar(-0.5) * x * x)
        if activation == _MISH:
            y = wp.tanh(softplus(x))
            return y + x * (scalar(1.0) - y * y) * logistic(x)
        if activation == _SOFTPLUS:
            return wp.where(x > scalar(20.0), scalar(1.0), logistic(x))
        y = wp.tanh(x)
        return scalar(1.0) - y * y

    @wp.func
    def push(network: Network, time: int, first_env: int, keep: bool, out: matrix_type):
        last, num_envs = network.num_layers - 1, network.num_envs
        value_of, slope_of = activate, slope  # by a local name: Warp recompiles when they change
        hidden_time = wp.where(keep, time, 0)
        for layer in range(network.num_layers):
            num_inputs, num_outputs = network.widths[layer], network.widths[layer + 1]
            x_time = wp.where(layer == 0, time, hidden_time)
            x = matrix(network.values[layer], x_time, num_envs, network.strides[layer])
            weight = matrix(network.weights[layer], 0, num_outputs, num_inputs)
            bias = matrix(network.biases[layer], 0, 1, num_outputs)
            value = matrix(network.values[layer + 1], hidden_time, num_envs, num_outputs)
            slopes = matrix(network.slopes[layer + 1], hidden_time, num_envs, num_outputs)
            for n in range(0, num_outputs, _TILE_N):
                product = wp.tile_zeros(shape=(TILE_ENVS, _TILE_N), dtype=scalar, storage="shared")
                for k in range(0, num_inputs, _TILE_K):
                    x_tile = wp.tile_load(x, shape=(TILE_ENVS, _TILE_K), offset=(first_env, k), storage="shared")
                    rows = wp.tile_load(weight, shape=(_TILE_N, _TILE_K), offset=(n, k), storage="shared")
                    wp.tile_matmul(x_tile, wp.tile_transpose(rows), product)
                bias_tile = wp.tile_load(bias, shape=(1, _TILE_N), offset=(0, n))
                y = product + wp.tile_broadcast(bias_tile, shape=(TILE_ENVS, _TILE_N))
                if layer == last:
                    wp.tile_store(out, y, offset=(first_env, n))
                else:
                    wp.tile_store(value, wp.tile_map(value_of, y, network.activation), offset=(first_env, n))
                    if keep:
                        wp.tile_store(slopes, wp.tile_map(slope_of, y, network.activation), offset=(first_env, n))
            _barrier()

    @wp.func
    def pull(network: Network, time: int, first_env: int, inputs_grad: matrix_type):
        num_envs = network.num_envs
        for back in range(network.num_layers):
            layer = network.num_layers - 1 - back
            num_inputs, num_outputs = network.widths[layer], network.widths[layer + 1]
            grad = matrix(network.grads[layer + 1], time, num_envs, network.strides[layer + 1])
            weight = matrix(network.weights[layer], 0, num_outputs, num_inputs)
            hidden_grad = matrix(network.grads[layer], time, num_envs, num_inputs)
            slopes = matrix(network.slopes[layer], time, num_envs, num_inputs)
            for n in range(0, num_inputs, _TILE_N):
                product = wp.tile_zeros(shape=(TILE_ENVS, _TILE_N), dtype=scalar, storage="shared")
                for k in range(0, num_outputs, _TILE_K):
                    grad_tile = wp.tile_load(grad, shape=(TILE_ENVS, _TILE_K), offset=(first_env, k), storage="shared")
                    rows = wp.tile_load(weight, shape=(_TILE_K, _TILE_N), offset=(k, n), storage="shared")
                    wp.tile_matmul(grad_tile, rows, product)
                if layer == 0:
                    before = wp.tile_load(inputs_grad, shape=(TILE_ENVS, _TILE_N), offset=(first_env, n))
                    wp.tile_store(inputs_grad, before + product, offset=(first_env, n))
                else:
                    slope_tile = wp.tile_load(slopes, shape=(TILE_ENVS, _TILE_N), offset=(first_env, n))
                    wp.tile_store(hidden_grad, wp.tile_map(wp.mul, product, slope_tile), offset=(first_env, n))
            _barrier()

    @wp.func
    def add(source: matrix_type, first_env: int, target: matrix_type):
        for n in range(0, target.shape[1], _TILE_N):
            source_tile = wp.tile_load(source, shape=(TILE_ENVS, _TILE_N), offset=(first_env, n))
            target_tile = wp.tile_load(target, shape=(TILE_ENVS, _TILE_N), offset=(first_env, n))
            wp.tile_store(target, source_tile + target_tile, offset=(first_env, n))
        _barrier()

    @wp.func
    def scale_to(source: matrix_type, scale: scalar, first_env: int, target: matrix_type):
        for n in range(0, target.shape[1], _TILE_N):
            tile = wp.tile_load(source, shape=(TILE_ENVS, _TILE_N), offset=(first_env, n))
            wp.tile_store(target, tile * scale, offset=(first_env, n))
        _barrier()

    return NetworkFunctions(Network, push, pull, add, scale_to)
