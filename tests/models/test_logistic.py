from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.models import Bernoulli, ContinuousBernoulli, DiscretizedLogistic, Gaussian, Laplace, Likelihood
from latentmix.models import distributions as ours
from latentmix.models.logistic import bernoulli_log_mass, log_one_minus_exp, logsigmoid, softplus

Function = Callable[..., Tensor]
SLOW = ("log1p", "expm1", "softplus", "log_sigmoid", "binary_cross_entropy", "erf")
WAYS = pytest.mark.parametrize("way", ["called", "traced"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def differentiated(function: Function, way: str) -> Function:
    """Value and slope of a function of x, and perhaps others: called as it is, or as a graph without log1p."""

    def both(x: Tensor, *others: Tensor) -> Tensor:
        value = function(x, *others)
        return torch.stack([value.detach(), *torch.autograd.grad(value.sum(), x)])

    def graph(x: Tensor, *others: Tensor) -> Tensor:
        traced = make_fx(both)(x, *others)
        assert not [node for node in traced.graph.nodes if any(name in str(node.target) for name in SLOW)]
        value: Tensor = traced(x, *others)
        return value.detach()

    return both if way == "called" else graph


def curve(function: Function) -> Function:
    def twice(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x)[0]

    return twice


def grid(dtype: torch.dtype, least: float) -> Tensor:
    """Numbers from `least` to its negative, dense near 0 too."""
    small = torch.logspace(-30, 0, 3_001, dtype=torch.float64)
    x = torch.cat([torch.linspace(least, -least, 60_001, dtype=torch.float64), small, -small])
    return x.to(dtype).requires_grad_()


def reference(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.longdouble]]:
    return x.detach().numpy().astype(np.longdouble)


@WAYS
@DTYPES
def test_softplus_is_exact_to_rounding(dtype: torch.dtype, way: str) -> None:
    x = grid(dtype, -87.0 if dtype == torch.float32 else -700.0)
    value, slope = differentiated(softplus, way)(x).numpy()
    wide = reference(x)
    exact = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    bound = 2e-7 if dtype == torch.float32 else 4.5e-16
    assert np.abs(value / exact - 1).max() < bound
    assert np.abs(slope * (1 + np.exp(-wide)) - 1).max() < 2 * bound


@WAYS
@DTYPES
def test_logsigmoid_is_softplus_of_the_opposite(dtype: torch.dtype, way: str) -> None:
    x = grid(dtype, -80.0)
    value, slope = differentiated(logsigmoid, way)(x)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value, -softplus(-x.detach()), rtol=3 * eps, atol=0)
    torch.testing.assert_close(slope, (-x.detach()).sigmoid(), rtol=6 * eps, atol=0)


@WAYS
@DTYPES
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_log_mass_of_a_bernoulli_is_exact_to_rounding(dtype: torch.dtype, target: float, way: str) -> None:
    logits = grid(dtype, -80.0)
    targets = torch.full_like(logits, target)
    value, slope = differentiated(bernoulli_log_mass, way)(logits, targets).numpy()
    wide = reference(logits) * (1 - 2 * np.longdouble(target))
    exact = -(np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide))))
    bound = 2e-7 if dtype == torch.float32 else 4.5e-16
    assert (np.abs(value - exact) / np.maximum(1, -exact)).max() < bound
    assert np.abs(slope - (target - 1 / (1 + np.exp(-reference(logits))))).max() < bound


@WAYS
@DTYPES
def test_log_one_minus_exp_is_exact_to_rounding(dtype: torch.dtype, way: str) -> None:
    y = torch.cat([torch.logspace(-30, 1.5, 5_001), torch.linspace(0.5, 1.5, 2_001)]).to(dtype).requires_grad_()
    value, slope = differentiated(log_one_minus_exp, way)(y).numpy()
    exact = np.log(-np.expm1(-reference(y)))
    bound = 3e-7 if dtype == torch.float32 else 1e-15
    assert (np.abs(value - exact) / np.maximum(1, -exact)).max() < bound
    steep = 1 / np.expm1(reference(y))
    assert (np.abs(slope - steep) / np.maximum(1, steep)).max() < 2 * bound


