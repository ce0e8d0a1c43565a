"""Compiled steps on a GPU as CUDA graphs: the draws, the loss and the gradients of a minibatch in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentmix.inference.batches import Batch
from latentmix.inference.compiled.trace import TracedStep, close

__all__ = ["Step", "as_cuda_graph", "capture", "on_gpu"]

Step = Callable[[Batch], Sequence[Tensor]]


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is on a GPU of CUDA."""
    return tensor.is_cuda


def as_cuda_graph(step: Step, traced: TracedStep, batch: Batch) -> Step:
    """A step as a CUDA graph, which spares the launches of its single kernels.

    The step itself is returned where it reads a tensor outside the GPU, as the weight of `Weighted` during its warm-up
    is, since a graph would keep the first value; where CUDA cannot capture it; or where the graph gives other values
    with other data and random numbers. No GPU was at hand: this is tested with recorded operators on the CPU, and its
    gain is not measured.

    Args:
        step: Terms and gradients of a minibatch.
        traced: The traced step.
        batch: A minibatch.
    """
    if not all(map(on_gpu, batch)):
        return step
    with traced.undone():
        resident = all(map(on_gpu, traced.inputs(batch)))
    if not resident:
        return step
    try:
        with traced.undone():
            graph = capture(step, batch)
        others = (batch, tuple(tensor.flip(0) for tensor in batch))
        same = all(_agree(step, graph, traced, other, seed) for seed, other in enumerate(others))
    except RuntimeError:  # of CUDA, about an operator that cannot be captured
        return step
    return graph if same else step


def capture(step: Step, batch: Batch) -> Step:
    """Record a step as a CUDA graph; minibatches are copied into its memory, and values out of it.

    Args:
        step: A function whose other inputs stay where they are in memory.
        batch: A minibatch on the GPU.

    Raises:
        RuntimeError: If an operator cannot be captured.
    """
    own = tuple(tensor.clone() for tensor in batch)
    with torch.cuda.device(batch[0].device):
        side, present = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(present)
        with torch.cuda.stream(side):
            step(own)  # libraries allocate their workspaces before the capture
        present.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            values = step(own)

    def replay(batch: Batch) -> list[Tensor]:
        for place, tensor in zip(own, batch, strict=True):
            place.copy_(tensor)
        with torch.cuda.device(own[0].device):
            graph.replay()
        return [value.clone() for value in values]

    return replay


def _agree(step: Step, graph: Step, traced: TracedStep, batch: Batch, seed: int) -> bool:
    """Whether step and graph give the same values of a minibatch, with the random numbers of a seed."""
    results = []
    for function in (step, graph):
        with traced.undone():
            torch.manual_seed(seed)
            results.append([value.clone() for value in function(batch)])
    return all(
        close(value, expected, float(torch.linalg.vector_norm(expected)))
        for expected, value in zip(*results, strict=True)
    )
