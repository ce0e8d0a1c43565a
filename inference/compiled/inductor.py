"""Inductor's compilation of a graph, called without guards."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from latentmix.inference.compiled.products import with_fast_products
from latentmix.inference.compiled.trace import NotTraceableError, described
from latentmix.models.process_state import import_whole, kept_warnings

__all__ = ["compile_graph", "compiler_obstacle"]

Compiled = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def compiler_obstacle(device: torch.device) -> str | None:
    """The reason why inductor cannot compile for a device; None if it can.

    Args:
        device: The device of the tensors.
    """
    if device.type not in ("cpu", "cuda"):
        return f"inductor compiles for CPU and CUDA; the tensors are on {device.type}"
    try:
        import_whole("torch._inductor.compile_fx", "torch._inductor.standalone_compile")
    except Exception as error:
        return f"inductor cannot be imported: {described(error)}; after an interrupted import of torch, restart Python"
    if device.type == "cuda":
        return None
    from torch._inductor import config

    names = [name for name in (config.cpp.cxx if isinstance(config.cpp.cxx, tuple) else (config.cpp.cxx,)) if name]
    if sys.platform == "win32" or any(shutil.which(name) for name in names):
        return None
    return f"inductor needs a C++ compiler, and none of {', '.join(names)} is on PATH"


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Compiled:
    """Compile a graph for the shapes of its inputs.

    Args:
        graph: A module of tensors without autograd.
        inputs: Its inputs.

    Returns:
        A function of the inputs, which runs without gradients and changes in place the inputs that the graph changes.

    Raises:
        NotTraceableError: If inductor fails.
    """
    from torch._inductor import config, standalone_compile

    plain: list[Any] = [each.detach() for each in inputs]
    # Inductor computes values of up to so many operations again in every loop that reads them, on CPUs without vectors.
    reread = 10 if all(each.device.type == "cpu" for each in plain) else config.realize_opcount_threshold
    try:
        with kept_warnings(), torch.no_grad(), config.patch(compile_threads=1, realize_opcount_threshold=reread):
            warnings.simplefilter("ignore")  # about inductor's own code
            artifact: Any = standalone_compile(with_fast_products(graph), plain, dynamic_shapes="from_example_inputs")
    except Exception as error:
        raise NotTraceableError(described(error)) from error

    def run(arguments: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            values: Sequence[Tensor] = artifact(*arguments)
        return values

    return run
