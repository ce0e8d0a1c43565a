from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from latentmix.models import Bernoulli, Likelihood
from latentmix.models.likelihoods import Support

# Every Likelihood. Extend with each new class.
LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {"bernoulli": Bernoulli}


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return LIKELIHOODS[request.param]()


def log_prob(distribution: dist.TorchDistribution, x: Tensor) -> Tensor:
    """log p(x), summed over the values of an image of shape (2, 3)."""
    return distribution.to_event(2 - distribution.event_dim).log_prob(x)


@pytest.mark.parametrize("batch", [(), (1,), (4,), (3, 4)])
def test_shapes(likelihood: Likelihood, batch: tuple[int, ...]) -> None:
    outputs = torch.randn(*batch, 2, 3, likelihood.outputs)
    distribution = likelihood(outputs)
    assert distribution.batch_shape + distribution.event_shape == (*batch, 2, 3)
    assert likelihood.mean(outputs).shape == (*batch, 2, 3)
    assert distribution.sample().shape == (*batch, 2, 3)
    assert log_prob(distribution, distribution.sample()).shape == batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(likelihood: Likelihood, dtype: torch.dtype) -> None:
    outputs = torch.randn(4, 2, 3, likelihood.outputs, dtype=dtype)
    x = likelihood(outputs).sample()
    assert x.dtype == likelihood.mean(outputs).dtype == log_prob(likelihood(outputs), x).dtype == dtype


def test_gradient_reaches_every_output_and_parameter(likelihood: Likelihood) -> None:
    outputs = torch.randn(4, 2, 3, likelihood.outputs, requires_grad=True)
    log_prob(likelihood(outputs), likelihood(outputs).sample()).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad != 0).all()
    assert all(parameter.grad is not None for parameter in likelihood.parameters())


def test_mean_is_the_mean_of_samples(likelihood: Likelihood) -> None:
    outputs = torch.randn(2, 3, likelihood.outputs, dtype=torch.float64)
    samples = likelihood(outputs).sample((20_000,))
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - likelihood.mean(outputs)).abs() < 5 * error).all()


def test_own_samples_pass_the_check(likelihood: Likelihood) -> None:
    likelihood.check(likelihood(torch.randn(50, 2, 3, likelihood.outputs)).sample())


def test_state_dict_round_trip_and_repr(likelihood: Likelihood) -> None:
    copy = type(likelihood)()
    copy.load_state_dict(likelihood.state_dict())
    outputs = torch.randn(4, 2, 3, likelihood.outputs)
    assert torch.equal(copy.mean(outputs), likelihood.mean(outputs))
    assert repr(likelihood).startswith(type(likelihood).__name__)


def test_likelihood_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Likelihood()  # type: ignore[abstract]


def test_bernoulli_sums_to_one_over_all_binary_images() -> None:
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).view(-1, 2, 3)
    logits = 3 * torch.randn(2, 3, 1, dtype=torch.float64)
    total = torch.stack([log_prob(Bernoulli()(logits), image) for image in images]).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-12)


def test_bernoulli_equals_torch_and_scipy() -> None:
    logits = 3 * torch.randn(50, 2, 3, 1, dtype=torch.float64)
    x = torch.bernoulli(torch.full((50, 2, 3), 0.5, dtype=torch.float64))
    ours = log_prob(Bernoulli()(logits), x)
    torchs = -binary_cross_entropy_with_logits(logits[..., 0], x, reduction="none").sum((1, 2))
    scipys = scipy.stats.bernoulli.logpmf(x.numpy(), scipy.special.expit(logits[..., 0].numpy())).sum((1, 2))
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(ours, torch.from_numpy(scipys))


def test_bernoulli_gradient_is_data_minus_mean() -> None:
    logits = torch.randn(5, 2, 3, 1, dtype=torch.float64, requires_grad=True)
    x = torch.bernoulli(torch.full((5, 2, 3), 0.5, dtype=torch.float64))
    log_prob(Bernoulli()(logits), x).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[..., 0], x - logits.detach()[..., 0].sigmoid())


def test_bernoulli_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0]]).view(1, 2, 1)
    distribution = Bernoulli()(logits).to_event(2)
    assert distribution.log_prob(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(-400.0)
    assert distribution.log_prob(torch.tensor([[0.0, 1.0]])).item() == pytest.approx(0.0)


class Supported(Likelihood):
    """A stand-in for a likelihood of any support."""

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs[..., 0], 1.0)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


class Unit(Supported):
    support: ClassVar[Support] = "unit_interval"


class Real(Supported):
    support: ClassVar[Support] = "real"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Bernoulli, [0.0, 1.0]),
        (Unit, [0.0, 0.5, 1.0]),
        (Real, [-3.0, 1e30]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_check_accepts_the_support(kind: type[Likelihood], values: list[float], dtype: torch.dtype) -> None:
    kind().check(torch.tensor(values, dtype=dtype))


def test_check_accepts_bytes_and_booleans() -> None:
    Bernoulli().check(torch.tensor([0, 1], dtype=torch.uint8))
    Bernoulli().check(torch.tensor([False, True]))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Bernoulli, [0.0, 0.5, 1.0], "zeros and ones for Bernoulli; got values between 0 and 1"),
        (Bernoulli, [0.0, 255.0], "zeros and ones for Bernoulli; got values between 0 and 255"),
        (Bernoulli, [0.0, math.nan], "finite data for Bernoulli; got NaN"),
        (Unit, [0.0, 1.01], r"data in \[0, 1\] for Unit; got values between 0 and 1.01"),
        (Unit, [-0.25, 1.0], r"data in \[0, 1\] for Unit; got values between -0.25 and 1"),
        (Real, [math.inf], "finite data for Real"),
    ],
)
def test_check_refuses_other_data(kind: type[Likelihood], values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind().check(torch.tensor(values))
