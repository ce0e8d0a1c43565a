"""The contract of covariance structures, for each that is registered."""

import copy
import pickle
from typing import get_args

import pytest
import torch
from torch import Tensor

from latentmix.models.mixture import covariances
from latentmix.models.mixture.covariances import (
    CovarianceStructure,
    CovarianceType,
    Variances,
    covariance_structure,
    covariance_types,
    register_structure,
)

SIZES = [(1, 1), (3, 1), (1, 3), (4, 3)]


class TiedSpherical(Variances):
    name = "tied_spherical"
    shared = True
    isotropic = True


STRUCTURES = [*map(covariance_structure, covariance_types()), TiedSpherical()]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_covariances(structure: CovarianceStructure, n_components: int, n_features: int) -> Tensor:
    shape = structure.covariance_shape(n_components, n_features)
    root = normal(*shape)
    return root @ root.mT + 0.3 * torch.eye(n_features).double() if structure.correlated else root.square() + 0.3


@pytest.fixture(params=STRUCTURES, ids=lambda structure: structure.name)
def structure(request: pytest.FixtureRequest) -> CovarianceStructure:
    made: CovarianceStructure = request.param
    return made


@pytest.mark.parametrize(("n_components", "n_features"), SIZES)
def test_stored_forms_convert_into_each_other(
    structure: CovarianceStructure, n_components: int, n_features: int
) -> None:
    size = (n_components, n_features)
    stored = random_covariances(structure, *size)
    matrices = structure.expand(stored, *size)
    assert matrices.shape == (n_components, n_features, n_features)
    torch.testing.assert_close(structure.compress(matrices), stored)
    factors = structure.precisions_cholesky(stored)
    close = {"rtol": 1e-10, "atol": 1e-12}
    precisions = structure.precisions(factors)
    torch.testing.assert_close(structure.expand(precisions, *size), torch.linalg.inv(matrices), **close)
    torch.testing.assert_close(structure.precisions_cholesky_from_precisions(precisions), factors, **close)
    lower = structure.expand(structure.scale_tril(factors), *size)
    torch.testing.assert_close(lower, torch.linalg.cholesky(matrices), **close)
    scales, correlation = structure.factors(factors)
    assert scales.shape == structure.scale_shape(*size)
    assert (None if correlation is None else correlation.shape[:-2]) == structure.correlation_shape(*size)
    torch.testing.assert_close(structure.covariances(scales, correlation), stored, **close)
    torch.testing.assert_close(structure.expand(structure.root(scales, correlation), *size), lower, **close)
    variance = normal(n_features).square()
    traces = structure.precision_traces(scales, correlation, variance).expand(n_components)
    torch.testing.assert_close(traces, torch.linalg.inv(matrices).diagonal(dim1=-2, dim2=-1) @ variance, **close)


