import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from scipy.stats import beta

from latentmix.inference.mixtures.analysis.estimates import Quantity, compare_estimates, scales_of
from latentmix.inference.mixtures.analysis.information import SingularInformationError
from latentmix.inference.mixtures.analysis.standard_errors import standard_errors
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES

COUNTS = (600, 1400)


def groups(n_features: int = 2) -> NDArray[np.float64]:
    """Two groups far apart, of 600 and 1,400 points."""
    random = np.random.RandomState(0)
    return np.concatenate([random.randn(COUNTS[0], n_features) - 8, 2 * random.randn(COUNTS[1], n_features) + 8])


def em_of(x: NDArray[np.float64], covariance_type: str, **options: Any) -> GaussianMixture:
    fitted = GaussianMixture(2, covariance_type=covariance_type, tol=1e-9, reg_covar=0.0, random_state=0, **options)
    return fitted.fit(x)


def posterior_of(x: NDArray[np.float64], em: GaussianMixture, guide: Any = AutoMultivariateNormal) -> GaussianMixture:
    start = {"weights_init": em.weights_, "means_init": em.means_, "precisions_init": em.precisions_}
    svi = SVI(guide=guide, priors={})
    options = {"covariance_type": em.covariance_type, "reg_covar": 0.0, "random_state": 0}
    return GaussianMixture(len(em.weights_), inference=svi, **options, **start).fit(x)


def test_weights_of_separate_groups_have_a_dirichlet_posterior() -> None:
    x = groups()
    em = em_of(x, "diag")
    compared = compare_estimates({"EM": em, "posterior": posterior_of(x, em)}, x)
    estimates = compared.fits["posterior"]
    assert estimates.low is not None
    assert estimates.high is not None
    for k, weight in enumerate(em.weights_):
        count = round(float(weight) * len(x))
        exact = beta(1 + count, 1 + len(x) - count)
        assert estimates.low[k] == pytest.approx(exact.ppf(0.05), abs=0.3 * exact.std())
        assert estimates.high[k] == pytest.approx(exact.ppf(0.95), abs=0.3 * exact.std())
        assert estimates.point[k] == pytest.approx(exact.mean(), abs=0.1 * exact.std())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_standard_errors_and_posterior_sds_agree_on_many_points(covariance_type: str) -> None:
    # Structures that the groups do not have would have another sandwich than information.
    random = np.random.RandomState(1)
    x = np.concatenate([random.randn(900, 2) - 6, random.randn(1100, 2) + 6])
    em = em_of(x, covariance_type)
    compared = compare_estimates({"EM": em, "posterior": posterior_of(x, em)}, x)
    errors, sds = compared.fits["EM"].sd, compared.fits["posterior"].sd
    assert errors is not None
    np.testing.assert_allclose(sds, errors, rtol=0.15)
    assert compared.note == ""
    assert compared.farthest("EM", "posterior")[1] < 0.3


def test_errors_of_scales_follow_by_the_delta_method() -> None:
    x = groups(1)
    em = em_of(x, "diag")
    errors = compare_estimates({"EM": em}, x).fits["EM"].sd
    expected = standard_errors(em, x).covariances / (2 * np.sqrt(em.covariances_))
    assert errors is not None
    np.testing.assert_allclose(errors[-2:], np.ravel(expected))


@pytest.mark.parametrize(
    ("covariance_type", "scales"),
    [
        ("full", [Quantity("scale", 0, 0), Quantity("scale", 0, 1), Quantity("scale", 1, 0), Quantity("scale", 1, 1)]),
        ("diag", [Quantity("scale", 0, 0), Quantity("scale", 0, 1), Quantity("scale", 1, 0), Quantity("scale", 1, 1)]),
        ("spherical", [Quantity("scale", 0), Quantity("scale", 1)]),
        ("tied", [Quantity("scale", None, 0), Quantity("scale", None, 1)]),
        ("tied_diag", [Quantity("scale", None, 0), Quantity("scale", None, 1)]),
    ],
)
def test_quantities_are_those_of_the_structure(covariance_type: str, scales: list[Quantity]) -> None:
    x = groups()
    em = em_of(x, covariance_type)
    compared = compare_estimates({"EM": em}, x)
    assert list(compared.quantities[-len(scales) :]) == scales
    expected = [*em.weights_, *em.means_.ravel(), *scales_of(em.parameters_).flatten().tolist()]
    np.testing.assert_allclose(compared.fits["EM"].point, expected)


def test_the_note_on_a_singular_information_names_components_as_tables_do() -> None:
    em = em_of(groups(), "full")
    em.parameters_ = MixtureParameters(
        torch.tensor([0.5, 0.5]).double(),
        em.parameters_.means[:1].repeat(2, 1),
        em.parameters_.covariances[:1].repeat(2, 1, 1),
        em.parameters_.structure,
    )
    for names, words in ((None, "components 1 and 2, "), (["4a", "4b"], "components 4a and 4b, ")):
        compared = compare_estimates({"EM": em}, groups(), names=names)
        assert compared.fits["EM"].sd is None
        assert f"got {words}which are one and the same" in compared.note
    error = SingularInformationError("component {}", (0,))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # of a worker process


def test_components_and_draws_are_put_in_the_order_of_the_first() -> None:
    x = groups()
    em = em_of(x, "full")
    posterior = posterior_of(x, em, AutoNormal)
    sites = {name: values.flip(2) for name, values in posterior.posterior_.sites.items()}
    drawn = posterior.posterior_
    other = em_of(x, "full")
    other.parameters_ = em.parameters_.permuted(torch.tensor([1, 0]))
    other.posterior_ = MixturePosterior(sites, drawn.structure, drawn.covariance_floor, "svi")
    other.result_ = None
    ours = compare_estimates({"EM": em, "posterior": posterior}, x).fits["posterior"]
    theirs = compare_estimates({"EM": em, "posterior": other}, x).fits["posterior"]
    np.testing.assert_allclose(theirs.point, ours.point)
    np.testing.assert_allclose(theirs.high, ours.high)


def test_few_points_have_no_standard_errors_but_a_note() -> None:
    x = np.random.RandomState(0).randn(5, 3)
    em = GaussianMixture(2, reg_covar=1e-3, random_state=0).fit(x)
    compared = compare_estimates({"EM": em}, x)
    assert compared.fits["EM"].sd is None
    assert "standard errors" in compared.note


def test_differences_are_in_standard_deviations_and_need_draws() -> None:
    x = groups()
    em = em_of(x, "diag")
    compared = compare_estimates({"EM": em, "SVI": em_of(x, "diag"), "posterior": posterior_of(x, em, AutoNormal)}, x)
    index, by = compared.farthest("EM", "posterior")
    posterior = compared.fits["posterior"]
    assert posterior.sd is not None
    distance = abs(compared.fits["EM"].point[index] - posterior.point[index])
    assert by == pytest.approx(distance / posterior.sd[index])
    with pytest.raises(ValueError, match=r"Expected a fit with draws, out of posterior; got 'SVI'"):
        compared.differences("EM", "SVI")
    assert "scale[2, 1]" in compared.table()
