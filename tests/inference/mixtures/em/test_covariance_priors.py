import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from latentmix.inference.mixtures.em.em import fit_em
from latentmix.models.mixture.covariances import covariance_structure

from tests.inference.mixtures.clouds import DEGENERATE, TYPES, begin, blobs


def prior_scale(covariance_type, x):
    covariance = torch.cov(x.T, correction=0)
    structure = covariance_structure(covariance_type)
    if structure.correlated:
        return covariance
    return float(covariance.diag().mean()) if structure.isotropic else covariance.diag()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("freedom", [None, 7.5])
def test_one_component_has_the_posterior_mode_in_closed_form(covariance_type, freedom):
    x = blobs(n=40)
    scale = prior_scale(covariance_type, x)
    first = begin(x, covariance_type, n_components=1)
    options = {"covariance_prior": scale, "degrees_of_freedom_prior": freedom, "reg_covar": 0.0, "tol": 0.0}
    result = fit_em(x, first, max_iter=2, **options)
    nu, n, size = 3.0 if freedom is None else freedom, *x.shape
    scatter = n * torch.cov(x.T, correction=0)
    fitted, structure = result.parameters.covariances, result.parameters.structure
    if structure.correlated:
        expected = (scale + scatter) / (nu + n + size + 1)
        log_prior = stats.invwishart.logpdf(expected.numpy(), nu, scale.numpy())
    elif not structure.isotropic:
        expected = (scale + scatter.diag()) / (nu + n + 2)
        log_prior = stats.invgamma.logpdf(expected.numpy(), nu / 2, scale=scale.numpy() / 2).sum()
    else:
        expected = (scale + scatter.trace()) / (nu + n * size + 2)
        log_prior = stats.invgamma.logpdf(float(expected), nu / 2, scale=scale / 2)
    torch.testing.assert_close(fitted.reshape(expected.shape), expected, rtol=1e-12, atol=0)
    log_likelihood = float(result.parameters.log_likelihood(x).sum())
    assert result.lower_bounds[1] == pytest.approx((log_likelihood + log_prior) / n, abs=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("case", ["clouds", "duplicates", "constant column", "one point", "as many as components"])
def test_the_posterior_never_falls_and_covariances_stay_definite(covariance_type, case):
    x = blobs(n=60)
    scale = 0.1 * prior_scale(covariance_type, DEGENERATE["constant column"](x) if "column" in case else x)
    if "column" in case and covariance_type != "spherical":
        scale = scale + 0.01 * (torch.eye(4) if scale.ndim == 2 else torch.ones(4))
    x = DEGENERATE.get(case, lambda y: y)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = begin(x, covariance_type, reg_covar=1e-3, method="random_from_data")
        result = fit_em(x, first, covariance_prior=scale, reg_covar=0.0, tol=0.0, max_iter=60)
    assert result.n_repaired == 0
    for bounds in np.split(result.lower_bounds, result.segments[1:]):
        assert not len(bounds) > 1 or np.diff(bounds).min() > -1e-9
    assert bool(result.parameters.precisions_cholesky.isfinite().all())
    assert result.lower_bounds[-1] > result.lower_bounds[0] or case == "one point"


def test_improper_priors_are_refused():
    x = blobs(n=30)
    first, diagonal = begin(x, "full"), begin(x, "diag")
    eye = torch.eye(3)
    refused = [
        (first, eye[0], None, r"Expected covariance_prior of shape \(3, 3\) for full covariances; got \(3,\)"),
        (first, -eye, None, "Expected covariance_prior to be finite and positive definite"),
        (first, eye + torch.ones(3, 3).triu(1), None, "positive definite"),
        (first, 1e-10 * (eye + torch.ones(3, 3).triu(1)), None, "positive definite"),
        (diagonal, [1.0, 0.0, 1.0], None, "positive definite"),
        (diagonal, [1.0, torch.nan, 1.0], None, "positive definite"),
        (first, eye, 2.0, "Expected degrees_of_freedom_prior > 2; got 2.0"),
        (diagonal, [1.0, 1.0, 1.0], 0.0, "Expected degrees_of_freedom_prior > 0; got 0.0"),
        (first, None, 5.0, "Expected a covariance_prior beside degrees_of_freedom_prior"),
    ]
    for start_from, scale, freedom, message in refused:
        with pytest.raises(ValueError, match=message):
            fit_em(x, start_from, covariance_prior=scale, degrees_of_freedom_prior=freedom)
