"""Compiled steps in `fit`: the same training, checks of what the graph cannot see, and reasons to run uncompiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import Callback, TrainingState, Weighted, as_objective, compile_elbo, fit
from latentmix.inference.compiled import inductor
from latentmix.inference.compiled.objective import CompiledObjective
from latentmix.inference.objectives.precision import MixedPrecision
from latentmix.models import VAE, Bernoulli, MixturePrior, MLPDecoder, StandardNormal

from tests.inference.compiled.interpreter import interpreted
from tests.inference.pairs import local_pair, normalised_pair

SHAPE = (1, 4, 4)
COMPILER = inductor.compiler_obstacle(torch.device("cpu"))
compiled = pytest.mark.skipif(COMPILER is not None, reason=str(COMPILER))


def pair(enumerated: bool = False) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(0)
    prior = MixturePrior(2, n_components=3, enumerated=True) if enumerated else StandardNormal(2)
    vae = VAE(MLPDecoder(2, (5,), SHAPE), prior, Bernoulli()).double()
    return vae, AmortizedGuide(MLPEncoder(2, (5,), SHAPE)).double()


def images(count: int = 14) -> Tensor:
    return torch.bernoulli(
        torch.full((count, *SHAPE), 0.4, dtype=torch.float64), generator=torch.Generator().manual_seed(0)
    )


OBJECTIVES: dict[str, Any] = {
    "Trace_ELBO": Trace_ELBO,
    "warm-up": lambda: Weighted(Trace_ELBO(), beta=2.0, warmup=1.5),
    "enumerated": lambda: TraceEnum_ELBO(max_plate_nesting=1),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_compiled_fit_is_the_uncompiled_one(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the warm-up, minibatches of 6, 6 and 2 are two shapes; the ordinary ELBO alone goes through inductor."""
    monkeypatch.setattr("latentmix.inference.compiled.plan._LEAST_STEPS", 1)  # incomplete minibatches, too
    if objective != "Trace_ELBO":
        monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    elif COMPILER is not None:
        pytest.skip(COMPILER)
    results = []
    for compile in (False, True):
        vae, guide = pair(objective == "enumerated")
        x = images(14 if objective == "warm-up" else 12)
        options: dict[str, Any] = {"objective": OBJECTIVES[objective](), "validation": images(5), "seed": 3}
        results.append(fit(vae.model, guide, x, epochs=3, batch_size=6, compile=compile, **options))
    plain, fast = results
    assert fast.losses == pytest.approx(plain.losses, rel=1e-10)
    assert fast.validation_losses == pytest.approx(plain.validation_losses, rel=1e-10)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(fast.parameters[name], value, rtol=1e-8, atol=1e-10)


