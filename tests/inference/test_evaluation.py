from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, ConvEncoder
from latentmix.inference import Bound, bits_per_dimension, check_comparable, evaluate
from latentmix.models import VAE, Bernoulli, ContinuousBernoulli, Gaussian, Likelihood, MLPDecoder, StandardNormal


def make_pair() -> tuple[VAE, AmortizedGuide]:
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
    return vae, AmortizedGuide(encoder=encoder)


def point_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)


def point_guide(x: Tensor) -> None:
    """No noise: every bound of this pair is exact."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x / 3))


@pytest.mark.parametrize("batch_size", [1, 7, 30, 31])
@pytest.mark.parametrize("objective", [Trace_ELBO(), TraceMeanField_ELBO()], ids=lambda elbo: type(elbo).__name__)
def test_bound_is_the_mean_over_data_whatever_the_chunks(objective: Trace_ELBO, batch_size: int) -> None:
    x = torch.linspace(-2.0, 5.0, 30, dtype=torch.float64)
    bound = evaluate(point_model, point_guide, x, objective=objective, batch_size=batch_size)
    z = x / 3
    log_likelihood = dist.Normal(2 * z, 1.0).log_prob(x).mean().item()
    kl = -dist.Normal(0.0, 1.0).log_prob(z).mean().item()
    assert bound.log_likelihood == pytest.approx(log_likelihood, rel=1e-10)
    assert bound.kl == pytest.approx(kl, rel=1e-10)
    assert bound.loss == pytest.approx(kl - log_likelihood, rel=1e-10)
    assert bound.elbo == -bound.loss


def test_full_size_plate_counts_all_data() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("data", 100, subsample=x):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Delta(torch.tensor(0.5, dtype=torch.float64)))

    x = torch.linspace(-1.0, 2.0, 30, dtype=torch.float64)
    bound = evaluate(model, guide, x, batch_size=7)
    log_likelihood = dist.Normal(0.5, 1.0).log_prob(x).mean().item()
    prior = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5, dtype=torch.float64)).item() / 100
    assert bound.loss == pytest.approx(-log_likelihood - prior, rel=1e-10)


def test_evaluation_depends_on_the_seed_alone(binary_images: Tensor) -> None:
    vae, guide = make_pair()

    def noisy(x: Tensor) -> Tensor:
        return torch.bernoulli(0.1 + 0.8 * x)

    def measured(seed: int) -> Bound:
        return evaluate(vae.model, guide, binary_images, transform=noisy, batch_size=16, seed=seed)

    first = measured(1)
    torch.manual_seed(99)
    assert measured(1) == first
    assert measured(2) != first


def test_tuple_data_and_transform() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        point_model(x + y)

    def guide(x: Tensor, y: Tensor) -> None:
        point_guide(x + y)

    x = torch.linspace(-2.0, 5.0, 10, dtype=torch.float64)
    together = evaluate(point_model, point_guide, x)
    apart = evaluate(model, guide, (x.float(), x), transform=lambda x, y: (0.25 * y, 0.75 * y), batch_size=4)
    assert apart.loss == pytest.approx(together.loss, rel=1e-10)


def test_modes_of_modules_are_restored(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    guide.head.eval()
    modes = [part.training for part in (*vae.modules(), *guide.modules())]
    before = {name: value.clone() for part in (vae, guide) for name, value in part.state_dict().items()}
    bound = evaluate(vae.model, guide, binary_images)
    assert [part.training for part in (*vae.modules(), *guide.modules())] == modes
    for part in (vae, guide):
        for name, value in part.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(parameter.grad is None for parameter in part.parameters())
    guide.eval()
    assert evaluate(vae.model, guide, binary_images) == bound


@pytest.mark.parametrize("wrapping", ["lambda", "poutine"])
def test_modes_of_wrapped_modules_are_restored(binary_images: Tensor, wrapping: str) -> None:
    vae, guide = make_pair()
    wrapped: Any = (lambda x: guide(x)) if wrapping == "lambda" else pyro.poutine.scale(guide, scale=1.0)
    norm = next(part for part in guide.modules() if isinstance(part, nn.BatchNorm2d))
    bound = evaluate(vae.model, wrapped, binary_images)
    assert norm.num_batches_tracked == 0
    assert bound == evaluate(vae.model, guide, binary_images)


def test_parameters_of_the_store_are_used_and_kept() -> None:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.0, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(slope * x))

    x = torch.linspace(-2.0, 5.0, 30, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"Expected the fitted value of parameter 'slope'; .* store=result.store"):
        evaluate(point_model, guide, x)
    assert len(pyro.get_param_store()) == 0
    pyro.param("slope", torch.tensor(7.0))
    with pyro.get_param_store().scope() as store:
        pyro.param("slope", torch.tensor(1 / 3, dtype=torch.float64))
    assert evaluate(point_model, guide, x, store=store) == evaluate(point_model, point_guide, x)
    assert {name: value.item() for name, value in pyro.get_param_store().items()} == {"slope": 7.0}


class Own(Trace_ELBO):  # type: ignore[misc]
    """An ELBO without an objective of its own."""


def test_an_objective_that_does_not_split_its_bound(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    bound = evaluate(vae.model, guide, binary_images, objective=Own())
    assert bound.loss == pytest.approx(evaluate(vae.model, guide, binary_images).loss, rel=1e-5)
    assert math.isnan(bound.log_likelihood)
    assert math.isnan(bound.kl)


def test_a_callable_without_a_bound_is_refused(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    with pytest.raises(ValueError, match="Expected"):
        evaluate(vae.model, guide, binary_images, objective=lambda model, guide, x: x.sum())  # type: ignore[arg-type]


def test_data_outside_the_support_are_refused(binary_images: Tensor) -> None:
    """Grey pixels are outside the support of Bernoulli: the result would look like a bound without being one."""
    vae, guide = make_pair()
    with pytest.raises(ValueError, match="zeros and ones for Bernoulli"):
        evaluate(vae.model, guide, 0.5 * binary_images)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 1, 8, 8), "at least one datum; got lengths"),
        ((torch.zeros(3), torch.zeros(4)), r"one length.*\[3, 4\]"),
        ((), "Expected a tensor, or a tuple"),
        (torch.zeros(()), "Expected a tensor, or a tuple"),
    ],
)
def test_bad_data_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(point_model, point_guide, data)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_size_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"Expected .*batch_size.*; got .*{batch_size}"):
        evaluate(point_model, point_guide, torch.zeros(3, dtype=torch.float64), batch_size=batch_size)


def test_bits_per_dimension() -> None:
    """A fair coin for each pixel costs one bit."""
    shape = (1, 4, 4)
    nats = Bernoulli()(torch.zeros(*shape, 1)).log_prob(torch.ones(shape)).sum().item()
    assert bits_per_dimension(nats, Bernoulli(), shape) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"Expected a likelihood that gives probabilities.*; got Cont.*\(density\)"):
        bits_per_dimension(nats, ContinuousBernoulli(), shape)


def test_only_likelihoods_of_one_measure_are_ranked() -> None:
    check_comparable({})
    check_comparable({"a": ContinuousBernoulli(), "b": "density"})
    with pytest.raises(ValueError, match=r"one measure to rank.*; got a \(density\), b \(mass on \{0, 1\}\): compare"):
        check_comparable({"a": ContinuousBernoulli(), "b": Bernoulli()})
    with pytest.raises(ValueError, match="one measure"):
        check_comparable({"a": "mass on 256 levels", "b": Bernoulli()})


class Poisson(Likelihood):
    support = "counts"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(outputs[..., 0].exp())

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0].exp()


def test_a_likelihood_of_counts_is_a_mass() -> None:
    with pytest.raises(ValueError, match=r"got a \(mass on \{0, 1, 2, ...\}\), b \(density\)"):
        check_comparable({"a": Poisson(), "b": Gaussian()})
    check_comparable({"a": Poisson(), "b": Poisson()})
    assert bits_per_dimension(-2 * math.log(2), Poisson(), (2,)) == pytest.approx(1.0)
