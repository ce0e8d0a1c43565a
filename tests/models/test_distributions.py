from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from latentmix.models.distributions import ContinuousBernoulli, DiscretizedLogisticMixture, on_levels
from latentmix.models.logistic import softplus

LOGITS = [-80.0, -30.0, -2.0, -1.0, -0.1, -1e-4, -1e-9, 0.0, 1e-12, 1e-6, 0.01, 0.999, 1.0, 1.5, 30.0, 80.0]
LEVELS = torch.arange(256, dtype=torch.float64) / 255


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def quadrature(logit: float) -> tuple[float, float]:
    """log of the integral of exp(l x) over [0, 1], and the mean, numerically; the peak is taken out."""
    peak = max(logit, 0.0)

    def integral(power: int) -> float:
        # With abs(l) up to 80 the density sits within a tenth of one end.
        points = [0.01, 0.1, 0.5, 0.9, 0.99]
        value, _ = scipy.integrate.quad(
            lambda x: x**power * math.exp(logit * x - peak), 0, 1, points=points, epsabs=0, epsrel=1e-13, limit=200
        )
        return float(value)

    return math.log(integral(0)) + peak, integral(1) / integral(0)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_equals_quadrature(logit: float) -> None:
    log_normalizer, mean = quadrature(logit)
    x = double([0.0, 0.2, 0.5, 0.9, 1.0])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-7)):
        logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
        distribution = ContinuousBernoulli(logits)
        assert distribution.mean.item() == pytest.approx(mean, abs=tolerance)
        for value in x.to(dtype):
            measured = distribution.log_prob(value)
            (slope,) = torch.autograd.grad(measured, logits)
            expected = logits.item() * value.item() - log_normalizer
            assert measured.item() == pytest.approx(expected, abs=tolerance * max(1, abs(expected)), rel=0)
            assert slope.item() == pytest.approx(value.item() - mean, abs=tolerance)


def test_continuous_bernoulli_agrees_with_torch_away_from_one_half() -> None:
    logits = torch.cat([torch.linspace(-12, -1, 40), torch.linspace(1, 12, 40)]).double()
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    x = torch.rand(5, 80, dtype=torch.float64)
    torch.testing.assert_close(ContinuousBernoulli(logits).log_prob(x), theirs.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ContinuousBernoulli(logits).mean, theirs.mean, rtol=1e-5, atol=1e-5)


def test_continuous_bernoulli_gradients_equal_finite_differences() -> None:
    logits = double([-60.0, -3.0, -0.5, 1e-3, 0.5, 3.0, 60.0]).requires_grad_()
    x = double([0.0, 0.3, 1.0]).unsqueeze(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits, x: ContinuousBernoulli(logits).log_prob(x), (logits, x.detach()))
    assert torch.autograd.gradgradcheck(lambda logits: ContinuousBernoulli(logits).log_prob(x.detach()), (logits,))
    assert torch.autograd.gradcheck(lambda logits: ContinuousBernoulli(logits).mean, (logits,))
    uniform = double([0.05, 0.5, 0.95]).unsqueeze(-1)
    assert torch.autograd.gradcheck(lambda logits: ContinuousBernoulli(logits).icdf(uniform), (logits,))


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_quantiles_invert_the_distribution_function(logit: float, dtype: torch.dtype) -> None:
    probability = double([0.0, 1e-3, 0.3, 0.5, 0.7, 0.999, 1.0]).to(dtype)
    x = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)).icdf(probability).double()
    assert ((x >= 0) & (x <= 1)).all()
    p = probability.double()
    # Inverted in float64 from the end where it is well conditioned.
    expected = p if abs(logit) < 1e-7 else torch.log(p + (1 - p) * math.exp(-abs(logit))) / abs(logit) + 1
    if logit <= -1e-7:
        expected = -torch.log((1 - p) + p * math.exp(logit)) / abs(logit)
    tolerance = 3 * torch.finfo(dtype).eps + 1e-16 / max(abs(logit), 1e-7)
    assert (x - expected).abs().max() < tolerance


def test_continuous_bernoulli_samples_follow_the_density() -> None:
    # Kolmogorov-Smirnov at 1e-4 for each of 5: false alarm in 1 of 2,000 seeds.
    for logit in (-50.0, -2.0, 0.0, 1e-5, 50.0):
        x = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64)).sample((4000,)).numpy()

        def cdf(x: object, logit: float = logit) -> object:
            if abs(logit) < 1e-8:
                return x
            steep = torch.as_tensor(x) * logit
            return (torch.expm1(steep) / math.expm1(logit)).numpy()

        assert scipy.stats.kstest(x, cdf).pvalue > 1e-4


