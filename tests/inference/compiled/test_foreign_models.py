"""Models in the style of Pyro's tutorials: compiled steps and fits equal to uncompiled ones and to Pyro's own ELBO."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO
from torch import Tensor

from latentmix.inference import SVIResult, as_objective, fit
from latentmix.inference.compiled import inductor
from latentmix.inference.compiled.objective import CompiledObjective
from latentmix.inference.isolation import Modules, RandomState, isolated

from tests.inference.compiled.foreign_models import FOREIGN, Foreign
from tests.inference.compiled.interpreter import interpreted

COMPILER = inductor.compiler_obstacle(torch.device("cpu"))
INDUCTOR = ("plate that draws its indices", "mixture, AutoDelta", "Gamma and Dirichlet")
SINGLE = (  # in float32, too: globals and locals, a subsample, an enumerated site, AutoGuides, flows, random parameters
    "schools, own guide",
    "schools, AutoLowRankMultivariateNormal",
    "parameters of a plate's indices",
    "mixture, AutoNormal",
    "regression, AutoMultivariateNormal",
    "semi-supervised VAE, unlabelled",
    "deep Markov model",
    "AutoIAFNormal",
    "planar and radial flows",
    "Gamma and Dirichlet",
)


@pytest.fixture(params=[torch.float64])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """torch's default dtype, in which tutorials are written."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    monkeypatch.setattr("latentmix.inference.compiled.objective.compiler_obstacle", lambda device: None)


def leaves_of(foreign: Foreign) -> dict[str, Tensor]:
    with Modules(foreign.model, foreign.guide, evaluation=False) as modules:
        named = {f"{i}.{name}": leaf for i, m in enumerate(modules) for name, leaf in m.named_parameters()}
    return {**named, **dict(pyro.get_param_store().named_parameters())}


def step(call: Callable[[], Any], leaves: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor], Tensor]:
    """What a step from seed 5 returns, its gradients and the next random number."""
    for leaf in leaves.values():
        leaf.grad = None
    torch.manual_seed(5)
    value = call()
    return value, {k: v.grad.clone() for k, v in leaves.items() if v.grad is not None}, torch.rand(3)


def assert_norms_close(values: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        difference = torch.linalg.vector_norm(values[name] - value)
        assert float(difference) <= tolerance * (1.0 + float(torch.linalg.vector_norm(value))), name


def assert_same_steps(make: Callable[[], Foreign], tolerance: float) -> None:
    with isolated(seed=1, validation=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        foreign = make()
        model, guide, batch = foreign.model, foreign.guide, foreign.batch
        objective = as_objective(foreign.elbo)
        objective.rehearse(model, guide, *batch)
        compiled = CompiledObjective(objective, model, guide)
        before = RandomState.capture()
        compiled._compiled(model, guide, batch)
        assert compiled.obstacle is None
        assert torch.equal(torch.get_rng_state(), before.torch)
        leaves = leaves_of(foreign)
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.add_(0.03)
        terms, gradients, following = step(lambda: objective.backward(model, guide, *batch), leaves)
        fast, ours, ours_following = step(lambda: compiled.backward(model, guide, *batch), leaves)
        assert torch.equal(ours_following, following)
        for mine, theirs in zip(fast, terms, strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=tolerance, atol=tolerance)
        assert any(bool(gradient.abs().sum() > 0) for gradient in gradients.values())
        assert_norms_close(ours, gradients, tolerance)
        if isinstance(foreign.elbo, RenyiELBO):  # which has no differentiable loss
            return

        def pyros() -> Tensor:
            loss: Tensor = foreign.elbo.differentiable_loss(model, guide, *batch)  # type: ignore[attr-defined]
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        loss, theirs, _ = step(pyros, leaves)
        count = round(float(loss / fast.loss))
        assert count >= len(batch[0]) - 1
        torch.testing.assert_close(fast.loss * count, loss, rtol=tolerance, atol=10 * tolerance)
        assert_norms_close({name: count * value for name, value in ours.items()}, theirs, 10 * tolerance)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_step_is_the_uncompiled_one_and_pyros(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    without_inductor(monkeypatch)
    assert_same_steps(FOREIGN[name], 1e-10)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dtype", [torch.float32], indirect=True)
def test_a_step_in_float32(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    without_inductor(monkeypatch)
    assert_same_steps(FOREIGN[name], 1e-5)


@pytest.mark.skipif(COMPILER is not None, reason=str(COMPILER))
@pytest.mark.parametrize("name", INDUCTOR)
def test_a_step_by_inductor_is_the_uncompiled_one_and_pyros(name: str, dtype: torch.dtype) -> None:
    assert_same_steps(FOREIGN[name], 1e-10)


def fitted(make: Callable[[], Foreign], compile: bool) -> SVIResult:
    with isolated(seed=2):
        foreign = make()
        return fit(
            foreign.model,
            foreign.guide,
            foreign.batch,
            epochs=20 if foreign.batch_size is None else 10,
            batch_size=foreign.batch_size,
            objective=foreign.elbo,
            optimizer=partial(torch.optim.Adam, lr=0.01),
            seed=3,
            compile=compile,
        )


@pytest.mark.parametrize("name", FOREIGN)
def test_twenty_steps_of_a_fit_end_at_the_same_parameters(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_inductor(monkeypatch)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Steps run uncompiled")
        plain, fast = fitted(FOREIGN[name], compile=False), fitted(FOREIGN[name], compile=True)
    assert fast.losses == pytest.approx(plain.losses, rel=1e-8)
    assert torch.equal(fast.state.random.torch, plain.state.random.torch)
    assert_norms_close(fast.parameters, plain.parameters, 1e-8)
