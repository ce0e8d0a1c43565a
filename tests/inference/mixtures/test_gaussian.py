import pickle
import random
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Reference

from latentmix.guides.mixture import global_guide
from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel

from tests.inference.mixtures.clouds import TYPES, synthetic


def digits():
    return PCA(10, random_state=0).fit_transform(load_digits().data[:1149] / 16.0)


@pytest.fixture(scope="module")
def x():
    return synthetic(400, n_components=4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_matches_scikit_learn(x, covariance_type):
    ours = GaussianMixture(4, covariance_type=covariance_type, random_state=0).fit(x)
    theirs = Reference(4, covariance_type=covariance_type, random_state=0).fit(x)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-8)
    for name in ("predict", "predict_proba", "score_samples", "score", "aic", "bic"):
        np.testing.assert_allclose(getattr(ours, name)(x), getattr(theirs, name)(x), rtol=1e-8, atol=1e-8)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-10)
    assert (ours.fit_predict(x) == theirs.fit_predict(x)).all()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("inference", ["em", SVI(tol=1e-9)])
def test_a_given_start_leads_to_the_optimum_of_scikit_learn(x, covariance_type, inference):
    first = GaussianMixture(4, covariance_type=covariance_type, random_state=1).fit(x)
    given = {
        "weights_init": first.weights_,
        "means_init": first.means_ + 0.1,
        "precisions_init": first.precisions_,
    }
    options = {"covariance_type": covariance_type, "tol": 1e-10, "max_iter": 2000, **given}
    theirs = Reference(4, **options).fit(x)
    ours = GaussianMixture(4, inference=inference, **options).fit(x)
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=5e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_svi_stays_at_the_optimum_of_em(covariance_type, reg_covar):
    data = torch.from_numpy(digits())
    structure = covariance_structure(covariance_type)
    first = start(data, 10, structure, random_state=np.random.RandomState(0), reg_covar=reg_covar)
    answer = fit_em(data, first, reg_covar=reg_covar, tol=1e-14, max_iter=5000)
    spread = data.std(0) if covariance_type != "spherical" else data.std().expand(10)
    standardised = answer.parameters.affine(1 / spread, -data.mean(0) / spread)
    floor = reg_covar / spread.square()
    model = MixtureModel.maximum_likelihood(10, 10, covariance_type=covariance_type, covariance_floor=floor)
    guide = global_guide(model, start=standardised.sites(floor))
    z = (data - data.mean(0)) / spread
    guide(z)
    leaves = list(guide.parameters())
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, z) / len(z)
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, leaves)])
    likelihood = answer.parameters.log_likelihood(data).mean().item()
    assert -loss.item() - spread.log().sum().item() == pytest.approx(likelihood, abs=1e-9)
    if reg_covar == 0:
        assert gradient.norm() <= 1e-6
    fitted = SVI(epochs=30).fit(data, answer.parameters, FitOptions(reg_covar=reg_covar))
    tolerance = 1e-6 if reg_covar == 0 else 1e-4
    assert fitted.parameters.log_likelihood(data).mean().item() == pytest.approx(likelihood, abs=tolerance)
    assert fitted.parameters.log_likelihood(data).mean().item() >= likelihood - 1e-9


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize("make", [synthetic, digits])
def test_svi_reaches_em_from_a_common_start(make, reg_covar):
    x = make()
    em = GaussianMixture(10, reg_covar=reg_covar, random_state=0, tol=1e-9, max_iter=5000).fit(x)
    svi = GaussianMixture(10, reg_covar=reg_covar, random_state=0, inference="svi").fit(x)
    assert svi.score(x) >= em.score(x) - 1e-3
    assert svi.converged_
    assert svi.lower_bound_ == pytest.approx(svi.score(x), abs=1e-8)


def test_priors_lower_the_likelihood_and_matter():
    x = digits()[:300]
    flat = GaussianMixture(3, inference="svi", random_state=0).fit(x)
    default = GaussianMixture(3, inference=SVI(priors={}), random_state=0).fit(x)
    assert flat.score(x) - 0.5 < default.score(x) < flat.score(x) - 1e-4


def test_a_mean_field_guide_has_a_width(x):
    options = {"inference": SVI(guide=AutoNormal, priors={}, epochs=300), "random_state": 0}
    fitted = GaussianMixture(4, **options).fit(x)
    em = GaussianMixture(4, random_state=0).fit(x)
    assert fitted.score(x) > em.score(x) - 0.05
    assert fitted.lower_bound_ < fitted.score(x)


def test_minibatches_approach_em(x):
    fitted = GaussianMixture(4, inference=SVI(batch_size=50, epochs=60), random_state=0).fit(x)
    assert fitted.score(x) > GaussianMixture(4, random_state=0).fit(x).score(x) - 0.02


