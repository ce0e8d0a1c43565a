import warnings
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.em.initialization import start
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.inference.mixtures.svi.objective import PointMass, RegularizedEnum
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import OrderedMeans
from latentmix.models.mixture.quadratic import ExpandedPoints

from tests.inference.mixtures.clouds import TYPES, synthetic


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.from_numpy(synthetic(600, n_components=4))


def first(x: torch.Tensor, covariance_type: str) -> MixtureParameters:
    structure = covariance_structure(covariance_type)
    return start(x, 4, structure, method="random_from_data", random_state=np.random.RandomState(0))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_svi_converges_with_em_to_the_same_likelihood(x: torch.Tensor, covariance_type: str) -> None:
    begin = first(x, covariance_type)
    em = fit_em(x, begin, tol=1e-6, reg_covar=0.0, max_iter=2000)
    fitted = SVI().fit(x, begin, FitOptions(reg_covar=0.0))
    assert em.converged
    assert fitted.converged
    assert 5 < fitted.n_iter <= em.n_iter + 3
    gain = fitted.parameters.log_likelihood(x).mean() - em.parameters.log_likelihood(x).mean()
    assert gain > -1e-6
    assert fitted.lower_bound == pytest.approx(float(fitted.parameters.log_likelihood(x).mean()), abs=1e-9)


def test_the_first_steps_are_those_of_em(x: torch.Tensor) -> None:
    begin = first(x, "full")
    em = fit_em(x, begin, tol=0.0, reg_covar=0.0, max_iter=6)
    fitted = SVI(epochs=6).fit(x, begin, FitOptions(reg_covar=0.0))
    assert min(np.diff(em.lower_bounds)) > 2e-3
    np.testing.assert_allclose(fitted.lower_bounds, em.lower_bounds, rtol=0, atol=1e-7)


