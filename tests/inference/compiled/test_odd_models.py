"""Models that a trace could get wrong: a compiled fit equals the uncompiled one, or says why it runs uncompiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor, nn

from latentmix.inference import fit

from tests.inference.compiled.interpreter import interpreted

X = torch.linspace(-2.0, 3.0, 12, dtype=torch.float64)
MATRIX = torch.outer(X, X[:3].cos())
Case = tuple[Callable[..., Any], Callable[..., Any], Any, dict[str, Any]]


@pytest.fixture(autouse=True)
def double_precision_without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    monkeypatch.setattr("latentmix.inference.compiled.objective.compiler_obstacle", lambda device: None)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def no_latents(*batch: Tensor) -> None:
    pass


def location() -> Tensor:
    value: Tensor = pyro.sample("loc", dist.Normal(0.0, 10.0))
    return value


def observed(mean: Any, x: Tensor) -> None:
    with pyro.plate("data", len(X), subsample=x):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def by_handlers() -> Case:
    """Condition, scale, mask and keyword arguments."""

    def inner(x: Tensor, spread: float = 1.0, absent: None = None) -> None:
        shift = pyro.sample("shift", dist.Normal(location(), spread))
        missing = torch.isnan(x)
        with pyro.plate("data", 12, subsample=x), poutine.scale(scale=torch.tensor(0.5)), poutine.mask(mask=~missing):
            pyro.sample("x", dist.Normal(shift, 1.0), obs=x.nan_to_num())

    model = partial(poutine.condition(inner, data={"shift": torch.tensor(0.3)}), spread=2.0)
    x = X.clone()
    x[3] = float("nan")
    return model, AutoNormal(model), x, {}


def partly_observed() -> Case:
    def model(x: Tensor, seen: Tensor) -> None:
        mean = location()
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x, obs_mask=seen)

    def guide(x: Tensor, seen: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.1)), 0.2))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("x_unobserved", dist.Normal(pyro.param("q", torch.zeros(())), 1.0))

    return model, guide, (X, X > 0), {"batch_size": 5}


def one_by_one() -> Case:
    def model(x: Tensor) -> None:
        mean = location()
        for i in pyro.plate("data", 12):
            pyro.sample(f"x_{i}", dist.Normal(mean + i, 1.0), obs=x[i])

    return model, AutoNormal(model), X, {}


def score_function() -> Case:
    def model(x: Tensor) -> None:
        switch = pyro.sample("switch", dist.Bernoulli(0.4))
        observed(switch + pyro.sample("kind", dist.Categorical(torch.ones(3))), x)

    def guide(x: Tensor) -> None:
        pyro.sample("switch", dist.Bernoulli(pyro.param("p", torch.tensor(0.4), constraint=constraints.unit_interval)))
        pyro.sample("kind", dist.Categorical(logits=pyro.param("logits", torch.zeros(3))))

    return model, guide, X, {"batch_size": 7}


def probability_of_zero() -> Case:
    """A value that the guide enumerates, and excludes."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.5, 0.5, 0.0])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(kind.to(x), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        chosen = pyro.param("p", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            weights = torch.cat([chosen, torch.zeros(1)])
            pyro.sample("kind", dist.Categorical(weights), infer={"enumerate": "parallel"})

    return model, guide, X, {"objective": TraceEnum_ELBO(max_plate_nesting=1)}


def gamma_behind_statistics() -> Case:
    """Random numbers that depend on a layer whose running statistics a step updates."""
    first, second = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(rate[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("first", first)
        pyro.module("second", second)
        shape = 1.0 + nn.functional.softplus(second(first(x)))[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(shape, 1.0))

    return model, guide, MATRIX, {"batch_size": 6}


class Decaying(nn.Module):
    """Drops data with a probability that each step changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("kept", torch.tensor(0.5))
        self.kept: Tensor

    def forward(self, x: Tensor) -> None:
        pyro.module("decaying", self)
        self.kept.mul_(0.9).add_(0.05)
        observed(self.weight * x * torch.bernoulli(self.kept.expand(len(x))), x)


def process() -> Case:
    """A Gaussian process, which holds the data that it is called with."""
    kernel = gp.kernels.RBF(input_dim=1)
    likelihood = gp.likelihoods.Gaussian()
    sparse = gp.models.VariationalSparseGP(X, X.sin(), kernel, Xu=X[::4].clone(), likelihood=likelihood, whiten=True)
    return lambda x: sparse.model(), lambda x: sparse.guide(), X, {"objective": TraceMeanField_ELBO()}


def attention() -> Case:
    layer, inner = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True), nn.Linear(1, 4)

    def model(x: Tensor) -> None:
        pyro.module("layer", layer)
        pyro.module("inner", inner)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(layer(inner(x[..., None])).mean(-1), 1.0).to_event(1), obs=x)

    return model, no_latents, MATRIX, {"batch_size": 6}


def nested() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", 12, dim=-2):
            row = pyro.sample("row", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                cell = pyro.sample("cell", dist.Normal(row, 1.0))
                pyro.sample("x", dist.Normal(cell, 1.0), obs=x)

    reparameterised = poutine.reparam(model, config={"cell": LocScaleReparam(0.0)})
    return reparameterised, AutoNormal(reparameterised), MATRIX, {}


def constrained() -> Case:
    """Counts, and parameters on a simplex, in an interval, ordered and of a factor."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=constraints.simplex)
        factor = pyro.param("factor", torch.eye(2), constraint=constraints.lower_cholesky)
        spread = pyro.param("spread", torch.tensor(0.3), constraint=constraints.interval(0.0, 2.0))
        levels = pyro.param("levels", torch.arange(3.0).double(), constraint=constraints.ordered_vector)
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), scale_tril=factor))
        angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
        rates = spread + z[1].square() + (levels + angle.cos()).exp()
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Poisson(rates)), obs=x)

    elbo = Trace_ELBO(num_particles=3, vectorize_particles=False)
    return model, AutoMultivariateNormal(model), torch.arange(12) % 4, {"objective": elbo}


