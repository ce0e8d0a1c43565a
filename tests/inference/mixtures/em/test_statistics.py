"""The E step's kernels against plain formulas, against each other, in extended precision, and against scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Theirs

from latentmix.inference.mixtures.em import kernels
from latentmix.inference.mixtures.em.density import LogJoint, log_joint
from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.kernels import Centred, Expanded, accurate
from latentmix.inference.mixtures.em.m_step import maximize
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.quadratic import expansion_error

from tests.inference.mixtures.clouds import ALL_TYPES, TYPES, begin, blobs

SIZES = [(1, 1), (1, 4), (2, 3), (5, 1), (6, 7), (7, 12)]


def mixture(covariance_type, n_features, n_components, seed=0, scale=1.0):
    """Unequal weights, means a few units apart, moderately correlated covariances."""
    random = np.random.default_rng(seed)
    roots = np.eye(n_features) + 0.3 * random.standard_normal((n_components, n_features, n_features))
    covariances = torch.from_numpy(roots @ roots.transpose(0, 2, 1) / 2 + np.eye(n_features) / 2) * scale
    diagonals = covariances.diagonal(dim1=-2, dim2=-1)
    chosen = {"full": covariances, "tied": covariances.mean(0), "diag": diagonals, "spherical": diagonals.mean(1)}
    chosen["tied_diag"] = diagonals.mean(0)
    means = torch.from_numpy(3 * random.standard_normal((n_components, n_features)))
    weights = torch.from_numpy(random.dirichlet(np.full(n_components, 5.0)))
    return MixtureParameters(
        weights, means, chosen[covariance_type].contiguous(), covariance_structure(covariance_type)
    )


def drawn(parameters, n=1001, seed=0):
    random = np.random.default_rng(seed)
    chosen = random.choice(len(parameters.weights), n, p=parameters.weights.numpy() / float(parameters.weights.sum()))
    factors = torch.linalg.cholesky(parameters.expanded_covariances())[chosen]
    noise = torch.from_numpy(random.standard_normal((n, parameters.means.shape[1], 1)))
    return parameters.means[chosen] + 0.2 + (factors @ noise)[..., 0]


def plain(x, parameters, weight=None):
    """The statistics by formulas over an `n x K x D` tensor, about the means."""
    joint = parameters.log_joint(x.double())
    density = joint.logsumexp(1)
    shares = (joint - density[:, None]).exp()
    return SufficientStatistics.of(
        x.double(), shares, parameters.means, parameters.structure, sample_weight=weight, log_likelihood=density
    )


def assert_same(result, expected, rtol=1e-10):
    """Equal parts, each relative to its largest entry."""
    result = result.about(expected.centres)
    for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
        each, other = getattr(result, name), getattr(expected, name)
        if name == "scatter" and expected.structure.isotropic:
            each, other = each.mean(1), other.mean(1)
        torch.testing.assert_close(each, other, rtol=0, atol=rtol * max(float(other.abs().max()), 1e-300), msg=name)


def kernels_of(points, parameters):
    return Expanded(parameters, points.location), Centred(parameters)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_features", "n_components"), SIZES)
@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_statistics_match_plain_formulas(covariance_type, n_features, n_components, weighted, monkeypatch) -> None:
    """Both kernels, in one block and in blocks that do not divide the points."""
    parameters = mixture(covariance_type, n_features, n_components)
    x = drawn(parameters)
    weight = torch.from_numpy(np.random.default_rng(1).uniform(0, 3, len(x))) if weighted else None
    expected = plain(x, parameters, weight)
    points = as_points(x, weight)
    assert accurate(parameters, points.location, points.variance, points.radius)
    for largest in (kernels._LARGEST, 64):
        monkeypatch.setattr(kernels, "_LARGEST", largest)
        for kernel in kernels_of(points, parameters):
            assert (kernel.rows < len(x)) == (largest == 64)
            for block, own in points.columns(kernel.rows):
                kernel.expect(block, own)
            assert_same(kernel.statistics(), expected)
        e_step = ExactEStep(points)
        for _ in range(2):
            assert_same(e_step(parameters), expected)
        torch.testing.assert_close(log_joint(x, parameters), parameters.log_joint(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 5, 8])
def test_scatter_of_the_products_is_complete_and_symmetric(n_features) -> None:
    """Every product of two features exactly once, whichever side of the diagonal it stands on."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((70, n_features)))
    features = covariance_structure("full").features(n_features, x.device)
    block = torch.empty(features.lead + features.count, len(x), dtype=torch.float64)
    block[features.lead : features.lead + n_features] = x.T
    features.fill(block)
    result = features.scatter(block[features.lead + n_features + 1 :].sum(1)[None])[0]
    assert torch.equal(result, result.T)
    torch.testing.assert_close(result, x.T @ x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_single_precision_far_from_the_origin(covariance_type) -> None:
    parameters = mixture(covariance_type, 4, 3)
    far = MixtureParameters(parameters.weights, parameters.means + 1e6, parameters.covariances, parameters.structure)
    x = (drawn(parameters) + 1e6).float()
    near = MixtureParameters(parameters.weights, far.means - 1e6, parameters.covariances, parameters.structure)
    expected = plain(x.double() - 1e6, near)
    result = ExactEStep(as_points(x))(far)
    assert result.scatter.dtype == torch.float64
    shifted = result.about(far.means)
    assert_same(
        SufficientStatistics(
            shifted.counts, shifted.sums, shifted.scatter, expected.centres, shifted.log_likelihood, shifted.weight,
            shifted.structure,
        ),
        expected,
    )  # fmt: skip
    torch.testing.assert_close(log_joint(x, far), near.log_joint(x.double() - 1e6), rtol=1e-10, atol=1e-10)


def extended_log_joint(x, parameters):
    """In extended precision, from the factors of the precisions."""
    factors = parameters.precisions_cholesky
    whole = factors.expand(len(parameters.means), *factors.shape[-2:]) if factors.ndim > 1 else factors
    if not parameters.structure.correlated:
        whole = parameters.structure.by_component(factors).expand_as(parameters.means).diag_embed()
    deviations = x.numpy().astype(np.longdouble)[:, None] - parameters.means.numpy().astype(np.longdouble)
    factors = whole.numpy().astype(np.longdouble)
    squares = (np.einsum("kij,nki->nkj", factors, deviations) ** 2).sum(-1)
    log_det = np.log(np.einsum("kii->ki", factors)).sum(-1)
    constant = x.shape[1] * np.log(2 * np.longdouble(math.pi)) / 2
    return np.log(parameters.weights.numpy().astype(np.longdouble)) + log_det - squares / 2 - constant


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_expanded_log_densities_err_by_less_than_the_bound(covariance_type, scale) -> None:
    """Wherever it would be taken, and where it would not; the bound is not a thousand times too large either."""
    for seed, (n_features, n_components) in enumerate([(1, 3), (3, 5), (8, 4), (20, 3)]):
        parameters = mixture(covariance_type, n_features, n_components, seed, scale)
        x = drawn(parameters, 200)
        points = as_points(x)
        expected = extended_log_joint(x, parameters)
        structure, means = parameters.structure, parameters.means - points.location
        precisions = structure.precisions(parameters.precisions_cholesky)
        features = structure.features(n_features, x.device)
        units = (structure, features, means, precisions, points.variance, points.radius)
        expanded, centred = kernels_of(points, parameters)
        joint = expanded.log_joint(x)
        error = np.abs((joint + expanded.common_square()).T.numpy() - expected).max()
        bound = float(expansion_error(*units, shared=True))
        assert bound / 3000 < error < bound + 1e-13
        between = (joint - joint[:1]).T.numpy() - (expected - expected[:, :1])
        assert np.abs(between).max() < 2 * float(expansion_error(*units)) + 1e-13
        relative = np.abs(centred.log_joint(x).T.numpy() - expected) / np.maximum(1, np.abs(expected))
        assert relative.max() < 1e-13


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_ill_conditioned_covariances_are_centred(covariance_type) -> None:
    """Condition number 1e12, against extended precision."""
    parameters = mixture("full", 5, 3)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(3).standard_normal((5, 5))))[0]
    axes = torch.eye(5).double() if covariance_type == "diag" else rotation
    spectrum = torch.logspace(0, -12, 5, dtype=torch.float64)
    covariance = (axes * spectrum) @ axes.T
    own = {"full": covariance.expand(3, 5, 5), "tied": covariance, "diag": spectrum.expand(3, 5)}[covariance_type]
    narrow = MixtureParameters(
        parameters.weights, parameters.means, own.contiguous(), covariance_structure(covariance_type)
    )
    x = torch.cat([drawn(narrow, 300), narrow.means])
    points = as_points(x)
    assert not accurate(narrow, points.location, points.variance, points.radius)
    result = ExactEStep(points)(narrow)
    assert result.centres is narrow.means
    joint = extended_log_joint(x, narrow)
    peak = joint.max(1, keepdims=True)
    shares = np.exp(joint - peak)
    density = np.log(shares.sum(1)) + peak[:, 0]
    shares /= shares.sum(1, keepdims=True)
    deviations = x.numpy().astype(np.longdouble)[:, None] - narrow.means.numpy()
    counts, sums = shares.sum(0), np.einsum("nk,nkd->kd", shares, deviations)
    scatter = np.einsum("nk,nki,nkj->kij", shares, deviations, deviations)
    scatter = {"full": scatter, "tied": scatter.sum(0), "diag": np.einsum("kii->ki", scatter)}[covariance_type]
    assert np.ptp(counts) > 1
    for ours, theirs in ((result.counts, counts), (result.sums, sums), (result.scatter, scatter)):
        np.testing.assert_allclose(
            ours.numpy(), theirs.astype(float), rtol=1e-10, atol=1e-10 * float(abs(theirs).max())
        )
    np.testing.assert_allclose(float(result.log_likelihood), float(density.sum()), rtol=1e-12)
    ours = log_joint(x, narrow).numpy()
    np.testing.assert_allclose(ours, joint.astype(float), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_a_covariance_that_collapses_is_taken_about_the_means(covariance_type) -> None:
    """The parameters pass the test of conditioning, and the covariances of the very next M step would not."""
    random = np.random.default_rng(0)
    centres = torch.tensor([[-1.0, 0.0], [1.0, 1.0]]).double()
    x = (centres[:, None] + 1e-7 * torch.from_numpy(random.standard_normal((2, 50, 2)))).flatten(0, 1)
    points, structure = as_points(x), covariance_structure(covariance_type)
    nothing = torch.zeros(structure.covariance_shape(2, 2), dtype=torch.float64)
    covariances = structure.regularize(nothing, torch.full((2,), 0.1).double())
    parameters = MixtureParameters(torch.full((2,), 0.5).double(), centres, covariances, structure)
    assert accurate(parameters, points.location, points.variance, points.radius)
    result = ExactEStep(points)(parameters)
    assert result.centres is parameters.means
    fitted, jittered = maximize(result, 0.0, points.variance)
    assert not jittered
    expected = maximize(plain(points.sample(torch.arange(100)), parameters), 0.0, points.variance)[0]
    torch.testing.assert_close(fitted.covariances, expected.covariances, rtol=1e-9, atol=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_step_matches_scikit_learn(covariance_type) -> None:
    x = blobs(n=500)
    start = begin(x, covariance_type)
    precisions = start.structure.precisions(start.precisions_cholesky)
    theirs = Theirs(
        4, covariance_type=covariance_type, max_iter=1, weights_init=start.weights.numpy(),
        means_init=start.means.numpy(), precisions_init=precisions.numpy(),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())
    points = as_points(x)
    statistics = ExactEStep(points)(start)
    result, jittered = maximize(statistics, 1e-6, points.variance)
    assert not jittered
    assert statistics.centres is not start.means
    assert statistics.bound == pytest.approx(theirs.lower_bound_, rel=1e-12)
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(
            getattr(result, name), torch.from_numpy(getattr(theirs, f"{name}_")), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_floor_is_added_exactly(covariance_type) -> None:
    x = blobs()
    points = as_points(x)
    statistics = ExactEStep(points)(begin(x, covariance_type))
    plain_fit, floored = (maximize(statistics, floor, points.variance)[0] for floor in (0.0, 0.25))
    expected = plain_fit.structure.regularize(plain_fit.covariances, torch.full((3,), 0.25).double())
    assert torch.equal(floored.covariances, expected)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_statistics_about_other_centres(covariance_type) -> None:
    parameters = mixture(covariance_type, 3, 4)
    x = drawn(parameters)
    result = plain(x, parameters)
    centres = torch.from_numpy(np.random.default_rng(5).standard_normal((4, 3)))
    shares = parameters.responsibilities(x)
    moved = SufficientStatistics.of(x, shares, centres, parameters.structure)
    assert_same(SufficientStatistics(moved.counts, moved.sums, moved.scatter, centres, result.log_likelihood,
                                     result.weight, result.structure), result)  # fmt: skip
    assert result.about(result.centres) is result
    together = plain(x[:100], parameters) + plain(x[100:], parameters).about(centres)
    assert_same(together, result)


@pytest.mark.parametrize("covariance_type", ["tied", "tied_diag"])
def test_scatter_of_a_shared_covariance_is_computed_once(covariance_type) -> None:
    parameters = mixture(covariance_type, 3, 4)
    x, weight = drawn(parameters), torch.from_numpy(np.random.default_rng(2).uniform(0, 2, 1001))
    e_step, other = ExactEStep(as_points(x, weight)), mixture(covariance_type, 3, 4, seed=1)
    first, second = e_step(parameters), e_step(other)
    assert second.scatter is first.scatter
    assert_same(first, plain(x, parameters, weight))
    assert_same(second, plain(x, other, weight))


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_one_e_step_takes_mixtures_of_any_kind_in_turn(covariance_type) -> None:
    """Kernels keep points, memory and scatter from one mixture to the next."""
    first, second = (mixture(covariance_type, 3, 4, seed=seed) for seed in (0, 1))
    structure = covariance_structure("diag" if first.structure.correlated else "full")
    x = drawn(first)
    narrow = MixtureParameters(first.weights, first.means, first.covariances * 1e-9, first.structure)
    e_step = ExactEStep(as_points(x))
    for parameters in (first, mixture(structure.name, 3, 5), second, narrow, first, mixture(covariance_type, 3, 3)):
        assert_same(e_step(parameters), plain(x, parameters), rtol=1e-9)


def test_responsibilities_of_components_far_off_are_zero() -> None:
    """Their densities underflow, and neither a count nor a moment is touched."""
    weights, means = torch.tensor([0.5, 0.5]).double(), torch.tensor([[0.0], [1e3]]).double()
    far = MixtureParameters(weights, means, torch.ones(2, 1).double(), covariance_structure("diag"))
    near = torch.linspace(-1, 1, 50, dtype=torch.float64)
    x = torch.cat([near, 1e3 + near])[:, None]
    statistics = ExactEStep(as_points(x))(far).about(means)
    assert statistics.counts.tolist() == [50.0, 50.0]
    torch.testing.assert_close(statistics.scatter, near.square().sum().expand(2, 1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_components_of_no_weight(covariance_type) -> None:
    parameters = mixture(covariance_type, 3, 4)
    weights = torch.tensor([0.5, 0.0, 0.2, 0.3]).double()
    parameters = MixtureParameters(weights, parameters.means, parameters.covariances, parameters.structure)
    x = drawn(parameters)
    for points in (x, x * 1e6):
        joint = log_joint(points, parameters)
        assert bool((joint[:, 1] == -torch.inf).all())
        assert bool(joint[:, [0, 2, 3]].isfinite().all())
    result = ExactEStep(as_points(x))(parameters)
    assert float(result.counts[1]) == 0
    assert float(result.counts.sum()) == pytest.approx(len(x), rel=1e-12)
    assert result.empty.tolist() == [False, True, False, False]


def test_batches_far_out_go_through_the_centred_kernel() -> None:
    parameters = mixture("full", 3, 4)
    x = drawn(parameters, 50)
    joints = LogJoint(parameters)
    for points in (x, x * 1e7, x):
        result = torch.cat([part.T.clone() for _, part in joints(points)])
        torch.testing.assert_close(result, parameters.log_joint(points), rtol=1e-12, atol=1e-11)
    assert sorted(joints._kernels) == [False, True]
    assert log_joint(x[:0], parameters).shape == (0, 4)
    assert bool(log_joint(torch.full((2, 3), torch.nan), parameters).isnan().all())


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_a_pass_in_inference_mode_is_followed_by_one_outside(scale) -> None:
    """By the expanded kernel, and by the centred one."""
    parameters = mixture("full", 3, 4, scale=scale)
    x = drawn(parameters, 50)
    e_step, joints = ExactEStep(as_points(x)), LogJoint(parameters)
    with torch.inference_mode():
        e_step(parameters)
        list(joints(x))
    assert_same(e_step(parameters), plain(x, parameters))
    torch.testing.assert_close(torch.cat([part.T for _, part in joints(x)]), parameters.log_joint(x))


def test_many_features_need_no_products() -> None:
    """Beyond 64 features, products of pairs outgrow the cache."""
    parameters = mixture("full", 65, 2)
    wide = MixtureParameters(
        parameters.weights, parameters.means, torch.eye(65).double().expand(2, 65, 65), parameters.structure
    )
    x = drawn(wide, 300)
    assert ExactEStep(as_points(x))(wide).centres is wide.means
    assert_same(ExactEStep(as_points(x))(wide), plain(x, wide))