@pytest.mark.parametrize("inference", ["em", "svi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_kind_and_dtype_of_the_points(x, inference, dtype):
    tensor = torch.from_numpy(x).to(dtype)
    a = GaussianMixture(4, inference=inference, random_state=0).fit(tensor)
    b = GaussianMixture(4, inference=inference, random_state=0).fit(tensor.numpy())
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(a, name).dtype == dtype
        assert isinstance(getattr(b, name), np.ndarray)
        np.testing.assert_array_equal(getattr(a, name).numpy(), getattr(b, name))
    assert isinstance(a.predict(tensor), torch.Tensor)
    assert isinstance(a.predict(tensor.numpy()), np.ndarray)
    assert a.predict_proba(tensor).dtype == dtype
    assert a.sample(3)[0].dtype == dtype


@pytest.mark.parametrize("inference", ["em", "svi"])
def test_clones_and_pickles_repeat_the_fit(x, inference):
    fitted = GaussianMixture(4, inference=inference, random_state=3).fit(x)
    again = clone(fitted).fit(x)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert again.lower_bounds_ == fitted.lower_bounds_
    np.testing.assert_array_equal(loaded.predict_proba(x), fitted.predict_proba(x))


@pytest.mark.parametrize("inference", ["em", SVI(epochs=5), SVI(epochs=5, guide=AutoNormal)])
def test_no_side_effects(x, inference):
    pyro.param("kept", torch.ones(()))
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
        pyro.settings.get(),
        torch.get_default_dtype(),
        list(pyro.get_param_store()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = GaussianMixture(4, inference=inference, random_state=0).fit(x)
    fitted.predict(x)
    fitted.sample(5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2:] == (
        random.getstate(),
        pyro.settings.get(),
        torch.get_default_dtype(),
        list(pyro.get_param_store()),
    )


def test_samples_follow_the_mixture(x):
    fitted = GaussianMixture(4, random_state=0).fit(x)
    points, components = fitted.sample(40_000)
    assert points.shape == (40_000, 3)
    np.testing.assert_allclose(np.bincount(components) / 40_000, fitted.weights_, atol=0.01)
    for k in range(4):
        np.testing.assert_allclose(points[components == k].mean(0), fitted.means_[k], atol=0.05)
        np.testing.assert_allclose(np.cov(points[components == k].T), fitted.covariances_[k], atol=0.1)


def test_restarts_keep_the_best(x):
    each = GaussianMixture(4, init_params="random_from_data", random_state=5, tol=1e-6).fit(x)
    many = GaussianMixture(4, init_params="random_from_data", random_state=5, tol=1e-6, n_init=8).fit(x)
    assert many.lower_bound_ > each.lower_bound_ + 1e-3


def test_a_warm_start_resumes_the_fit(x):
    whole = GaussianMixture(4, random_state=0, tol=0, max_iter=6)
    halves = GaussianMixture(4, random_state=0, tol=0, max_iter=3, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole.fit(x)
        halves.fit(x).fit(x)
    np.testing.assert_allclose(halves.means_, whole.means_, atol=1e-10)


@pytest.mark.parametrize("inference", ["em", "svi"])
def test_labels_name_the_components(inference):
    x = synthetic(400, n_components=4)
    truth = GaussianMixture(4, n_init=3, random_state=0).fit_predict(x)
    labels = np.full(len(x), -1)
    for k in range(4):
        labels[np.flatnonzero(truth == k)[:5]] = k
    fitted = GaussianMixture(4, inference=inference).fit(x, labels=labels)
    assert (fitted.predict(x) == truth).mean() > 0.95
    assert (GaussianMixture(4, inference=inference).fit(x, y=labels, labels=labels).means_ == fitted.means_).all()
    with pytest.raises(ValueError, match=r"none for components \[3\]"):
        GaussianMixture(4).fit(x, labels=np.minimum(labels, 2))


def test_unconverged_fits_warn(x):
    with pytest.warns(ConvergenceWarning, match="did not converge.*increase max_iter"):
        GaussianMixture(4, max_iter=2, tol=0).fit(x)
    with pytest.warns(ConvergenceWarning, match="raise epochs"):
        GaussianMixture(4, inference=SVI(epochs=2)).fit(x)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("matrices", [False, True])
def test_known_noise_is_deconvolved(x, covariance_type, matrices):
    variances = np.random.default_rng(0).uniform(0, 1.5, x.shape)
    noise = np.einsum("nd,de->nde", variances, np.eye(3)) if matrices else variances
    labels = np.full(len(x), -1)
    labels[:40] = GaussianMixture(4, random_state=0).fit_predict(x)[:40]
    mixture = GaussianMixture(4, covariance_type=covariance_type, random_state=0)
    ours = mixture.fit(x, labels=labels, noise_covariance=noise)
    assert (ours.predict(x, noise_covariance=noise)[:40] == labels[:40]).mean() > 0.9
    covariances = ours.parameters_.expanded_covariances().numpy()[:, None] + variances[:, None] * np.eye(3)
    joint = np.stack(
        [
            [multivariate_normal(mean, total).logpdf(point) for point, total in zip(x, totals, strict=True)]
            for mean, totals in zip(ours.means_, covariances, strict=True)
        ],
        axis=1,
    ) + np.log(ours.weights_)
    density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(ours.score_samples(x, noise_covariance=noise), density, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        ours.predict_proba(x, noise_covariance=noise), np.exp(joint - density[:, None]), rtol=0, atol=1e-8
    )
    assert ours.score(x, noise_covariance=noise) == pytest.approx(density.mean())
    assert ours.lower_bound_ == pytest.approx(density.mean(), abs=1e-2)
    np.testing.assert_array_equal(
        mixture.fit_predict(x, labels=labels, noise_covariance=noise), ours.predict(x, noise_covariance=noise)
    )


def test_noise_of_either_kind_and_precision(x):
    noise = np.full((1, 3), 0.3)
    ours = GaussianMixture(4, random_state=0).fit(x, noise_covariance=noise)
    tensors = GaussianMixture(4, random_state=0).fit(torch.from_numpy(x), noise_covariance=torch.from_numpy(noise))
    torch.testing.assert_close(tensors.means_, torch.from_numpy(ours.means_))
    single = GaussianMixture(4, random_state=0).fit(torch.from_numpy(x).float(), noise_covariance=noise[0])
    assert single.means_.dtype == torch.float32
    assert single.score_samples(torch.from_numpy(x).float(), noise_covariance=noise).dtype == torch.float32
    torch.testing.assert_close(single.means_.double(), tensors.means_, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.ones((400, 2)), r"Expected noise_covariance of shape \(400, 3\) or \(400, 3, 3\), .*got \(400, 2\)"),
        (np.eye(3), r"or with one row where all points share it; got \(3, 3\)"),
        (np.where(np.arange(400)[:, None] == 7, np.nan, np.ones((400, 3))), "to be finite in every row; got 1 .*: 7"),
        (np.where(np.arange(400)[:, None] > 9, -1.0, np.ones((400, 3))), "not negative .* got 390 .*: 10, 11, 12, 13"),
        (np.triu(np.ones((1, 3, 3))), "Expected noise_covariance to be symmetric in every row; got 1 .*: 0"),
        (np.ones((1, 3, 3)) - np.eye(3), "to be positive semi-definite in every row; got 1 that are not: 0"),
        (-np.eye(3)[None], "to be positive semi-definite in every row"),
    ],
)
def test_bad_noise_is_refused(x, noise, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(4).fit(x, noise_covariance=noise)
    fitted = GaussianMixture(1).fit(x)
    with pytest.raises(ValueError, match=message):
        fitted.predict(x, noise_covariance=noise)


def test_noise_may_be_singular(x):
    fitted = GaussianMixture(2, random_state=0).fit(x, noise_covariance=0.2 * np.ones((1, 3, 3)))
    assert np.isfinite(fitted.lower_bound_)


def test_predictions_need_a_fit(x):
    with pytest.raises(NotFittedError):
        GaussianMixture(4).predict(x)
    with pytest.raises(ValueError, match="3 features"):
        GaussianMixture(4, random_state=0).fit(x).predict(x[:, :2])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_floor_holds_in_every_direction(covariance_type):
    """Three points on a line in two dimensions: without a floor their component's likelihood has no bound."""
    cloud = np.random.default_rng(1).normal(size=(60, 2))
    x = np.concatenate([cloud, [[20.0, 20.0], [21.0, 21.0], [22.0, 22.0]]])
    options = {"covariance_type": covariance_type, "reg_covar": 1e-2, "random_state": 0}
    svi = GaussianMixture(2, inference="svi", **options).fit(x)
    em = GaussianMixture(2, tol=1e-9, max_iter=1000, **options).fit(x)
    assert np.linalg.eigvalsh(svi.parameters_.expanded_covariances().numpy()).min() >= 1e-2 * (1 - 1e-6)
    assert svi.score(x) == pytest.approx(em.score(x), abs=1e-6)


def test_a_singular_end_warns_and_is_finite():
    cloud = np.random.default_rng(1).normal(size=(60, 2))
    x = np.concatenate([cloud, [[20.0, 20.0], [21.0, 21.0], [22.0, 22.0]]])
    with pytest.warns(ConvergenceWarning):
        svi = GaussianMixture(2, inference="svi", reg_covar=0.0, random_state=0).fit(x)
    assert np.isfinite(svi.score(x))
    assert not svi.converged_
