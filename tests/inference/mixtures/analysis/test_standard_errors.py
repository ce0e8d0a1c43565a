"""Standard errors of EM fits against closed forms, automatic differentiation, simulation and the bootstrap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.analysis.information import Layout
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES

EVERY_TYPE = tuple(dict.fromkeys((*TYPES, "tied_diag")))


def cloud(n: int = 400, seed: int = 0) -> NDArray[np.float64]:
    """Two overlapping groups in two dimensions, of other shapes than any covariance type has."""
    state = np.random.RandomState(seed)
    first = state.randn(n // 2, 2) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    return np.concatenate([first, state.standard_t(8, (n - n // 2, 2)) * [0.7, 1.2] + [3.0, 1.0]])


def fitted(x: NDArray[np.float64], covariance_type: str, n_components: int = 2) -> GaussianMixture:
    return GaussianMixture(
        n_components, covariance_type=covariance_type, tol=1e-12, max_iter=5000, reg_covar=0, random_state=0
    ).fit(x)


def maximum(x: NDArray[np.float64], covariance_type: str, n_components: int = 2) -> MixtureParameters:
    """The maximum of the likelihood: of shared variances by a plain EM."""
    if covariance_type != "tied_diag":
        return fitted(x, covariance_type, n_components).parameters_
    rows = torch.from_numpy(x)
    counts = rows.new_full((n_components,), len(rows) / n_components)
    means, variances = rows[np.linspace(0, len(rows) - 1, n_components).astype(int)], rows.var(0)
    structure = covariance_structure("tied_diag")
    for _ in range(3000):
        parameters = MixtureParameters(counts / len(rows), means, variances, structure)
        responsibilities = parameters.responsibilities(rows)
        counts = responsibilities.sum(0)
        means = responsibilities.T @ rows / counts[:, None]
        variances = torch.einsum("nk,nkd->d", responsibilities, (rows[:, None] - means).square()) / len(rows)
    return parameters


def by_autograd(x: torch.Tensor, parameters: MixtureParameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores `n x p` and observed information `p x p` of the free parameters."""
    layout = Layout.of(parameters)

    def densities(free: torch.Tensor) -> torch.Tensor:
        weights, means, covariances = layout.natural(free)
        weights = torch.cat([weights[:-1], (1 - weights[:-1].sum())[None]])
        return MixtureParameters(weights, means, covariances, parameters.structure).log_likelihood(x)

    at = layout.free(parameters)
    scores = torch.autograd.functional.jacobian(densities, at)
    return scores, -torch.autograd.functional.hessian(lambda free: densities(free).sum(), at)


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_information_and_sandwich_equal_automatic_differentiation(covariance_type: str) -> None:
    x = cloud()
    mixture = maximum(x, covariance_type)
    scores, information = by_autograd(torch.from_numpy(x), mixture)
    inverse = information.inverse()
    assert scores.mean(0).abs().max() < 1e-6
    plain = standard_errors(mixture, x, method="information")
    np.testing.assert_allclose(plain.covariance, inverse, rtol=1e-6, atol=1e-12)
    assert plain.distance < 1e-3
    robust = standard_errors(mixture, x)
    np.testing.assert_allclose(robust.covariance, inverse @ scores.T @ scores @ inverse, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(robust.means.ravel(), np.sqrt(np.diag(robust.covariance)[1:5]), rtol=1e-12)
    np.testing.assert_allclose(robust.weights, np.sqrt(robust.covariance[0, 0]), rtol=1e-9)
    assert robust.covariances.shape == mixture.covariances.shape
    assert not np.allclose(robust.means, plain.means, rtol=1e-3)


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_one_component_has_the_closed_form(covariance_type: str) -> None:
    x = np.random.RandomState(1).randn(300, 2) @ np.array([[2.0, 0.7], [0.0, 0.5]]) + [10.0, -3.0]
    n, mixture = len(x), maximum(x, covariance_type, 1)
    errors = standard_errors(mixture, x, method="information")
    covariance = mixture.expanded_covariances()[0].numpy()
    variances = np.diag(covariance)
    np.testing.assert_allclose(errors.means[0], np.sqrt(variances / n), rtol=1e-9)
    squares = (np.outer(variances, variances) + covariance**2) / n
    expected = {
        "full": np.sqrt(squares)[None],
        "tied": np.sqrt(squares),
        "diag": np.sqrt(2 * variances**2 / n)[None],
        "spherical": np.sqrt(2 * variances[:1] ** 2 / (2 * n)),
        "tied_diag": np.sqrt(2 * variances**2 / n),
    }
    np.testing.assert_allclose(errors.covariances, expected[covariance_type], rtol=1e-9)
    np.testing.assert_allclose(errors.weights, 0.0, atol=1e-15)
    # Sandwich: the mean's is the same, as its score is linear in the deviations.
    np.testing.assert_allclose(standard_errors(mixture, x).means[0], np.sqrt(x.var(0) / n), rtol=0.2)


@pytest.mark.parametrize("covariance_type", EVERY_TYPE)
def test_errors_transform_with_units_and_origin(covariance_type: str) -> None:
    x = cloud()
    factor = np.array([1e3, 1e3] if covariance_type == "spherical" else [1e3, 1e-3])
    parameters = maximum(x, covariance_type)
    moved = parameters.affine(torch.from_numpy(factor), torch.tensor([1e5, -7.0], dtype=torch.float64))
    here, there = standard_errors(parameters, x), standard_errors(moved, x * factor + [1e5, -7.0])
    np.testing.assert_allclose(there.means, here.means * factor, rtol=1e-5)
    np.testing.assert_allclose(there.weights, here.weights, rtol=1e-5)
    own = {"spherical": factor[0] ** 2, "diag": factor**2, "tied_diag": factor**2}
    squares = own.get(covariance_type, np.outer(factor, factor))
    np.testing.assert_allclose(there.covariances, here.covariances * squares, rtol=1e-5)


@pytest.mark.parametrize("method", ["sandwich", "information"])
def test_integer_weights_equal_repetition(method: str) -> None:
    x = cloud(200)
    counts = np.random.RandomState(0).randint(0, 4, len(x))
    repeated = np.repeat(x, counts, 0)
    mixture = fitted(repeated, "full")
    weighted = standard_errors(mixture, x, method=method, sample_weight=counts)
    np.testing.assert_allclose(
        weighted.covariance, standard_errors(mixture, repeated, method=method).covariance, rtol=1e-8, atol=1e-14
    )


def test_intervals_cover_the_truth() -> None:
    # 200 data sets of 500 points; each count of covered intervals is Binomial(200, 0.95) up to terms in 1 / n.
    # False alarm: 1e-3 for each of the five, 0.5% in all.
    structure = covariance_structure("full")
    truth = MixtureParameters(
        torch.tensor([0.4, 0.6]).double(),
        torch.tensor([[-2.0], [2.0]]).double(),
        torch.tensor([[[1.0]], [[0.5]]]).double(),
        structure,
    )
    state, covered = np.random.RandomState(0), np.zeros(5)
    target = np.array([0.4, -2.0, 2.0, 1.0, 0.5])
    for _ in range(200):
        chosen = state.rand(500) < 0.6
        x = np.where(chosen, 2 + np.sqrt(0.5) * state.randn(500), -2 + state.randn(500))[:, None]
        result = fit_em(torch.from_numpy(x), truth, reg_covar=0.0, tol=1e-7, max_iter=1000).parameters
        errors = np.sqrt(np.diag(standard_errors(result, x).covariance))
        estimate = Layout.of(result).free(result).numpy()
        covered += np.abs(estimate - target) < 1.96 * errors
    low, high = stats.binom.ppf([5e-4, 1 - 5e-4], 200, 0.95)
    assert (low <= covered).all(), covered
    assert (covered <= high).all(), covered


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_bootstrap_agrees_with_the_sandwich(covariance_type: str) -> None:
    # 60 refits give a standard error to 9%; the limit is three of these.
    x = np.concatenate([cloud(600), np.random.RandomState(5).randn(200, 2) * 0.5 + [-3.0, 4.0]])
    mixture = fitted(x, covariance_type, 3)
    sandwich = standard_errors(mixture, x)
    bootstrap = standard_errors(mixture, x, method="bootstrap", n_bootstrap=60, random_state=1)
    assert (bootstrap.n_bootstrap, bootstrap.n_unsettled) == (60, 0)
    for name in ("weights", "means"):
        np.testing.assert_allclose(getattr(bootstrap, name), getattr(sandwich, name), rtol=0.3)
    assert bootstrap.covariances.shape == sandwich.covariances.shape
    assert bootstrap.covariance.shape == sandwich.covariance.shape
    np.testing.assert_allclose(np.diag(bootstrap.covariance)[:2], bootstrap.weights[:2] ** 2)
    again = standard_errors(mixture, x, method="bootstrap", n_bootstrap=3, random_state=1)
    same = standard_errors(mixture, x, method="bootstrap", n_bootstrap=3, random_state=1)
    np.testing.assert_array_equal(again.means, same.means)


def test_weighted_bootstrap_draws_as_many_points_as_the_weights_sum_to() -> None:
    # 40 refits give a ratio of standard errors to 16%; the limit is three of these.
    x = cloud(300) * [3.0, 1.0]
    mixture = fitted(x, "diag")
    four = standard_errors(mixture, x, method="bootstrap", sample_weight=np.full(300, 4), n_bootstrap=40)
    each = standard_errors(mixture, x, method="bootstrap", n_bootstrap=40)
    np.testing.assert_allclose(four.means / each.means, 0.5, rtol=0.48)


def test_tensors_give_tensors() -> None:
    x = cloud(200)
    mixture = fitted(x, "diag")
    array, tensor = standard_errors(mixture, x), standard_errors(mixture.parameters_, torch.from_numpy(x))
    assert isinstance(array.means, np.ndarray)
    assert isinstance(tensor.means, torch.Tensor)
    np.testing.assert_array_equal(tensor.covariance, array.covariance)
    with torch.inference_mode():
        np.testing.assert_array_equal(standard_errors(mixture, x).covariances, array.covariances)
    single = standard_errors(mixture, x.astype(np.float32))
    assert single.means.dtype == np.float64


def test_an_estimate_far_from_the_maximum_warns() -> None:
    x = cloud()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        early = GaussianMixture(2, max_iter=2, random_state=0).fit(x)
    with pytest.warns(ConvergenceWarning, match="standard errors from the maximum"):
        errors = standard_errors(early, x)
    assert errors.distance > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        standard_errors(fitted(x, "full"), x)


def test_singular_information_is_refused_with_the_reason() -> None:
    x = cloud()
    each = fitted(x, "full", 1).parameters_
    twice = MixtureParameters(
        torch.tensor([0.5, 0.5]).double(), each.means.repeat(2, 1), each.covariances.repeat(2, 1, 1), each.structure
    )
    with pytest.raises(ValueError, match="components 1 and 2, which are one and the same"):
        standard_errors(twice, x)
    lone = np.concatenate([x, [[40.0, 40.0]]])
    start = MixtureParameters(
        torch.tensor([1 - 1 / len(lone), 1 / len(lone)]).double(),
        torch.stack([each.means[0], torch.tensor([40.0, 40.0]).double()]),
        torch.stack([each.covariances[0], 1e-6 * torch.eye(2).double()]),
        each.structure,
    )
    with pytest.raises(ValueError, match=r"component 2, which holds 1\.0 points"):
        standard_errors(start, lone)
    flat = np.concatenate([x, np.repeat([[8.0, 8.0]], 30, 0)])
    start = MixtureParameters(
        torch.tensor([400 / 430, 30 / 430]).double(),
        torch.stack([each.means[0], torch.tensor([8.0, 8.0]).double()]),
        torch.stack([each.covariances[0], 1e-6 * torch.eye(2).double()]),
        each.structure,
    )
    with pytest.raises(ValueError, match="on a floor"):
        standard_errors(start, flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "jackknife"}, "Expected method in"),
        ({"n_bootstrap": 1}, "Expected n_bootstrap >= 2; got 1"),
        ({"x": np.zeros((5, 3))}, r"Expected finite points of shape \(n, 2\)"),
        ({"x": np.full((5, 2), np.nan)}, "Expected finite points"),
        ({"sample_weight": np.ones(3)}, "Expected sample_weight of shape"),
        (
            {"sample_weight": np.full(100, 0.01)},
            r"as counts of points, .* the 7 free parameters or more; got a sum of 1: scale normalised",
        ),
        ({"sample_weight": np.full(100, 0.01), "method": "bootstrap"}, "got a sum of 1: scale normalised"),
    ],
)
def test_invalid_arguments_are_refused(change: dict[str, object], message: str) -> None:
    x = cloud(100)
    with pytest.raises(ValueError, match=message):
        standard_errors(fitted(x, "spherical"), **{"x": x, **change})  # type: ignore[arg-type]
