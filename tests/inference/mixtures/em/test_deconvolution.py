import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.em.deconvolution import NoisyEStep, log_joint_under_noise
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.empty import reset_empty
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

TYPES = ("full", "diag", "tied", "spherical", "tied_diag")
NOISES = ("variances", "matrices", "shared variances", "shared matrix")


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(n=60, n_features=3, seed=0):
    centres = torch.tensor([[-4.0, 0.0, 1.0], [3.0, 2.0, -1.0], [0.0, -5.0, 0.0]]).double()[:, :n_features]
    return centres[torch.arange(n) % 3] + draw(n, n_features, seed=seed)


def noises(kind, n, n_features, seed=1):
    rows = 1 if kind.startswith("shared") else n
    if "variances" in kind:
        return draw(rows, n_features, seed=seed).square()
    roots = draw(rows, n_features, n_features, seed=seed)
    return 0.5 * roots @ roots.mT


def mixture(covariance_type, n_components=3, n_features=3, seed=2):
    roots = draw(n_components, n_features, n_features, seed=seed)
    full = roots @ roots.mT + 0.3 * torch.eye(n_features)
    variances = full.diagonal(dim1=-2, dim2=-1)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}
    covariances = (covariances | {"tied_diag": variances[0]})[covariance_type]
    weights = torch.arange(1.0, n_components + 1).double()
    means = 2 * draw(n_components, n_features, seed=seed + 1)
    return MixtureParameters(weights / weights.sum(), means, covariances, covariance_structure(covariance_type))


def noisy(x, noise, weight=None, **options):
    return NoisyEStep(as_points(x, weight), noise, **options)


def begin(x, covariance_type, n_components=3):
    random_state = np.random.RandomState(0)
    return start(x, n_components, covariance_structure(covariance_type), random_state=random_state)


def one_by_one(x, parameters, noise, weight):
    """Equations 16 and 17 of Bovy, Hogg and Roweis (2011), with inverses, point after point."""
    n_components, n_features = parameters.means.shape
    counts, sums = torch.zeros(n_components).double(), torch.zeros(n_components, n_features).double()
    scatter = torch.zeros(n_components, n_features, n_features).double()
    joints, log_likelihood = [], 0.0
    for i, point in enumerate(x):
        own = noise[min(i, len(noise) - 1)]
        own = own if own.ndim == 2 else own.diag()
        total = parameters.expanded_covariances() + own
        joint = parameters.weights.log() + torch.distributions.MultivariateNormal(parameters.means, total).log_prob(
            point
        )
        joints.append(joint)
        log_likelihood += weight[i] * joint.logsumexp(0)
        for k, covariance in enumerate(parameters.expanded_covariances()):
            share = weight[i] * joint.softmax(0)[k]
            gain = covariance @ torch.linalg.inv(total[k])
            shift = gain @ (point - parameters.means[k])
            counts[k] += share
            sums[k] += share * shift
            scatter[k] += share * (shift.outer(shift) + covariance - gain @ covariance)
    match parameters.structure.name:
        case "tied":
            scatter = scatter.sum(0)
        case "tied_diag":
            scatter = scatter.diagonal(dim1=-2, dim2=-1).sum(0)
        case "diag" | "spherical":
            scatter = scatter.diagonal(dim1=-2, dim2=-1)
    return counts, sums, scatter, log_likelihood, torch.stack(joints)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("kind", NOISES)
