"""Normal guides fitted from the posterior's curvature, and the best of several."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from sklearn.base import clone

from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts.fit import NUTS
from latentmix.inference.mixtures.svi import guides
from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult
from latentmix.inference.mixtures.svi.guides import NORMAL_GUIDES
from latentmix.inference.mixtures.svi.normal import Noise, NormalFit, low_rank

PRIORS = {"means": dist.Normal(0.0, 10.0), "scales": dist.HalfNormal(2.0)}


def two_groups(n_features: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-4, 1, (90, n_features)), rng.normal(4, 0.7, (60, n_features))])


def fitted(x: np.ndarray, n_components: int, guide: Any, **options: Any) -> MixtureSVIResult:
    svi = SVI(guide=guide, priors=PRIORS)
    result = GaussianMixture(n_components, inference=svi, random_state=0, **options).fit(x).result_
    assert isinstance(result, MixtureSVIResult)
    return result


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_one_gaussian_matches_quadrature(guide: Any) -> None:
    x = np.random.default_rng(1).normal(1.5, 0.8, (40, 1))
    result = fitted(x, 1, guide, reg_covar=0)
    mean, log_scale = np.meshgrid(np.linspace(0.5, 2.5, 401), np.linspace(-1.2, 0.8, 401), indexing="ij")
    scale = np.exp(log_scale)
    joint = -20 * math.log(2 * math.pi) - 40 * log_scale
    joint -= (np.square(x[:, 0]).sum() - 2 * mean * x.sum() + 40 * mean**2) / (2 * scale**2)
    joint += -0.5 * (mean / 10) ** 2 - math.log(10 * math.sqrt(2 * math.pi))
    joint += math.log(2) - 0.5 * (scale / 2) ** 2 - math.log(2 * math.sqrt(2 * math.pi)) + log_scale
    mass = np.exp(joint - joint.max())
    evidence = joint.max() + math.log(mass.sum() * (2 / 400) ** 2)
    mass /= mass.sum()
    assert result.posterior is not None
    for drawn, exact in ((result.posterior.sites["means"], mean), (result.posterior.sites["scales"], scale)):
        centre = (mass * exact).sum()
        spread = math.sqrt((mass * (exact - centre) ** 2).sum())
        assert float(drawn.mean()) == pytest.approx(centre, abs=0.1 * spread)
        assert float(drawn.std()) == pytest.approx(spread, rel=0.08)
    assert result.lower_bound * 40 == pytest.approx(evidence, abs=0.05)
    assert result.converged


@pytest.mark.parametrize("guide", [*NORMAL_GUIDES, AutoDiagonalNormal, partial(AutoLowRankMultivariateNormal, rank=3)])
@pytest.mark.parametrize("covariance_type", ["full", "spherical"])
def test_the_guide_has_the_bound_that_is_reported(guide: Any, covariance_type: str) -> None:
    x = two_groups(2)
    result = fitted(x, 2, guide, covariance_type=covariance_type)
    standardised = (torch.from_numpy(x) - result.location) / result.scale
    with isolated(seed=1), torch.no_grad():
        loss = Trace_ELBO(num_particles=150, vectorize_particles=False).loss(
            result.model.collapsed, result.guide, standardised
        )
    jacobian = float(result.scale.log().sum())
    assert -loss / len(x) - jacobian == pytest.approx(result.lower_bound, abs=0.005)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "tied_diag", "spherical"])
def test_the_best_bound_is_used(covariance_type: str) -> None:
    result = fitted(two_groups(2), 2, NORMAL_GUIDES, covariance_type=covariance_type)
    bounds = [each.bound for each in result.guides]
    assert result.lower_bound == max(bounds) >= bounds[0]
    (used,) = (each for each in result.guides if each.used)
    assert used.guide == type(result.guide).__name__
    assert used.bound == max(bounds)
    assert result.converged
    assert result.posterior is not None
    assert result.posterior.inference == "svi"


def test_guides_of_overlapping_components_gain_from_correlations() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-1.2, 1, (60, 1)), rng.normal(1.2, 1, (60, 1))])
    mean_field, _, full = (each.bound for each in fitted(x, 2, NORMAL_GUIDES).guides)
    assert mean_field < full - 0.5 / len(x)


def test_a_guide_that_ends_below_one_before_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = guides.fit_normal

    def spoilt(*arguments: Any) -> NormalFit:
        fit = whole(*arguments)
        return NormalFit(fit.guide, fit.bounds, fit.bound - 30, fit.error, 0.0) if fit.guide.basis.ndim == 2 else fit

    monkeypatch.setattr(guides, "fit_normal", spoilt)
    result = fitted(two_groups(2), 2, (AutoNormal, AutoMultivariateNormal))
    poor, rich = result.guides
    assert (poor.used, poor.converged) == (True, True)
    assert (rich.used, rich.converged) == (False, False)
    assert rich.note == "ended below AutoNormal"
    assert "ended below AutoNormal" in repr(rich)


def test_few_steps_are_not_called_converged() -> None:
    x = np.random.default_rng(0).normal(size=(12, 2))
    svi = SVI(guide=AutoNormal, priors=PRIORS, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = GaussianMixture(2, inference=svi, random_state=0).fit(x).result_
    assert isinstance(result, MixtureSVIResult)
    assert not result.converged
    assert "promises" in result.guides[0].note


def test_a_noisy_fit_too_short_to_tell_is_not_called_converged() -> None:
    svi = SVI(batch_size=50, epochs=7)
    with pytest.warns(match="did not converge in 7 iterations"):
        mixture = GaussianMixture(2, inference=svi, random_state=0).fit(two_groups(3))
    assert not mixture.converged_


@pytest.mark.parametrize("epochs", [40, 80])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_noisy_bound_that_still_rises_is_not_called_converged(seed: int, epochs: int) -> None:
    """From means far off; the quarters' bounds differ by more than four standard errors."""
    x = two_groups(3)
    means = x.mean(0) + np.outer([-24, 24], np.ones(3))
    svi = SVI(guide=AutoMultivariateNormal, epochs=epochs)  # flat priors: Adam from a narrow guide
    with pytest.warns(match="did not converge"):
        mixture = GaussianMixture(2, inference=svi, random_state=seed, means_init=means).fit(x)
    assert not mixture.converged_