@pytest.mark.parametrize(("n_components", "n_features"), SIZES)
def test_densities_match_multivariate_normals(
    structure: CovarianceStructure, n_components: int, n_features: int
) -> None:
    stored, x = random_covariances(structure, n_components, n_features), normal(7, n_features, seed=1)
    means, factors = normal(n_components, n_features, seed=2), structure.precisions_cholesky(stored)
    matrices = structure.expand(stored, n_components, n_features)
    expected = torch.distributions.MultivariateNormal(means, matrices).log_prob(x[:, None])
    torch.testing.assert_close(structure.log_density(x, means, factors), expected, rtol=1e-10, atol=1e-10)
    components = structure.components(means, *structure.factors(factors))
    assert (components.batch_shape, components.event_shape) == ((n_components,), (n_features,))
    torch.testing.assert_close(components.log_prob(x[:, None]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n_components", "n_features"), SIZES)
def test_the_estimate_maximises_the_likelihood(
    structure: CovarianceStructure, n_components: int, n_features: int
) -> None:
    x, responsibilities = normal(50, n_features), normal(50, n_components, seed=1).softmax(-1)
    counts = responsibilities.sum(0)
    means = responsibilities.T @ x / counts[:, None]
    centres = normal(n_components, n_features, seed=2)
    scatter = structure.scatter(responsibilities, x[:, None] - centres)
    estimate = structure.estimate(counts, scatter, means - centres)
    assert estimate.shape == structure.covariance_shape(n_components, n_features)

    def likelihood(covariances: Tensor) -> Tensor:
        return (responsibilities * structure.log_density(x, means, structure.precisions_cholesky(covariances))).sum()

    leaf = estimate.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood(leaf), leaf)
    assert float((gradient + gradient.mT if structure.correlated else gradient).abs().max()) < 1e-9
    pooled = structure.pool(counts, estimate)
    torch.testing.assert_close(structure.estimate(counts, pooled, torch.zeros_like(means)), estimate)
    assert torch.broadcast_shapes(pooled.shape, scatter.shape) == scatter.shape


@pytest.mark.parametrize(("n_components", "n_features"), SIZES)
def test_floors_and_scales_act_on_the_matrices(
    structure: CovarianceStructure, n_components: int, n_features: int
) -> None:
    size = (n_components, n_features)
    stored = random_covariances(structure, *size)
    matrices = structure.expand(stored, *size)
    floor = torch.full((n_features,), 0.05).double()
    raised = structure.regularize(stored, floor)
    torch.testing.assert_close(structure.expand(raised, *size), matrices + torch.diag_embed(floor))
    torch.testing.assert_close(structure.subtract_floor(raised, floor), stored)
    least = torch.linalg.eigvalsh(structure.expand(structure.subtract_floor(0 * stored, floor), *size))
    torch.testing.assert_close(least, torch.full_like(least, 5e-5))
    factor = torch.full((n_features,), -2.0).double() if structure.isotropic else normal(n_features)
    moved = structure.rescale(stored, factor)
    torch.testing.assert_close(structure.expand(moved, *size), matrices * factor[:, None] * factor)
    factors = structure.rescale_factors(structure.precisions_cholesky(stored), factor)
    torch.testing.assert_close(
        structure.precisions(factors), structure.precisions(structure.precisions_cholesky(moved))
    )


def test_singular_covariances_have_no_factors(structure: CovarianceStructure) -> None:
    for value in (0.0, -1.0, torch.nan):
        stored = torch.full_like(random_covariances(structure, 3, 2), value)
        assert structure.precisions_cholesky(stored).isnan().all()
    if not structure.shared:
        stored = random_covariances(structure, 3, 2)
        expected = structure.precisions_cholesky(stored)
        stored[1] = 0.0
        factors = structure.precisions_cholesky(stored)
        assert factors[1].isnan().all()
        torch.testing.assert_close(factors[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["full", "tied"])
def test_features_of_very_different_scales_keep_their_digits(name: str) -> None:
    structure = covariance_structure(name)
    stored, scale = random_covariances(structure, 3, 4), torch.tensor([1e-150, 1e150, 1.0, 1e-3], dtype=torch.float64)
    expected = structure.rescale_factors(structure.precisions_cholesky(stored), scale)
    relative = structure.precisions_cholesky(structure.rescale(stored, scale)) / expected.where(expected != 0, 1.0)
    torch.testing.assert_close(relative, (expected != 0).double(), rtol=1e-12, atol=1e-12)


def test_free_parameters_are_counted(structure: CovarianceStructure) -> None:
    stored = structure.expand(random_covariances(structure, 4, 3), 4, 3)
    distinct = torch.unique(stored[stored != 0].mul(1e9).round())
    assert structure.n_parameters(4, 3) == len(distinct)
    assert structure.n_parameters(4, 3) == 4 * structure.n_parameters(1, 3) or structure.shared


def test_a_type_contains_its_special_cases() -> None:
    full, diagonal, tied, spherical, tied_diagonal = map(
        covariance_structure, ("full", "diag", "tied", "spherical", "tied_diag")
    )
    for structure in STRUCTURES:
        assert structure.contains(structure)
        assert full.contains(structure)
        assert structure.contains(TiedSpherical())
    assert diagonal.contains(spherical)
    assert diagonal.contains(tied_diagonal)
    assert tied.contains(tied_diagonal)
    assert not any((tied.contains(spherical), diagonal.contains(tied), spherical.contains(diagonal)))


def test_copies_of_a_structure_are_equal(structure: CovarianceStructure) -> None:
    for again in (copy.deepcopy(structure), pickle.loads(pickle.dumps(structure))):
        assert again == structure
        assert hash(again) == hash(structure)
    assert sum(structure == other for other in STRUCTURES) == 1


def test_the_literal_names_the_registered_structures() -> None:
    assert get_args(CovarianceType) == covariance_types()


def test_a_registered_type_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariances, "_STRUCTURES", dict(covariances._STRUCTURES))
    with pytest.raises(ValueError, match=r"Expected covariance_type in \['diag', .*; got 'tied_spherical'"):
        covariance_structure("tied_spherical")
    register_structure(TiedSpherical())
    register_structure(TiedSpherical())
    assert covariance_structure("tied_spherical") == TiedSpherical()
    assert "tied_spherical" in covariance_types()

    class Other(Variances):
        name = "full"

    with pytest.raises(ValueError, match="Expected a new name for a covariance structure; got 'full', which is taken"):
        register_structure(Other())
