"""A lower bound of a step's time: its products at the best rate measured, and the optimizer's traffic with memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentmix.experiments.benchmarks.svi.cases import Architecture, Case
from latentmix.experiments.benchmarks.svi.contestants import Turn
from latentmix.experiments.benchmarks.svi.handwritten import Network
from latentmix.inference.isolation import isolated

__all__ = ["bfloat16", "float32", "operations", "optimizer_bytes"]

BYTES = 28  # of a parameter in Adam, float32: it, its gradient and two moments are read, all but the gradient written
SQUARE = 1024
REPEATS, LEAST = 3, 0.02  # times, and seconds, for which each rate is measured in a turn


def float32(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """Operations and bytes of a step, and the best rates over all turns, with products in float32.

    Returns:
        `parameters`; `operations` and `bytes` a step; `rate`, the best one of products, in operations a second, and
        the `product` that reached it; `memory_rate` in bytes a second.
    """
    return _floor(case, data, turn, torch.float32)


def bfloat16(case: Case, data: NDArray[np.float32], turn: Turn) -> Mapping[str, Any]:
    """The same with products in bfloat16."""
    return _floor(case, data, turn, torch.bfloat16)


def operations(architecture: Architecture, x: Tensor) -> int:
    """Floating-point operations of the products of one step, forward and backward; a multiplication and addition are 2.

    The gradient of the data is not among them.

    Args:
        architecture: The networks.
        x: A minibatch.
    """
    network = Network(architecture)
    with FlopCounterMode(display=False) as counter:
        network(x).backward()
    return int(counter.get_total_flops())


def optimizer_bytes(architecture: Architecture) -> int:
    """Bytes that a step of Adam reads and writes.

    Args:
        architecture: The networks.
    """
    return BYTES * _parameters(architecture)


def _parameters(architecture: Architecture) -> int:
    return sum(parameter.numel() for parameter in Network(architecture).parameters())


def _floor(case: Case, data: NDArray[np.float32], turn: Turn, dtype: torch.dtype) -> Mapping[str, Any]:
    architecture = case.architecture
    with isolated(seed=0):
        count = operations(architecture, torch.from_numpy(data[: case.batch_size]))
        moved = optimizer_bytes(architecture)
        products = _products(case, dtype)
        source = torch.zeros(math.ceil(moved / 8))  # a copy reads one half and writes the other
        target = torch.empty_like(source)
        rates = dict.fromkeys(products, 0.0)
        memory_rate = 0.0
        while turn():
            with torch.no_grad():
                for name, (product, size) in products.items():
                    rates[name] = max(rates[name], size / _least_seconds(product))
                memory_rate = max(memory_rate, moved / _least_seconds(lambda: target.copy_(source)))
    best = max(rates, key=rates.__getitem__)
    return {
        "parameters": _parameters(architecture),
        "operations": count,
        "bytes": moved,
        "rate": rates[best],
        "product": best,
        "memory_rate": memory_rate,
    }


def _products(case: Case, dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], int]]:
    """Matrix products by name, each with its number of operations: squares, and the network's largest linear layer."""
    layers = [layer for layer in Network(case.architecture).modules() if isinstance(layer, nn.Linear)]
    largest = max(layers, key=lambda layer: layer.weight.numel())
    sizes = [(SQUARE, SQUARE, SQUARE), (case.batch_size, largest.in_features, largest.out_features)]
    pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    products: dict[str, tuple[Callable[[], object], int]] = {}
    for rows, inner, columns in sizes:
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        bias, out = torch.zeros(columns, dtype=dtype), torch.empty(rows, columns, dtype=dtype)

        def by_mm(x: Tensor = x, weight: Tensor = weight, out: Tensor = out) -> object:
            return torch.mm(x, weight.t(), out=out)

        def by_pointwise(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> object:
            assert pointwise is not None
            return pointwise(x, weight, bias, "none", [], "")

        shape, count = f"{rows} x {inner} x {columns}", 2 * rows * inner * columns
        products[f"mm, {shape}"] = by_mm, count
        if pointwise is not None:
            products[f"oneDNN, {shape}"] = by_pointwise, count
    return products


def _least_seconds(call: Callable[[], object]) -> float:
    """The least time of a call out of some."""
    least, spent, done = math.inf, 0.0, 0
    while done < REPEATS or spent < LEAST:
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        least, spent, done = min(least, seconds), spent + seconds, done + 1
    return least
