from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from jsonargparse import ArgumentParser
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.models import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    MLPDecoder,
    StandardNormal,
)
from latentmix.models.likelihoods import Support

# Every Likelihood and each of its forms. Extend with each new class.
LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "gaussian shared": lambda: Gaussian("shared"),
    "gaussian closed form": lambda: Gaussian("shared", closed_form=True),
    "gaussian pixel": lambda: Gaussian("pixel"),
    "laplace": Laplace,
    "laplace shared": lambda: Laplace("shared"),
    "laplace closed form": lambda: Laplace("shared", closed_form=True),
    "laplace pixel": lambda: Laplace("pixel"),
    "discretized logistic": DiscretizedLogistic,
    "discretized logistics": lambda: DiscretizedLogistic(n_mixtures=3),
}


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_reaches_every_output_and_parameter(likelihood: Likelihood, dtype: torch.dtype) -> None:
    outputs = torch.randn(4, 2, 3, likelihood.outputs, dtype=dtype, requires_grad=True)
    log_prob(likelihood(outputs), likelihood(outputs).sample()).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad != 0).all()
    for parameter in likelihood.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite()
        assert parameter.grad != 0


def test_gradient_equals_finite_differences(likelihood: Likelihood) -> None:
    likelihood.double()
    outputs = torch.randn(2, 2, 3, likelihood.outputs, dtype=torch.float64, requires_grad=True)
    x = likelihood(outputs).sample()
    parameters = dict(likelihood.named_parameters())

    def value(outputs: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        return log_prob(torch.func.functional_call(likelihood, named, (outputs,)), x)

    assert torch.autograd.gradcheck(value, (outputs, *parameters.values()))


def test_mean_is_the_mean_of_samples(likelihood: Likelihood) -> None:
    outputs = torch.randn(2, 3, likelihood.outputs, dtype=torch.float64)
    samples = likelihood(outputs).sample((20_000,))
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - likelihood.mean(outputs)).abs() < 5 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_likelihoods_own_samples_pass_the_check(likelihood: Likelihood, dtype: torch.dtype) -> None:
    likelihood.check(likelihood(torch.randn(50, 2, 3, likelihood.outputs, dtype=dtype)).sample())


@pytest.mark.parametrize("size", [-200.0, 0.0, 200.0])
def test_extreme_outputs_stay_finite(likelihood: Likelihood, size: float) -> None:
    outputs = torch.full((1, 2, 3, likelihood.outputs), size, requires_grad=True)
    distribution = likelihood(outputs)
    for x in (torch.zeros(1, 2, 3), torch.ones(1, 2, 3), distribution.sample()):
        value = log_prob(distribution, x)
        (gradient,) = torch.autograd.grad(value.sum(), outputs, retain_graph=True)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    assert likelihood.mean(outputs).isfinite().all()


def test_trains_as_part_of_a_vae_with_vectorised_particles(likelihood: Likelihood) -> None:
    shape = (2, 3)
    decoder = MLPDecoder(latent_dim=2, hidden=(5,), shape=shape, outputs=likelihood.outputs)
    vae = VAE(decoder, StandardNormal(2), likelihood)
    guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(5,), shape=shape))
    x = likelihood(torch.randn(7, *shape, likelihood.outputs)).sample()
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    elbo.differentiable_loss(vae.model, guide, x).backward()
    for parameter in (*vae.parameters(), *guide.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert vae.generate(5).shape == (5, *shape)


def test_state_dict_round_trip(request: pytest.FixtureRequest, likelihood: Likelihood) -> None:
    for tensor in likelihood.state_dict().values():
        tensor.add_(0.5)
    fresh = LIKELIHOODS[request.node.callspec.params["likelihood"]]()
    fresh.load_state_dict(likelihood.state_dict())
    outputs = torch.randn(4, 2, 3, likelihood.outputs)
    x = likelihood(outputs).sample()
    assert torch.equal(fresh.mean(outputs), likelihood.mean(outputs))
    assert torch.equal(log_prob(fresh(outputs), x), log_prob(likelihood(outputs), x))
    assert torch.equal(log_prob(copy.deepcopy(likelihood)(outputs), x), log_prob(likelihood(outputs), x))


def test_repr_is_the_call_that_makes_it(likelihood: Likelihood) -> None:
    again = eval(repr(likelihood))
    assert type(again) is type(likelihood)
    assert repr(again) == repr(likelihood)
    assert again.outputs == likelihood.outputs


@pytest.mark.parametrize(
    ("kind", "measure", "discrete"),
    [
        (Bernoulli, "mass on {0, 1}", True),
        (DiscretizedLogistic, "mass on 256 levels", True),
        (ContinuousBernoulli, "density", False),
        (Gaussian, "density", False),
        (Laplace, "density", False),
    ],
)
def test_measures_determine_what_may_be_ranked(kind: Callable[[], Likelihood], measure: str, discrete: bool) -> None:
    assert (kind().measure, kind().discrete) == (measure, discrete)


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


class Learned(Supported):
    """A user's own likelihood: `outputs` is an attribute of the object."""

    support: ClassVar[Support] = "real"

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.outputs = degree

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs.sum(-1), 1.0)


