import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.em import fit_em
from latentmix.inference.mixtures.points import as_points
from latentmix.inference.mixtures.reseeding import reseed
from latentmix.models.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES, begin, blobs


def test_a_dead_component_is_started_anew():
    x = blobs()
    first = begin(x, "full")
    means = first.means.clone()
    means[2] = 1e4
    dead = MixtureParameters(first.weights, means, first.covariances, first.structure)
    with pytest.warns(ConvergenceWarning, match="started anew"):
        result = fit_em(x, dead)
    assert result.n_reseeded >= 1
    assert result.segments[:2] == (0, 1)
    assert result.parameters.weights.min() > 1e-3
    assert result.parameters.means.abs().max() < 100


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dead", [1, 2, 3])
def test_the_bound_never_falls_within_a_segment(covariance_type, dead):
    x = blobs(spread=0.3)
    first = begin(x, covariance_type, reg_covar=0.0)
    far = torch.arange(4)[:, None] < dead
    gone = MixtureParameters(first.weights, first.means + 1e4 * far, first.covariances, first.structure)
    with pytest.warns(ConvergenceWarning, match=f"{dead} empty components were started anew"):
        result = fit_em(x, gone, reg_covar=0.0, tol=0.0, max_iter=60)
    assert result.segments == (0, 1)
    assert result.n_reseeded == dead
    assert result.n_repaired == result.n_floored == 0
    for bounds in np.split(result.lower_bounds, result.segments[1:]):
        assert not len(bounds) > 1 or np.diff(bounds).min() > -1e-9
    assert len(np.split(result.lower_bounds, result.segments[1:])[1]) == 59


def test_a_component_is_not_started_anew_at_a_point_without_weight():
    x = torch.cat([blobs(), torch.full((1, 3), 60.0, dtype=torch.float64)])
    weight = torch.ones(len(x)).double()
    weight[-1] = 0
    first = begin(x[:-1], "full")
    empty = torch.tensor([False, True, False, False])
    for given, expected in [(as_points(x), True), (as_points(x, weight), False)]:
        revived = reseed(given, first, empty, given.variance)
        assert torch.equal(revived.means[1], x[-1]) == expected
        assert bool((x == revived.means[1]).all(1).any())