@pytest.mark.parametrize("covariance_type", ["full", "spherical"])
def test_the_path_does_not_depend_on_how_densities_are_computed(
    x: torch.Tensor, covariance_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = first(x, covariance_type)
    used: list[bool] = []
    log_density = ExpandedPoints.log_density
    for answer in (True, False):

        def watched(
            self: ExpandedPoints, means: torch.Tensor, factors: torch.Tensor, answer: bool = answer
        ) -> torch.Tensor | None:
            density = log_density(self, means, factors)
            used.append(density is not None)
            return density if answer else None

        monkeypatch.setattr(ExpandedPoints, "log_density", watched)
        bounds = SVI(epochs=12, tol=0.0).fit(x, begin).lower_bounds
        if answer:
            expected = bounds
            assert all(used)
            assert len(used) >= 12
    np.testing.assert_allclose(bounds, expected, rtol=0, atol=1e-9)


def test_features_of_the_data_are_made_once_in_a_fit(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    begin = ExpandedPoints.__init__

    def counted(self: ExpandedPoints, points: torch.Tensor, structure: CovarianceStructure) -> None:
        made.append(tuple(points.shape))
        begin(self, points, structure)

    monkeypatch.setattr(ExpandedPoints, "__init__", counted)
    SVI(epochs=8).fit(x, first(x, "full"))
    assert made.count(tuple(x.shape)) == 1


@pytest.mark.parametrize("reg_covar", [0.0, 0.2])
@pytest.mark.parametrize("priors", [None, {}, {"means": dist.Normal(0.0, 2.0).expand([4, 3]).to_event(2)}])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_terms_of_one_pass_equal_pyro_s_elbo_and_are_kept_until_a_gradient(
    x: torch.Tensor, covariance_type: str, priors: dict[str, Any] | None, reg_covar: float
) -> None:
    fitted = SVI(epochs=3, priors=priors).fit(x, first(x, covariance_type))
    points = (x - fitted.location) / fitted.scale
    floor = torch.full((3,), reg_covar).double()
    plain = RegularizedEnum(TraceEnum_ELBO(max_plate_nesting=1), fitted.model, floor)
    kept = PointMass(fitted.model, floor)
    leaves = list(fitted.guide.parameters())
    each, again = kept.terms(fitted.model, fitted.guide, points), kept.terms(fitted.model, fitted.guide, points)
    assert each is again
    for _ in range(3):
        gradients = []
        for objective in (kept, plain):
            for leaf in leaves:
                leaf.grad = None
            terms = objective.backward(fitted.model, fitted.guide, points)
            gradients.append((terms._replace(loss=terms.loss.detach()), [leaf.grad.clone() for leaf in leaves]))
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
        with torch.no_grad():
            leaves[0].add_(0.1)
    half = kept.terms(fitted.model, fitted.guide, points[:300])
    torch.testing.assert_close(half.loss, plain.terms(fitted.model, fitted.guide, points[:300]).loss)


@pytest.mark.parametrize("reg_covar", [0.0, 0.2])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_point_masses_learn_from_minibatches_as_by_pyro_s_elbo(
    x: torch.Tensor, covariance_type: str, reg_covar: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, fits, made = first(x, covariance_type), [], []

    def plain(model: MixtureModel, floor: torch.Tensor, *, keeps: bool) -> RegularizedEnum:
        made.append(keeps)
        return RegularizedEnum(TraceEnum_ELBO(max_plate_nesting=1), model, floor)

    for objective in (PointMass, plain):
        monkeypatch.setattr("latentmix.inference.mixtures.svi.fit.PointMass", objective)
        fits.append(SVI(epochs=3, batch_size=170).fit(x, begin, FitOptions(reg_covar=reg_covar)))
    assert made == [False]
    assert fits[0].lower_bounds == pytest.approx(fits[1].lower_bounds, rel=0, abs=1e-10)
    torch.testing.assert_close(fits[0].parameters.means, fits[1].parameters.means, rtol=0, atol=1e-10)


class Halved(AutoDelta):
    """A point mass whose means are half its parameters."""

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        with poutine.block():
            values = super().forward(*args, **kwargs)
        values["means"] = values["means"] / 2
        return {name: pyro.sample(name, dist.Delta(value, event_dim=value.dim())) for name, value in values.items()}


def test_a_guide_of_one_s_own_is_evaluated_by_its_draws(x: torch.Tensor) -> None:
    bounds = [
        SVI(guide=guide, epochs=1, batch_size=170).fit(x, first(x, "diag"), FitOptions(seed=0)).lower_bounds[0]
        for guide in (AutoDelta, lambda model, **options: Halved(model, init_loc_fn=options["init_loc_fn"]))
    ]
    assert bounds[1] < bounds[0] - 0.5


def test_a_given_width_of_the_guide_is_used(x: torch.Tensor) -> None:
    begin, scales = first(x, "diag"), []
    for family in (AutoNormal, partial(AutoNormal, init_scale=0.3)):
        fitted = SVI(guide=family, epochs=1).fit(x, begin)
        scales.append(float(fitted.guide.scales.means.detach().mean()))
    assert scales == pytest.approx([0.02, 0.3], rel=0.1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_ordered_means_accept_a_start_in_any_order(x: torch.Tensor, covariance_type: str) -> None:
    x = x[:, :1]
    begin = first(x, covariance_type)
    priors = {"means": OrderedMeans(dist.Normal(0.0, 100.0), 4)}
    fits = [
        SVI(priors=priors, epochs=5).fit(x, begin.permuted(begin.means[:, 0].argsort(descending=down)))
        for down in (False, True)
    ]
    assert bool((fits[1].parameters.means.diff(dim=0) > 0).all())
    torch.testing.assert_close(fits[1].parameters.means, fits[0].parameters.means)


def collinear(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.r_[rng.normal(-4, 1, 150), rng.normal(4, 1, 150)]
    return np.c_[3e3 * t, 6e3 * t + 3, rng.normal(size=300)]


def both(x: np.ndarray, **options: Any) -> tuple[GaussianMixture, GaussianMixture]:
    """EM and SVI, neither of which may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        em = GaussianMixture(2, random_state=0, tol=1e-7, max_iter=1000, **options).fit(x)
        return em, GaussianMixture(2, random_state=0, inference="svi", **options).fit(x)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [1e-6, 0.0])
@pytest.mark.parametrize(
    "scales",
    [
        (1e-9, 1.0, 1e9, 1e3),
        (1e-3, 1e-3, 1e-3, 1e-3),  # variances of the size of the floor
        (1e-4, 3e-3, 1e-2, 1e6),
        (1e-7, 1e-8, 1.0, 1.0),
    ],
)
def test_svi_ends_where_em_does_over_features_of_any_scales(
    covariance_type: str, reg_covar: float, scales: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, (150, 4)), rng.normal(2, 1, (150, 4))]) * scales
    em, svi = both(x, covariance_type=covariance_type, reg_covar=reg_covar)
    assert svi.converged_
    assert svi.score(x) == pytest.approx(em.score(x), abs=1e-4)
    assert svi.lower_bound_ == pytest.approx(svi.score(x), abs=1e-6)


def test_svi_ends_where_em_does_beside_a_constant_feature() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, (80, 2)), rng.normal(2, 1, (60, 2))]) * (1.0, 1e9)
    x = np.c_[x, np.full(140, 7.0)]
    em, svi = both(x)
    assert svi.score(x) == pytest.approx(em.score(x), abs=1e-4)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_svi_ends_where_em_does_on_collinear_columns(covariance_type: str) -> None:
    """The narrowest variance is the floor's, 1e-15 of the widest."""
    for seed in range(8):
        em, svi = both(collinear(seed), covariance_type=covariance_type)
        assert svi.converged_
        assert svi.lower_bound_ == pytest.approx(em.lower_bound_, abs=2e-3), seed  # EM's own digits end there


def test_the_first_steps_are_those_of_em_with_a_floor(x: torch.Tensor) -> None:
    begin = first(x, "full")
    em = fit_em(x, begin, tol=0.0, reg_covar=0.3, max_iter=6)
    fitted = SVI(epochs=6).fit(x, begin, FitOptions(reg_covar=0.3))
    np.testing.assert_allclose(fitted.lower_bounds, em.lower_bounds, rtol=0, atol=1e-7)


@pytest.mark.parametrize("options", [{"guide": AutoNormal}, {"batch_size": 100}])
def test_noisy_fits_take_features_of_any_scales(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, (150, 3)), rng.normal(2, 1, (150, 3))]) * (1e-9, 1.0, 1e9)
    em = GaussianMixture(2, random_state=0).fit(x)
    svi = GaussianMixture(2, random_state=0, inference=SVI(epochs=80, **options)).fit(x)
    assert svi.score(x) == pytest.approx(em.score(x), abs=0.05)


def test_a_guide_that_loses_its_start_is_not_called_converged() -> None:
    mixture = GaussianMixture(2, random_state=0, inference=SVI(guide=AutoNormal, epochs=20))
    with pytest.warns(ConvergenceWarning, match=r"far below the -6\.\d+ of its start: .* leave one of these out"):
        mixture.fit(collinear(0))
    assert not mixture.converged_


@pytest.mark.parametrize("outlier", [1e12, 1e16, 1e25])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_fit_whose_spread_is_lost_beside_an_outlier_is_not_called_converged(
    covariance_type: str, outlier: float
) -> None:
    """Beside a value of 1e16 there are digits enough, beside one of 1e25 there are none."""
    means = np.array([[0.0, 0.0], [outlier, outlier]])
    x = np.concatenate([np.random.default_rng(0).normal(size=(100, 2)), means[1:]])
    mixture = GaussianMixture(2, covariance_type=covariance_type, inference="svi", means_init=means, reg_covar=1e-3)
    if outlier < 1e20:
        em = GaussianMixture(2, covariance_type=covariance_type, means_init=means, reg_covar=1e-3).fit(x)
        assert mixture.fit(x).score(x) == pytest.approx(em.score(x), abs=0.01)
    else:
        with pytest.warns(ConvergenceWarning, match="far below .* lost once features are standardised"):
            mixture.fit(x)
    assert mixture.converged_ == (outlier < 1e20)