@WAYS
def test_slopes_at_zero_are_one_half(way: str) -> None:
    zero = torch.zeros(4, requires_grad=True)
    assert differentiated(softplus, way)(zero)[1].tolist() == [0.5] * 4
    assert differentiated(logsigmoid, way)(zero)[1].tolist() == [0.5] * 4
    targets = torch.tensor([0.0, 1.0, 0.5, 0.25])
    assert differentiated(bernoulli_log_mass, way)(zero, targets)[1].tolist() == [-0.5, 0.5, 0.0, -0.25]


@WAYS
@DTYPES
def test_extreme_logits_stay_finite_and_nan_stays_nan(dtype: torch.dtype, way: str) -> None:
    x = torch.tensor([-1e30, -1e4, -104.0, 104.0, 1e4, 1e30, math.nan], dtype=dtype, requires_grad=True)
    size = x.detach().abs()
    value, slope = differentiated(softplus, way)(x)
    tail = value[2].item()
    assert 0 <= tail < 1e-44
    assert value[[0, 1, 3, 4, 5]].tolist() == [0.0, 0.0, *x.detach()[3:6].tolist()]
    assert slope[:6].isfinite().all()
    assert value[6].isnan()
    assert slope[6].isnan()
    for targets in (torch.zeros_like(size), torch.ones_like(size)):
        value, slope = differentiated(bernoulli_log_mass, way)(x, targets)
        wrong = (x.detach() > 0) != (targets == 1)
        torch.testing.assert_close(value[:6], -size.where(wrong, 0.0)[:6], atol=1e-44, rtol=1e-6)
        torch.testing.assert_close(slope[:6], (targets - (x.detach() > 0).to(dtype))[:6])
        assert value[6].isnan()
        assert slope[6].isnan()


def test_derivatives_equal_finite_differences() -> None:
    x = torch.tensor([-20.0, -1.5, -1e-3, 0.3, 2.0, 20.0], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.3, 0.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bernoulli_log_mass, (x, targets), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(bernoulli_log_mass, (x, targets))

    def falling(x: Tensor) -> Tensor:
        return log_one_minus_exp(x.exp())

    for function in (softplus, logsigmoid, falling):
        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))