def complex_numbers() -> Case:
    def model(x: Tensor) -> None:
        turned = torch.complex(location(), pyro.sample("imaginary", dist.Normal(0.0, 1.0))) * torch.exp(1j * x)
        observed(turned.real + turned.abs(), x)

    return model, AutoLaplaceApproximation(model), X, {}


def by_positions() -> Case:
    def model(x: Tensor) -> None:
        mean, known = location(), x[x > 0]
        with pyro.plate("data", len(known)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=known)

    return model, AutoNormal(model), X, {}


class Counting:
    """A model that replaces an object in every call."""

    def __init__(self) -> None:
        self.state = {"calls": 0.0}

    def __call__(self, x: Tensor) -> None:
        self.state = {"calls": self.state["calls"] + 1.0}
        observed(location() + self.state["calls"], x)


def chain() -> Case:
    """Two values that the guide enumerates, one dependent on the other, and a draw that depends on the second."""

    def model(x: Tensor) -> None:
        matrix = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
        with pyro.plate("data", 12, subsample=x):
            first = pyro.sample("first", dist.Categorical(torch.ones(2)))
            second = pyro.sample("second", dist.Categorical(matrix[first]))
            z = pyro.sample("z", dist.Normal(second.to(x), 1.0))
            pyro.sample("x", dist.Normal(first + 2.0 * second + z, 1.0), obs=x)

    @config_enumerate
    def guide(x: Tensor) -> None:
        start, matrix = pyro.param("start", X[:2].clone()), pyro.param("matrix", X[2:6].reshape(2, 2).clone())
        means = pyro.param("means", torch.zeros(2))
        with pyro.plate("data", 12, subsample=x):
            first = pyro.sample("first", dist.Categorical(logits=start))
            second = pyro.sample("second", dist.Categorical(logits=matrix[first]))
            pyro.sample("z", dist.Normal(means[second], 1.0))

    return model, guide, X, {"objective": TraceEnum_ELBO(max_plate_nesting=1), "batch_size": 5}


def own_generator() -> Case:
    """Random numbers of a generator that is made in every call, the same ones each time."""

    def model(x: Tensor) -> None:
        shift = torch.randn((), generator=torch.Generator().manual_seed(0))
        observed(location() + shift, x)

    return model, AutoNormal(model), X, {}


def memory() -> Case:
    known: dict[Any, Any] = {}

    def model(x: Tensor) -> None:
        mean = location()
        known[len(known)] = mean
        observed(mean, x)

    return model, AutoNormal(model), X, {}


CASES: dict[str, tuple[Callable[[], Case], str | None]] = {
    "handlers": (by_handlers, None),
    "partly observed": (partly_observed, None),
    "sequential plate": (one_by_one, None),
    "score function": (score_function, None),
    "probability of zero": (probability_of_zero, None),
    "Gamma behind running statistics": (gamma_behind_statistics, None),
    "probability in a buffer": (lambda: (Decaying(), no_latents, X, {"batch_size": 5}), None),
    "Gaussian process": (process, None),
    "attention": (attention, None),
    "nested plates": (nested, None),
    "constraints": (constrained, None),
    "complex numbers": (complex_numbers, None),
    "positions": (by_positions, "Expected tensors of the same shapes for other data and parameters"),
    "object that is replaced": (
        lambda: (model := Counting(), AutoNormal(model), X, {}),
        "got one that changes Counting.state",
    ),
    "chain in the guide": (chain, None),
    "generator of its own": (own_generator, "model and guide give"),
    "memory": (memory, "got one that changes the length of known"),
}


def fitted(make: Callable[[], Case], compile: bool) -> tuple[Any, list[str]]:
    torch.manual_seed(0)
    model, guide, data, options = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = partial(torch.optim.Adam, lr=0.02)
        result = fit(model, guide, data, epochs=5, seed=1, optimizer=optimizer, compile=compile, **options)
    return result, [str(each.message) for each in caught if "uncompiled" in str(each.message)]


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_fit_of_an_odd_model_is_the_uncompiled_one(name: str) -> None:
    make, reason = CASES[name]
    plain, _ = fitted(make, compile=False)
    fast, said = fitted(make, compile=True)
    assert fast.losses == pytest.approx(plain.losses, rel=1e-10)
    assert torch.equal(fast.state.random.torch, plain.state.random.torch)
    assert fast.parameters.keys() == plain.parameters.keys()
    for values, expected in ((fast.parameters, plain.parameters), (fast.state.buffers, plain.state.buffers)):
        for key, value in expected.items():
            torch.testing.assert_close(values[key], value, rtol=1e-10, atol=1e-10)
    assert len(said) == (reason is not None)
    assert reason is None or reason in said[0]
