"""Steps as CUDA graphs, emulated: operators are recorded on the CPU, and replayed on the same memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import Weighted, as_objective, fit
from latentmix.inference.compiled import capture, objective
from latentmix.inference.compiled.objective import CompiledObjective
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.compiled.interpreter import interpreted
from tests.inference.pairs import normalised_pair


class Graph:
    """In the place of `torch.cuda.CUDAGraph`."""

    replays = 0

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        Graph.replays += 1
        with torch.no_grad():
            for operator, args, kwargs, recorded in self.calls:
                values = tree_leaves(operator(*args, **kwargs))
                for place, value in zip(tree_leaves(recorded), values, strict=True):
                    if isinstance(place, Tensor):
                        place.copy_(value)


class Recording(TorchDispatchMode):
    """In the place of `torch.cuda.graph`."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self.graph.calls.append((func, args, kwargs or {}, value))
        return value


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@contextlib.contextmanager
def block(_: Any) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "compile_graph", interpreted)
    monkeypatch.setattr(objective, "compiler_obstacle", lambda device: None)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": Recording,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": block,
        "device": block,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(capture, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(Graph, "replays", 0)
    monkeypatch.setattr("latentmix.inference.compiled.plan._LEAST_STEPS", 1)  # incomplete minibatches, too


def pair() -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(2, (5,), (1, 4, 4)), StandardNormal(2), Bernoulli()).double()
    return vae, AmortizedGuide(MLPEncoder(2, (5,), (1, 4, 4))).double()


def images(count: int = 14) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.bernoulli(torch.full((count, 1, 4, 4), 0.4, dtype=torch.float64), generator=generator)


def test_a_fit_of_replayed_steps_is_the_uncompiled_one() -> None:
    """Minibatches of 6, 6 and 2, each with other data and random numbers."""
    results = []
    for compile in (False, True):
        vae, guide = pair()
        results.append(fit(vae.model, guide, images(), epochs=3, batch_size=6, seed=3, compile=compile))
    plain, fast = results
    assert Graph.replays > 9
    assert fast.losses == pytest.approx(plain.losses, rel=1e-10)
    assert torch.equal(fast.state.random.torch, plain.state.random.torch)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(fast.parameters[name], value, rtol=1e-8, atol=1e-10)


def test_running_statistics_change_once_a_step() -> None:
    x, statistics = torch.arange(12, dtype=torch.float64), []
    for compile in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
        model, guide = normalised_pair(network, 1)
        fit(model, guide, x, epochs=3, batch_size=4, seed=0, compile=compile)
        statistics.append({name: buffer.clone() for name, buffer in network.named_buffers()})
    assert Graph.replays
    for name, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], value, rtol=1e-10, atol=1e-12)


def test_gradients_accumulate_over_replays() -> None:
    vae, guide = pair()
    steps = CompiledObjective(as_objective(Trace_ELBO()), vae.model, guide)
    leaf, gradients = vae.decoder.out.bias, []
    for seed in (1, 2):
        leaf.grad = None
        torch.manual_seed(seed)
        steps.backward(vae.model, guide, images(6))
        gradients.append(leaf.grad.clone())
    leaf.grad = None
    for seed in (1, 2):
        torch.manual_seed(seed)
        steps.backward(vae.model, guide, images(6))
    torch.testing.assert_close(leaf.grad, sum(gradients))


def run_uncaptured() -> None:
    vae, guide = pair()
    steps = CompiledObjective(as_objective(Trace_ELBO()), vae.model, guide)
    steps.backward(vae.model, guide, images(6))
    before = Graph.replays
    steps.backward(vae.model, guide, images(6))
    assert steps.obstacle is None
    assert Graph.replays == before


def test_an_operator_that_cannot_be_captured_is_launched_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: Graph) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    run_uncaptured()


def test_a_graph_with_other_values_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that keeps its first random numbers."""
    replay = Graph.replay

    def stale(self: Graph) -> None:
        self.calls = [call for call in self.calls if torch.Tag.nondeterministic_seeded not in call[0].tags]
        replay(self)

    monkeypatch.setattr(Graph, "replay", stale)
    run_uncaptured()


def test_a_step_that_reads_memory_of_the_processor_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, guide = pair()
    weighted = Weighted(Trace_ELBO(), warmup=2)
    monkeypatch.setattr(capture, "on_gpu", lambda tensor: tensor is not weighted._weight)
    fit(vae.model, guide, images(12), epochs=2, batch_size=6, objective=weighted, seed=0, compile=True)
    assert Graph.replays == 0
