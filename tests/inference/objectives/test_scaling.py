"""A minibatch counts for all of the data by a subsampled plate or by `poutine.scale`: the same fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.distributions import constraints
from torch.optim import Adam

from latentmix.inference import SVIResult, Weighted, evaluate, fit

from tests.inference.normal import normal_data

N, SIZE = 200, 30  # the last minibatch is shorter
Model = Callable[[Tensor], Any]
ONE = torch.ones((), dtype=torch.float64)


def location() -> Any:
    return pyro.sample("loc", dist.Normal(0 * ONE, 10 * ONE))


def posterior(x: Tensor) -> None:
    loc = pyro.param("m", 2 * ONE)
    pyro.sample("loc", dist.Normal(loc, pyro.param("s", 0.3 * ONE, constraint=constraints.positive)))


def by_plate(x: Tensor) -> None:
    loc = location()
    with pyro.plate("data", N, subsample=x):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def within_a_plate(x: Tensor) -> None:
    loc = location()
    with pyro.plate("data", len(x)), poutine.scale(scale=N / len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def around_a_plate(x: Tensor) -> None:
    loc = location()
    with poutine.scale(scale=torch.tensor(N / len(x))), pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def without_a_plate(x: Tensor) -> None:
    loc = location()
    with poutine.scale(scale=N / len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)


def as_a_decorator(x: Tensor) -> None:
    @poutine.scale(scale=N / len(x))
    def observe(loc: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    observe(location())


def train(model: Model, guide: Model = posterior, objective: Any = None, size: int = SIZE) -> SVIResult:
    return fit(
        model,
        guide,
        normal_data(N),
        epochs=3,
        batch_size=size,
        objective=Trace_ELBO() if objective is None else objective,
        optimizer=lambda leaves: Adam(leaves, lr=0.05),
        seed=1,
    )


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), TraceMeanField_ELBO(), TraceGraph_ELBO()], ids=lambda elbo: type(elbo).__name__
)
@pytest.mark.parametrize("model", [within_a_plate, around_a_plate, without_a_plate, as_a_decorator])
def test_a_scale_equals_a_subsampled_plate(model: Model, elbo: ELBO) -> None:
    expected, result = train(by_plate, objective=elbo), train(model, objective=elbo)
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, rtol=1e-5, atol=1e-6)
    measured = evaluate(model, posterior, normal_data(N), batch_size=SIZE, store=result.store)
    plate = evaluate(by_plate, posterior, normal_data(N), batch_size=SIZE, store=expected.store)
    assert measured.loss == pytest.approx(plate.loss, rel=1e-6)


def local_pair(scaled: bool, enumerated: bool = False) -> tuple[Model, Model]:
    """A latent per datum, in a subsampled plate or under a scale, in the guide too."""

    def plate(x: Tensor) -> Any:
        return pyro.plate("data", len(x)) if scaled else pyro.plate("data", N, subsample=x)

    def factor(x: Tensor) -> float:
        return N / len(x) if scaled else 1.0

    def model(x: Tensor) -> None:
        loc = location()
        with plate(x), poutine.scale(scale=factor(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            if enumerated:
                z = z + pyro.sample("k", dist.Categorical(torch.ones(2).double()), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        posterior(x)
        with plate(x), poutine.scale(scale=factor(x)):
            pyro.sample("z", dist.Normal(x * pyro.param("slope", 0.5 * ONE), 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("objective", "enumerated"),
    [
        (Trace_ELBO(), False),
        (TraceGraph_ELBO(), False),
        (TraceEnum_ELBO(max_plate_nesting=1), True),
        (Weighted(Trace_ELBO(), beta=2.0), False),
        (Weighted(Trace_ELBO(), warmup=2), False),
        (Weighted(TraceGraph_ELBO(), beta=2.0), False),
    ],
    ids=["Trace", "TraceGraph", "TraceEnum", "beta", "warmup", "beta of TraceGraph"],
)
def test_latents_of_single_data_are_scaled_in_model_and_guide(objective: Any, enumerated: bool) -> None:
    expected = train(*local_pair(False, enumerated), objective=objective)
    result = train(*local_pair(True, enumerated), objective=objective)
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, rtol=1e-5, atol=1e-6)


def test_a_scaled_model_without_global_latents_reports_nats_per_datum() -> None:
    def model(scaled: bool) -> Model:
        def run(x: Tensor) -> None:
            with poutine.scale(scale=N / len(x) if scaled else 1.0), pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0 * ONE, 1.0))
                pyro.sample("x", dist.Normal(z + pyro.param("b", ONE), 1.0), obs=x)

        return run

    def guide(scaled: bool) -> Model:
        def run(x: Tensor) -> None:
            with poutine.scale(scale=N / len(x) if scaled else 1.0), pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x * pyro.param("slope", 0.5 * ONE), 1.0))

        return run

    expected = train(model(False), guide(False))
    assert train(model(True), guide(True)).losses == pytest.approx(expected.losses, rel=1e-4)


def unscaled(x: Tensor) -> None:
    loc = location()
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def scaled_by(factor: Callable[[int], float]) -> Model:
    def model(x: Tensor) -> None:
        loc = location()
        with pyro.plate("data", len(x)), poutine.scale(scale=factor(len(x))):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model


def scaled_twice(x: Tensor) -> None:
    loc = location()
    with pyro.plate("data", N, subsample=x), poutine.scale(scale=N / len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def one_of_two(x: Tensor) -> None:
    loc = location()
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=N / len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        pyro.sample("y", dist.Normal(loc, 1.0), obs=x)


WRONG: dict[str, tuple[Model, Model, str]] = {
    "no scale": (unscaled, posterior, "Expected a plate over all 200 data.*'loc'.*got one over 30"),
    "the number of others": (
        scaled_by(lambda n: 2 * N / n),
        posterior,
        r"Expected poutine.scale by 6.66667, 200 data over a minibatch of 30.*'loc'.*got 13.3333",
    ),
    "the inverse": (scaled_by(lambda n: n / N), posterior, "Expected a plate over all 200 data"),
    "twice": (scaled_twice, posterior, "Expected a minibatch to be scaled up once; got 'x' in a plate over all 200"),
    "all of the model": (
        poutine.scale(unscaled, scale=N / SIZE),
        posterior,
        "Expected 'loc', a latent of the whole data set, outside poutine.scale by 6.66667",
    ),
    "all of model and guide": (
        poutine.scale(unscaled, scale=N / SIZE),
        poutine.scale(posterior, scale=N / SIZE),
        "Expected 'loc', a latent of the whole data set, outside poutine.scale",
    ),
    "one of two observations": (one_of_two, posterior, "Expected a plate over all 200 data"),
    "not the guide": (
        local_pair(True)[0],
        poutine.scale(local_pair(False)[1], scale=1.0),
        "Expected the guide's plate 'data' over 30 data",
    ),
}


def guide_without_scale(x: Tensor) -> None:
    posterior(x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x * pyro.param("slope", 0.5 * ONE), 1.0))


WRONG["not the guide's latent"] = (
    local_pair(True)[0],
    guide_without_scale,
    "Expected poutine.scale by 6.66667 around 'z' in the guide, as in the model; got a scale of 1",
)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_scale_is_refused(case: str) -> None:
    model, guide, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        train(model, guide)


def test_a_likelihood_that_is_tempered_in_a_plate_is_left_alone() -> None:
    def tempered(x: Tensor) -> None:
        loc = location()
        with pyro.plate("data", N, subsample=x), poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    assert len(train(tempered).losses) == 3


@pytest.mark.parametrize("batch_size", [5, 50])
def test_a_global_latent_of_a_minibatchs_length_is_not_local(batch_size: int) -> None:
    """105 rows of 5 features: minibatches of 5, or a last one of 5."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(105, 5, generator=generator)
    y = x @ torch.arange(5.0) + torch.randn(105, generator=generator)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        with pyro.poutine.scale(scale=105 / len(y)):
            pyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)

    def in_a_plate(x: torch.Tensor, y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        with pyro.plate("data", 105, subsample=y):
            pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)

    losses = [
        fit(pair, AutoDelta(pair), (x, y), epochs=2, batch_size=batch_size, seed=0).losses
        for pair in (model, in_a_plate)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