def test_own_subclass_with_outputs_of_its_object() -> None:
    def vae(outputs: int) -> VAE:
        decoder = MLPDecoder(latent_dim=2, hidden=(), shape=(3,), outputs=outputs)
        return VAE(decoder, StandardNormal(2), Learned(3))

    assert vae(3).model(torch.zeros(4, 3)).shape == (4, 3)
    assert vae(3).likelihood.measure == "density"
    with pytest.raises(ValueError, match=r"outputs=3 for Learned; got outputs=1"):
        vae(1)


class Counts(Supported):
    support: ClassVar[Support] = "counts"


class Positive(Supported):
    support: ClassVar[Support] = "positive"


class Labels(Supported):
    support = "labels"  # type: ignore[assignment]


class Words(Labels):
    measure = "mass on words"  # type: ignore[assignment]


def test_every_support_has_a_measure() -> None:
    assert (Counts().measure, Counts().discrete) == ("mass on {0, 1, 2, ...}", True)
    assert (Positive().measure, Positive().discrete) == ("density", False)
    assert (Words().measure, Words().discrete) == ("mass on words", True)
    with pytest.raises(ValueError, match=r"Expected Labels to have a support out of binary.*got 'labels': another one"):
        Labels().discrete  # noqa: B018


def test_an_unknown_support_is_refused_by_the_vae() -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(), shape=(3,))
    with pytest.raises(ValueError, match="Expected Labels to have a support out of"):
        VAE(decoder, StandardNormal(2), Labels())
    assert VAE(decoder, StandardNormal(2), Words()).likelihood.discrete


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
        (Counts, [0.0, 1.0, 300.0]),
        (Positive, [1e-30, 2.5]),
        (DiscretizedLogistic, [k / 255 for k in range(256)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_check_accepts_the_support(kind: type[Likelihood], values: list[float], dtype: torch.dtype) -> None:
    kind().check(torch.tensor(values, dtype=dtype))


def test_check_accepts_bytes_and_booleans() -> None:
    Bernoulli().check(torch.tensor([0, 1], dtype=torch.uint8))
    Bernoulli().check(torch.tensor([False, True]))
    Counts().check(torch.tensor([0, 255], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Bernoulli, [0.0, 0.5, 1.0], "zeros and ones for Bernoulli; got values between 0 and 1"),
        (Bernoulli, [0.0, 255.0], "zeros and ones for Bernoulli; got values between 0 and 255"),
        (Bernoulli, [0.0, math.nan], "finite data for Bernoulli; got NaN"),
        (Unit, [0.0, 1.01], r"data in \[0, 1\] for Unit; got values between 0 and 1.01"),
        (Unit, [-0.25, 1.0], r"data in \[0, 1\] for Unit; got values between -0.25 and 1"),
        (Real, [math.inf], "finite data for Real"),
        (Counts, [0.0, 2.5], "Expected counts, 0, 1, 2, ..., for Counts; got values between 0 and 2.5 that are none"),
        (Counts, [-1.0, 2.0], "Expected counts, .* got values between -1 and 2"),
        (Positive, [0.0, 2.0], "positive data for Positive; got values from 0"),
        (ContinuousBernoulli, [2.0], r"data in \[0, 1\] for ContinuousBernoulli; got values between 2 and 2"),
        (Gaussian, [math.nan], "finite data for Gaussian"),
        (DiscretizedLogistic, [0.0, 0.5], "256 levels k / 255 for DiscretizedLogistic; got 0.5: divide"),
        (DiscretizedLogistic, [0.0, 1.0, 255.0], "256 levels k / 255 for DiscretizedLogistic; got 255: divide"),
        (DiscretizedLogistic, [-1 / 255], "256 levels k / 255 for DiscretizedLogistic; got -0.0039"),
    ],
)
def test_check_refuses_other_data(kind: type[Likelihood], values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind().check(torch.tensor(values))


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["Gaussian", "var_x=0.2"], "Gaussian(var_x=0.2)"),
        (["Gaussian", "var_x=shared", "closed_form=true"], "Gaussian(var_x='shared', closed_form=True)"),
        (["Laplace", "scale=pixel"], "Laplace(scale='pixel')"),
        (["DiscretizedLogistic", "n_mixtures=5"], "DiscretizedLogistic(n_mixtures=5)"),
    ],
)
def test_options_of_the_command_line_follow_from_the_signatures(options: list[str], made: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Likelihood, "likelihood")
    words = [f"--likelihood={options[0]}", *(f"--likelihood.{option}" for option in options[1:])]
    assert repr(parser.instantiate(parser.parse_args(words)).likelihood) == made


@pytest.mark.parametrize("n_mixtures", [0, -1, 1.5])
def test_fewer_than_one_component_is_refused(n_mixtures: Any) -> None:
    with pytest.raises(ValueError, match=f"Expected n_mixtures to hold positive integers; got {n_mixtures}"):
        DiscretizedLogistic(n_mixtures=n_mixtures)