def test_the_posterior_agrees_with_nuts() -> None:
    x = two_groups()
    start = GaussianMixture(2, random_state=0, tol=1e-6).fit(x).parameters_
    svi = SVI(guide=NORMAL_GUIDES, priors=PRIORS).fit(torch.from_numpy(x), start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        nuts = NUTS(chains=1, draws=160, warmup=60, priors=PRIORS).fit(torch.from_numpy(x), start)
    assert svi.posterior is not None
    for name in ("weights", "means", "scales"):
        ours, theirs = (result.posterior.sites[name].flatten(0, 1) for result in (svi, nuts))
        order = [0, 1] if float((ours.mean(0) - theirs.mean(0)).abs().max()) < 1 else [1, 0]
        theirs = theirs[:, order]
        spread = theirs.std(0)
        assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 0.35 * spread).all()), name
        torch.testing.assert_close(ours.std(0), spread, rtol=0.3, atol=0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_of_either_dtype(dtype: Any) -> None:
    x = (1000 + 50 * two_groups(2)).astype(dtype)
    svi = SVI(guide=NORMAL_GUIDES, priors={})
    mixture = GaussianMixture(2, inference=svi, random_state=0).fit(x)
    assert mixture.means_.dtype == dtype
    assert mixture.score(x) == pytest.approx(GaussianMixture(2, random_state=0).fit(x).score(x), abs=0.02)


def test_draws_repeat_and_keep_the_order_of_the_start() -> None:
    x = torch.from_numpy(two_groups(2))
    start = GaussianMixture(2, random_state=0).fit(x).parameters_
    starts = [start.permuted(torch.tensor(order)) for order in ([0, 1], [1, 0], [0, 1])]
    fits = [SVI(guide=AutoMultivariateNormal, priors={}).fit(x, start) for start in starts]
    first, swapped, again = (fit.posterior.sites["means"] for fit in fits if fit.posterior is not None)
    assert torch.equal(first, again)
    torch.testing.assert_close(first.mean((0, 1)), swapped.mean((0, 1)).flip(0), rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": NORMAL_GUIDES}, r"normal ones with proper priors.*set priors=\{\}"),
        ({"guide": NORMAL_GUIDES, "priors": {}, "batch_size": 10}, "batch_size=None; got AutoNormal, AutoLowRank"),
        ({"guide": ()}, "guide of SVI to be a class of guides, or several"),
        ({"guide": "AutoNormal"}, "guide of SVI to be a class of guides, or several"),
    ],
)
def test_several_guides_are_refused_where_they_cannot_be_compared(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, inference=SVI(**options), random_state=0).fit(two_groups())


def test_a_guide_too_large_for_its_curvature_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "_LARGEST", 5)
    result = fitted(two_groups(2), 2, NORMAL_GUIDES)
    assert [each.used for each in result.guides] == [True, False, False]
    assert "not fitted for 11 unconstrained values" in result.guides[2].note
    with pytest.raises(ValueError, match="not fitted for 11 unconstrained values, as for more than 5: take AutoNormal"):
        fitted(two_groups(2), 2, AutoMultivariateNormal)


def test_weights_are_refused() -> None:
    mixture = GaussianMixture(2, inference=SVI(guide=NORMAL_GUIDES, priors={}), random_state=0)
    with pytest.raises(ValueError, match="no sample_weight for inference='svi'"):
        mixture.fit(two_groups(), sample_weight=np.ones(150))


def test_several_guides_are_shown_and_cloned() -> None:
    svi = SVI(guide=(AutoNormal, AutoMultivariateNormal))
    assert repr(svi) == "SVI(guide=(AutoNormal, AutoMultivariateNormal))"
    assert clone(GaussianMixture(2, inference=svi)).inference.guide == (AutoNormal, AutoMultivariateNormal)


def test_noise_has_the_precision_of_its_covariance() -> None:
    rng = np.random.default_rng(0)
    factor, unique = rng.normal(size=(5, 2)), rng.uniform(0.5, 1, 5)
    covariance = np.diag(unique) + factor @ factor.T
    noise = Noise(factor, unique)
    drawn, weighed = noise.draw(rng)
    np.testing.assert_allclose(weighed, np.linalg.solve(covariance, drawn))
    assert noise.log_scale == pytest.approx(0.5 * np.linalg.slogdet(covariance)[1])


def test_low_rank_correlations_are_those_of_the_curvature() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(6, 2))
    covariance = factor @ factor.T + np.diag(rng.uniform(1, 2, 6))
    guide = low_rank(np.zeros(6), np.linalg.cholesky(covariance), 2)
    noise = guide.noise
    spread = guide.basis[:, None] * guide.basis
    approximate = spread * (np.diag(noise.unique) + noise.factor @ noise.factor.T)
    np.testing.assert_allclose(approximate, covariance, atol=0.3)