def test_other_rounding_is_taken_for_an_error_in_full_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled gradients differ by a few thousandths where values on the way are in bfloat16."""

    def rounded(graph: Any, inputs: Any) -> Any:
        run = interpreted(graph, inputs)
        return lambda arguments: [value * (1 + error * (value.dim() > 0)) for value in run(arguments)]

    error = 4e-3

    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", rounded)
    (vae, guide), x = pair(), images().float()
    vae, guide = vae.float(), guide.float()
    assert compile_elbo(vae.model, guide, MixedPrecision(as_objective(Trace_ELBO())), x).obstacle is None
    with pytest.warns(UserWarning, match="or gradients differ"):
        assert compile_elbo(vae.model, guide, Trace_ELBO(), x).obstacle is not None
    error = 0.05
    with pytest.warns(UserWarning, match="or gradients differ"):
        assert compile_elbo(vae.model, guide, MixedPrecision(as_objective(Trace_ELBO())), x).obstacle is not None


def test_a_compiled_fit_resumes_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)

    class Interrupt(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            if (state.epoch, state.batch) == (1, 2):
                saved.update(copy.deepcopy(state.state_dict()))

    saved: dict[str, Any] = {}
    options: dict[str, Any] = {"epochs": 3, "batch_size": 6, "seed": 3, "compile": True}
    vae, guide = pair()
    whole = fit(vae.model, guide, images(), callbacks=[Interrupt()], **options)
    vae, guide = pair()
    state = TrainingState.from_state_dict({**saved, "callbacks": []})
    resumed = fit(vae.model, guide, images(), state=state, **options)
    for name, value in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], value)


@compiled
def test_compile_elbo_gives_the_gradients_and_draws_of_the_uncompiled_step() -> None:
    vae, guide = pair()
    x = images(6)
    objective = compile_elbo(vae.model, guide, Trace_ELBO(), x)
    assert objective.obstacle is None
    steps = []
    for each in (objective.objective, objective):
        for leaf in (*vae.parameters(), *guide.parameters()):
            leaf.grad = None
        torch.manual_seed(1)
        terms = each.backward(vae.model, guide, x)
        steps.append([*terms, *(leaf.grad for leaf in (*vae.parameters(), *guide.parameters())), torch.rand(1)])
    for expected, value in zip(*steps, strict=True):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-10)
    first = steps[1][4].clone()
    objective.backward(vae.model, guide, x)  # gradients accumulate, as those of `Tensor.backward` do
    weight = next(vae.parameters())
    assert weight.grad is not None
    assert not torch.equal(weight.grad, first)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "every other": lambda x: torch.cat([x, x])[::2],
    "expanded": lambda x: x[:1].expand_as(x),
}


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
def test_minibatches_of_any_layout_run_compiled(layout: str) -> None:
    vae, guide = pair()
    x = images(6)
    objective = compile_elbo(vae.model, guide, Trace_ELBO(), x)
    losses = []
    for each in (objective.objective, objective):
        torch.manual_seed(1)
        losses.append(each.backward(vae.model, guide, LAYOUTS[layout](x)).loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    assert objective.obstacle is None


@compiled
def test_a_compiled_fit_updates_running_statistics() -> None:
    """Those of batch normalisation, in a module that is not registered with Pyro."""
    x, statistics = torch.arange(12, dtype=torch.float64), []
    for compile in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
        model, guide = normalised_pair(network, 1)
        fit(model, guide, x, epochs=3, batch_size=4, seed=0, compile=compile)
        statistics.append({name: buffer.clone() for name, buffer in network.named_buffers()})
    plain, fast = statistics
    assert plain.keys() == fast.keys()
    assert plain["1.num_batches_tracked"] >= 9
    for name, value in plain.items():  # a weight before a normalisation has a gradient of rounding errors alone
        torch.testing.assert_close(fast[name], value, rtol=1e-8, atol=1e-10)


def test_a_model_that_cannot_be_traced_trains_as_before() -> None:
    model, guide, batch, _ = local_pair("discrete", size=12)
    options: dict[str, Any] = {"epochs": 2, "seed": 0, "objective": TraceGraph_ELBO()}
    plain = fit(model, guide, batch, **options)
    with pytest.warns(UserWarning, match="Steps run uncompiled: Expected an objective whose gradients are those of"):
        fast = fit(model, guide, batch, **options, compile=True)
    assert fast.losses == plain.losses


def test_without_a_compiler_training_runs_uncompiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    vae, guide = pair()
    with pytest.warns(UserWarning, match="inductor needs a C.. compiler, and none of .* is on PATH"):
        fast = fit(vae.model, guide, images(), epochs=2, batch_size=7, seed=0, compile=True)
    vae, guide = pair()
    assert fast.losses == fit(vae.model, guide, images(), epochs=2, batch_size=7, seed=0).losses


def test_other_callables_than_those_compiled_for_run_uncompiled() -> None:
    vae, guide = pair()
    objective = CompiledObjective(as_objective(Trace_ELBO()), vae.model, guide)
    other, other_guide = pair()
    objective.backward(other.model, other_guide, images(3))
    assert objective.obstacle is None
    assert all(leaf.grad is not None for leaf in other.parameters())