@WAYS
def test_second_derivatives(way: str) -> None:
    x = torch.tensor([-3.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    expected = (x.sigmoid() * (1 - x.sigmoid())).detach()
    targets = torch.zeros(3, dtype=torch.float64)
    curves: dict[Function, Tensor] = {softplus: expected, lambda x: bernoulli_log_mass(x, targets): -expected}
    for function, curvature in curves.items():
        second = curve(function)
        torch.testing.assert_close((make_fx(second)(x) if way == "traced" else second)(x), curvature)


def test_transformations_of_functions() -> None:
    x, targets = torch.randn(5, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    direct = bernoulli_log_mass(x, targets)
    torch.testing.assert_close(torch.vmap(bernoulli_log_mass, (0, None))(x, targets), direct)
    assert torch.vmap(bernoulli_log_mass, (None, 0))(targets, x.sigmoid()).shape == x.shape
    torch.testing.assert_close(torch.vmap(softplus)(x), softplus(x))
    hessian = torch.func.hessian(lambda row: bernoulli_log_mass(row, targets).sum())(x[0])
    torch.testing.assert_close(hessian, torch.diag(x[0].sigmoid() * (x[0].sigmoid() - 1)))

    def both(row: Tensor) -> Tensor:
        return softplus(row) + bernoulli_log_mass(row, targets)

    torch.testing.assert_close(make_fx(torch.vmap(both))(x)(x), softplus(x) + direct)


def test_forward_mode() -> None:
    logits, tangent = torch.randn(2, 4, dtype=torch.float64)
    targets = torch.ones(4, dtype=torch.float64)
    with forward_ad.dual_level():
        value = bernoulli_log_mass(forward_ad.make_dual(logits, tangent), targets)
        slope = forward_ad.unpack_dual(value).tangent
    torch.testing.assert_close(slope, (targets - logits.sigmoid()) * tangent)


@WAYS
def test_types_and_shapes_of_targets(way: str) -> None:
    logits = torch.randn(4, 1, 3)
    binary = torch.tensor([[0, 1, 1], [1, 0, 1]])
    expected = bernoulli_log_mass(logits.expand(4, 2, 3), binary.float().expand(4, 2, 3))
    for targets in (binary, binary.bool(), binary.float(), binary.double(), binary.to(torch.uint8)):
        function = make_fx(bernoulli_log_mass)(logits, targets) if way == "traced" else bernoulli_log_mass
        value = function(logits, targets)
        assert value.dtype == (torch.float64 if targets.dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(value, expected, check_dtype=False)
    assert bernoulli_log_mass(torch.zeros(()), torch.ones(())).shape == ()
    assert bernoulli_log_mass(torch.zeros(0, 3), torch.ones(3)).shape == (0, 3)


@WAYS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype, way: str) -> None:
    x = torch.linspace(-12, 12, 2001).to(dtype).requires_grad_()
    for function in (softplus, lambda x: bernoulli_log_mass(x, torch.ones_like(x))):
        value, slope = differentiated(function, way)(x)
        wide, steep = differentiated(function, "called")(x.detach().double().requires_grad_())
        assert value.dtype == slope.dtype == dtype
        tiny = torch.finfo(dtype).smallest_normal
        torch.testing.assert_close(value.double(), wide, rtol=torch.finfo(dtype).eps, atol=tiny)
        torch.testing.assert_close(
            slope.double(), steep, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps
        )


@DTYPES
@pytest.mark.parametrize(
    "likelihood",
    [
        Bernoulli(),
        ContinuousBernoulli(),
        DiscretizedLogistic(),
        DiscretizedLogistic(n_mixtures=3),
        Gaussian("pixel"),
        Laplace("pixel"),
    ],
    ids=repr,
)
def test_likelihoods_are_traced_without_slow_functions(likelihood: Likelihood, dtype: torch.dtype) -> None:
    outputs = (4 * torch.randn(200, 2, 3, likelihood.outputs, dtype=dtype)).requires_grad_()
    x = likelihood(outputs).sample()

    def both(outputs: Tensor, x: Tensor) -> list[Tensor]:
        with pyro.validation_enabled(False):
            value = likelihood(outputs).log_prob(x)
        return [value.detach(), *torch.autograd.grad(value.sum(), outputs)]

    graph = make_fx(both)(outputs, x)
    assert not [node for node in graph.graph.nodes if any(name in str(node.target) for name in SLOW)]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-13
    for measured, expected in zip(graph(outputs, x), both(outputs, x), strict=True):
        torch.testing.assert_close(measured, expected, rtol=tolerance, atol=tolerance)


def test_bernoulli_is_pyros() -> None:
    logits = torch.randn(4, 1, dtype=torch.float64)
    mine, pyros = Bernoulli()(logits[..., None]), dist.Bernoulli(logits=logits)
    assert isinstance(mine, dist.Bernoulli)
    x = torch.randint(2, (6, 4, 3)).double()
    wide = mine.expand((4, 3))
    assert type(wide) is type(mine.mask(torch.tensor(True)).base_dist) is ours.Bernoulli
    for ours_too, theirs in (
        (mine, pyros),
        (wide, pyros.expand((4, 3))),
        (wide.to_event(1), pyros.expand((4, 3)).to_event(1)),
        (wide.mask(x[0] == 1), pyros.expand((4, 3)).mask(x[0] == 1)),
        (ours.Bernoulli(probs=logits.sigmoid()), dist.Bernoulli(probs=logits.sigmoid())),
    ):
        torch.testing.assert_close(ours_too.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(ours_too.mean, theirs.mean)
    torch.manual_seed(3)
    sample = mine.sample((5,))
    torch.manual_seed(3)
    assert torch.equal(sample, pyros.sample((5,)))
    assert torch.equal(mine.enumerate_support(), pyros.enumerate_support())
    other = dist.Bernoulli(probs=torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(mine, other), kl_divergence(pyros, other))
    assert mine.log_prob(torch.tensor(1.0)).shape == (4, 1)


def test_bernoulli_validates_data() -> None:
    with pytest.raises(ValueError, match="support"):
        ours.Bernoulli(logits=torch.zeros(2), validate_args=True).log_prob(torch.tensor([0.5, 1.0]))
    grey = ours.Bernoulli(logits=torch.tensor(2.0), validate_args=False).log_prob(torch.tensor(0.25))
    assert grey.item() == pytest.approx(0.5 - math.log1p(math.exp(2.0)))
