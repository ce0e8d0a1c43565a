import numpy as np
import pytest
import torch

from latentmix.inference.mixtures.analysis.comparison import align, compare, map_by_majority, map_by_matching
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters


def data(n=300):
    state = np.random.RandomState(0)
    return np.concatenate([state.randn(n, 2) * (k + 1) / 2 + 6 * np.array([k, -k % 3]) for k in range(3)])


ACCEPTED = sorted(GaussianMixture._parameter_constraints["covariance_type"][0].options)


@pytest.mark.parametrize("covariance_type", ACCEPTED)
def test_a_permuted_mixture_is_recognised(covariance_type):
    x = data()
    fitted = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    order = np.array([2, 0, 1])
    other = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    other.weights_, other.means_ = fitted.weights_[order], fitted.means_[order]
    if not covariance_structure(covariance_type).shared:
        for name in ("covariances_", "precisions_", "precisions_cholesky_"):
            setattr(other, name, getattr(fitted, name)[order])
    result = compare(fitted, other, x)
    assert result.order == [1, 2, 0]
    assert result.agreement == 1.0
    assert result.weights_distance == pytest.approx(0, abs=1e-12)
    assert max(result.means_distance + result.covariances_distance) == pytest.approx(0, abs=1e-12)
    assert result.log_likelihood[0] == pytest.approx(result.log_likelihood[1], abs=1e-12)


def test_align_distinguishes_components_with_equal_means_by_their_covariances():
    weights, means = torch.tensor([0.5, 0.5]), torch.zeros(2, 1)
    spherical = covariance_structure("spherical")
    a = MixtureParameters(weights, means, torch.tensor([1.0, 100.0]), spherical)
    b = MixtureParameters(weights, means, torch.tensor([90.0, 1.1]), spherical)
    assert align(a, b).tolist() == [1, 0]


def test_compare_measures_a_known_difference():
    x = data()
    a = GaussianMixture(3, random_state=0).fit(x)
    b = GaussianMixture(3, random_state=0).fit(x + np.array([0.5, 0.0]))
    result = compare(a, b, x)
    np.testing.assert_allclose(result.means_distance, 0.5, atol=1e-6)
    assert max(result.covariances_distance) < 1e-6
    assert result.log_likelihood[0] > result.log_likelihood[1]
    assert result.iterations == (a.n_iter_, b.n_iter_)
    assert min(result.seconds) > 0
    assert 0.5 < result.agreement <= 1
    assert sorted(result.order) == [0, 1, 2]


def test_mixtures_of_other_sizes_are_refused():
    x = data()
    with pytest.raises(ValueError, match="Expected mixtures of as many components and features"):
        align(GaussianMixture(3, random_state=0).fit(x), GaussianMixture(2, random_state=0).fit(x))


def test_components_are_mapped_by_matching_and_by_majority():
    assignments = [0, 0, 0, 1, 1, 1, 1, 2, 3]
    labels = [4, 4, 8, 4, 4, 4, 8, -1, 1]
    assert map_by_majority(assignments, labels, 4, [1, 4, 8]).tolist() == [4, 4, 4, 1]
    assert map_by_matching(assignments, labels, 4, [1, 4, 8]).tolist() == [8, 4, 4, 1]
    assert map_by_matching([0, 1], [8, 4], 2, [4, 8]).tolist() == [8, 4]


def test_invalid_labels_and_assignments_are_refused():
    with pytest.raises(ValueError, match="Expected as many labels as assignments"):
        map_by_majority([0, 1], [0], 2, [0])
    with pytest.raises(ValueError, match=r"Expected assignments in 0 ... 1; got 0 ... 2"):
        map_by_matching([0, 2], [0, 0], 2, [0])
    with pytest.raises(ValueError, match="Expected at least one class"):
        map_by_matching([0], [0], 1, [])