def test_statistics_match_a_loop_over_points(covariance_type, kind, monkeypatch):
    monkeypatch.setattr("latentmix.inference.mixtures.em.deconvolution._CHUNK", 90)
    x, parameters = points(24), mixture(covariance_type)
    noise, weight = noises(kind, *x.shape), draw(len(x), seed=4).square()
    weight[3] = 0.0
    actual = noisy(x, noise, weight)(parameters)
    counts, sums, scatter, log_likelihood, joints = one_by_one(x, parameters, noise, weight)
    torch.testing.assert_close(actual.counts, counts, rtol=0, atol=1e-10)
    torch.testing.assert_close(actual.sums, sums, rtol=0, atol=1e-10)
    torch.testing.assert_close(actual.scatter, scatter, rtol=0, atol=1e-10)
    torch.testing.assert_close(actual.log_likelihood, log_likelihood, rtol=0, atol=1e-10)
    torch.testing.assert_close(actual.weight, weight.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_joint_under_noise(x, parameters, noise), joints, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("kind", NOISES)
def test_without_noise_it_is_plain_em(covariance_type, kind):
    x = points()
    first = begin(x, covariance_type)
    plain = fit_em(x, first, tol=0.0, max_iter=5)
    noiseless = fit_em(noisy(x, 0 * noises(kind, *x.shape)), first, tol=0.0, max_iter=5)
    for name in ("weights", "means", "covariances"):
        ours, theirs = getattr(noiseless.parameters, name), getattr(plain.parameters, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    np.testing.assert_allclose(noiseless.lower_bounds, plain.lower_bounds, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("kind", NOISES)
def test_never_falls_without_a_floor(covariance_type, kind):
    x = points(90)
    noise = 0.3 * noises(kind, *x.shape)
    result = fit_em(noisy(x, noise), begin(x, covariance_type), reg_covar=0.0, tol=0.0, max_iter=25)
    assert result.n_repaired == result.n_reseeded == 0
    assert np.diff(result.lower_bounds).min() > -1e-9
    assert result.lower_bounds[-1] > result.lower_bounds[0] + 0.001


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize(("kind", "repeated"), [("shared variances", True), ("shared matrix", False)])
def test_one_component_is_the_covariance_less_the_noise(covariance_type, kind, repeated):
    x = points(50)
    noise = 0.2 * noises(kind, *x.shape)
    given = noise.expand(len(x), *noise.shape[1:]) if repeated else noise
    fitted = fit_em(noisy(x, given), begin(x, covariance_type, 1), reg_covar=0.0, tol=0.0, max_iter=60).parameters
    matrix = noise[0] if noise.ndim == 3 else noise[0].diag()
    torch.testing.assert_close(fitted.means[0], x.mean(0), rtol=0, atol=1e-8)
    expected = torch.cov(x.T, correction=0) - matrix
    torch.testing.assert_close(fitted.expanded_covariances()[0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_one_variance_in_closed_form(covariance_type):
    x = 2 * points(50, 1)
    noise = torch.full_like(x, 0.7)
    first = begin(x, covariance_type, 1)
    fitted = fit_em(noisy(x, noise), first, reg_covar=0.0, tol=0.0, max_iter=50).parameters
    assert float(fitted.covariances.squeeze()) == pytest.approx(float(x.var(correction=0)) - 0.7, abs=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("kind", ["variances", "matrices"])
def test_integer_weights_repeat_points(covariance_type, kind):
    x = points()
    noise = noises(kind, *x.shape)
    times = torch.arange(len(x)) % 3
    first = begin(x, covariance_type)
    weighted = fit_em(noisy(x, noise, times), first, tol=0.0, max_iter=5)
    again = times.repeat_interleave(times), torch.arange(len(x)).repeat_interleave(times)
    repeated = fit_em(noisy(x[again[1]], noise[again[1]]), first, tol=0.0, max_iter=5)
    torch.testing.assert_close(weighted.parameters.means, repeated.parameters.means, rtol=0, atol=1e-10)
    torch.testing.assert_close(weighted.parameters.covariances, repeated.parameters.covariances, rtol=0, atol=1e-10)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["variances", "matrices"])
def test_recovers_the_covariance_that_plain_em_overstates(kind):
    """Errors beyond 5 standard errors, here bounded by those without noise scaled by the noise's size, come by chance
    once in 10^6 per entry, hence in less than one of 10^5 runs over all seeds."""
    n, truth = 6000, torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
    clean = draw(n, 2, seed=6) @ torch.linalg.cholesky(truth).T
    clean[::2] += 12
    noise = noises(kind, n, 2, seed=7)
    roots = noise.sqrt().diag_embed() if noise.ndim == 2 else torch.linalg.cholesky(noise)
    x = clean + (roots @ draw(n, 2, 1, seed=8)).squeeze(-1)
    first = begin(x, "full", 2)
    plain, aware = (fit_em(given, first, tol=1e-7, max_iter=200).parameters for given in (x, noisy(x, noise)))
    mean_noise = noise.mean(0).diag() if noise.ndim == 2 else noise.mean(0)
    error = 5 * 2**0.5 * float((truth + mean_noise).diagonal().max()) / (n / 2) ** 0.5
    assert (aware.covariances - truth).abs().max() < error
    assert (plain.covariances - truth).diagonal(dim1=-2, dim2=-1).min() > 2 * error


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("kind", ["variances", "matrices"])
def test_a_feature_that_says_nothing_changes_nothing(covariance_type, kind):
    x, noise = points(200, 2), noises("variances", 200, 2)
    first = begin(x, covariance_type)
    block = fit_em(noisy(x, noise), first, max_iter=20, tol=0.0).parameters
    wild = torch.cat([x, 1e4 * draw(200, 1, seed=9)], 1)
    useless = torch.cat([noise, torch.full((200, 1), 1e8).double()], 1)
    useless = useless.diag_embed() if kind == "matrices" else useless
    covariances = torch.eye(3).double().repeat(3, 1, 1)
    covariances[:, :2, :2] = first.expanded_covariances()
    covariances = covariances if covariance_type == "full" else covariances.diagonal(dim1=-2, dim2=-1)
    means = torch.nn.functional.pad(first.means, (0, 1))
    wide = MixtureParameters(first.weights, means, covariances, first.structure)
    result = fit_em(noisy(wild, useless), wide, max_iter=20, tol=0.0)
    assert np.isfinite(result.lower_bounds).all()
    torch.testing.assert_close(result.parameters.means[:, :2], block.means, rtol=0, atol=1e-3)
    torch.testing.assert_close(result.parameters.weights, block.weights, rtol=0, atol=1e-4)


def test_few_candidates_bound_the_likelihood_from_below():
    x, parameters = points(90), mixture("full", n_components=8)
    noise = 0.1 * noises("variances", *x.shape)
    exact = noisy(x, noise)(parameters)
    bounds = [noisy(x, noise, candidates=count)(parameters).bound for count in (1, 3, 5, 8)]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] == exact.bound
    assert exact.bound - bounds[2] < 0.05 * (exact.bound - bounds[0])
    few = noisy(x, noise, candidates=3)(parameters)
    assert few.counts.sum() == pytest.approx(len(x))
    result = fit_em(noisy(x, noise, candidates=5), parameters, max_iter=50)
    assert result.lower_bounds[-1] > exact.bound


def test_empty_components_are_reset_to_points_that_noise_does_not_explain():
    x = torch.cat([points(60, 2), torch.tensor([[60.0, 0.0], [0.0, 20.0]]).double()])
    noise = torch.full_like(x, 0.1)
    noise[60] = 1e4
    parameters = mixture("full", n_features=2)
    empty = torch.tensor([False, True, False])
    reset = reset_empty(noisy(x, noise), parameters, empty)
    # of noise 0.1, far out: the point moves towards the mixture a little, and is the one that noise does not explain
    torch.testing.assert_close(reset.means[1], x[61], rtol=0.05, atol=0.5)
    assert not torch.equal(reset.means[1], x[61])
    far = MixtureParameters(
        parameters.weights, parameters.means + 1e6 * empty[:, None], parameters.covariances, parameters.structure
    )
    with pytest.warns(ConvergenceWarning, match="were reset"):
        result = fit_em(noisy(x, noise), far, max_iter=30)
    assert result.parameters.means.abs().max() < 100


def test_noise_of_another_number_of_points_is_refused():
    with pytest.raises(ValueError, match="Expected noise of one point or of all 60; got that of 7"):
        noisy(points(), torch.ones(7, 3))