def masses(logits: list[float], loc: list[float], scale: list[float], dtype: torch.dtype) -> DiscretizedLogisticMixture:
    return DiscretizedLogisticMixture(*(torch.tensor(part, dtype=dtype) for part in (logits, loc, scale)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [5e-4, 1e-3, 0.02, 0.3, 5.0, 200.0])
@pytest.mark.parametrize("loc", [-3.0, 0.0, 0.4999, 0.98, 1.0, 7.0])
def test_levels_sum_to_one(loc: float, scale: float, dtype: torch.dtype, tolerance: float) -> None:
    for distribution in (
        masses([0.0], [loc], [scale], dtype),
        masses([0.1, -2.0, 3.0], [loc, 0.5, 0.1], [scale, 0.01, 0.1], dtype),
    ):
        mass = distribution.log_prob(LEVELS.to(dtype)).exp()
        assert abs(mass.double().sum().item() - 1) < tolerance
        mean = (mass.double() * LEVELS).sum()
        assert distribution.mean.item() == pytest.approx(mean.item(), abs=10 * tolerance)


def test_levels_equal_differences_of_scipys_distribution_function() -> None:
    loc, scale = [0.2, 0.7], [0.05, 0.01]
    edges = torch.cat([double([-math.inf]), (LEVELS[:-1] + LEVELS[1:]) / 2, double([math.inf])])
    expected = torch.zeros(256, dtype=torch.float64)
    for weight, m, s in zip([0.25, 0.75], loc, scale, strict=True):
        expected = expected + weight * torch.from_numpy(scipy.stats.logistic.cdf(edges, m, s)).diff()
    distribution = masses([0.0, math.log(3)], loc, scale, torch.float64)
    torch.testing.assert_close(distribution.log_prob(LEVELS).exp(), expected, rtol=1e-9, atol=1e-15)


def test_far_tails_keep_their_slope() -> None:
    # scipy's differences are exactly 0 here; the log-mass falls by one level's width over s per level.
    distribution = masses([0.0], [0.0], [0.005], torch.float32)
    tail = distribution.log_prob(LEVELS[200:255].float())
    torch.testing.assert_close(tail.diff(), torch.full((54,), -1 / 255 / 0.005), rtol=1e-3, atol=1e-3)


def test_levels_are_sampled_by_their_mass() -> None:
    # Chi-squared at 1e-4 over pooled levels: false alarm in 1 of 10,000 seeds.
    distribution = masses([0.0, 1.0], [0.02, 0.6], [0.03, 0.1], torch.float64)
    x = distribution.sample((20_000,))
    assert on_levels(x).all()
    counts = torch.bincount((x * 255).round().long(), minlength=256).double()
    expected = 20_000 * distribution.log_prob(LEVELS).exp()
    pools = (expected.cumsum(0) / 100).long().clamp_max(198)
    pooled = [torch.zeros(199, dtype=torch.float64).index_add_(0, pools, part) for part in (counts, expected)]
    kept = pooled[1] > 5
    statistic = ((pooled[0] - pooled[1])[kept].square() / pooled[1][kept]).sum().item()
    assert scipy.stats.chi2.sf(statistic, int(kept.sum()) - 1) > 1e-4


def test_samples_are_rounded_to_the_nearest_level() -> None:
    narrow = masses([0.0], [100 / 255], [5e-4], torch.float64)
    rate = narrow.log_prob(LEVELS[100]).exp().item()
    # Within 5 standard errors: false alarm in 1 of a million seeds. Rounded down, half would be at level 100.
    measured = (narrow.sample((10_000,)) * 255 - 100).abs().lt(0.1).double().mean().item()
    assert rate > 0.95
    assert measured == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / 10_000))


def make(kind: str, batch: tuple[int, ...], dtype: torch.dtype) -> dist.TorchDistribution:
    if kind == "continuous":
        return ContinuousBernoulli(torch.randn(batch, dtype=dtype))
    logits, loc = torch.randn(2, *batch, 2, dtype=dtype)
    return DiscretizedLogisticMixture(logits, loc, torch.rand(*batch, 2, dtype=dtype) + 0.01)


@pytest.mark.parametrize("kind", ["continuous", "discretized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_expand_and_plates(kind: str, dtype: torch.dtype) -> None:
    distribution = make(kind, (3, 1), dtype)
    expanded = distribution.expand((2, 3, 4))
    assert expanded.batch_shape == (2, 3, 4)
    x = expanded.sample((5,))
    assert x.shape == (5, 2, 3, 4)
    assert x.dtype == distribution.mean.dtype == dtype
    assert expanded.mean.shape == (2, 3, 4)
    torch.testing.assert_close(expanded.log_prob(x), distribution.log_prob(x))
    assert distribution.log_prob(x[0, 0, :, :1]).shape == (3, 1)
    with pyro.plate("particles", 2, dim=-2), pyro.plate("data", 3, dim=-1):
        assert pyro.sample("x", make(kind, (3, 4), dtype).to_event(1)).shape == (2, 3, 4)


def test_arguments_and_data_are_validated() -> None:
    with pytest.raises(ValueError, match="logits"):
        ContinuousBernoulli(torch.tensor(math.nan), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        ContinuousBernoulli(torch.zeros(2), validate_args=True).log_prob(torch.tensor(1.5))
    with pytest.raises(ValueError, match="scale"):
        DiscretizedLogisticMixture(torch.zeros(1), torch.zeros(1), torch.zeros(1), validate_args=True)
    checked = DiscretizedLogisticMixture(torch.zeros(1), torch.zeros(1), torch.ones(1), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.expand((3,)).log_prob(torch.full((3,), 0.5))


def test_softplus_equals_its_definition() -> None:
    x = double([-800.0, -30.0, 0.0, 19.0, 21.0, 30.0, 800.0])
    torch.testing.assert_close(softplus(x), torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-15, atol=0)
