"""Trees of mixtures: values, densities and statistics against hand-made ones, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from latentmix.inference import (
    SVI,
    BayesianGaussianMixture,
    GaussianMixture,
    MixturePosterior,
    standard_errors,
    to_datatree,
)
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.models.mixture.covariances import covariance_structure, covariance_types

from tests.inference.trees.fits import POINTS, fitted


@pytest.fixture(scope="module")
def mixtures():
    return {name: fitted(name) for name in ("nuts", "svi", "em")}


@pytest.fixture(scope="module")
def trees(mixtures):
    return {name: to_datatree(mixture, X=POINTS) for name, mixture in mixtures.items()}


def drawn(covariance_type: str, n_components: int = 3, n_features: int = 2) -> MixturePosterior:
    structure, torch_rng = covariance_structure(covariance_type), torch.Generator().manual_seed(0)
    size = (n_components, n_features)
    weights = torch.rand(2, 4, n_components, generator=torch_rng, dtype=torch.float64)
    sites = {
        "weights": weights / weights.sum(-1, keepdim=True),
        "means": torch.randn(2, 4, *size, generator=torch_rng, dtype=torch.float64),
        "scales": 1 + torch.rand(2, 4, *structure.scale_shape(*size), generator=torch_rng, dtype=torch.float64),
    }
    correlation = structure.correlation_shape(*size)
    if correlation is not None:
        sites["correlation_cholesky"] = torch.eye(n_features).double().expand(2, 4, *correlation, -1, -1)
    return MixturePosterior(sites, structure, torch.zeros(n_features).double())


@pytest.mark.parametrize("covariance_type", covariance_types())
def test_dimensions_of_every_covariance_type(covariance_type):
    structure = covariance_structure(covariance_type)
    tree = to_datatree(drawn(covariance_type))
    scales = ([] if structure.shared else ["component"]) + ([] if structure.isotropic else ["feature"])
    sample = ("chain", "draw")
    assert tree.posterior["weights"].dims == (*sample, "component")
    assert tree.posterior["means"].dims == (*sample, "component", "feature")
    assert tree.posterior["scales"].dims == (*sample, *scales)
    assert ("covariances" in tree.posterior) == structure.correlated
    if structure.correlated:
        assert tree.posterior["covariances"].dims == (*sample, *scales, "other_feature")


def test_one_feature_has_no_covariances():
    assert set(to_datatree(drawn("full", n_features=1)).posterior.data_vars) == {"weights", "means", "scales"}


@pytest.mark.parametrize("name", ["nuts", "svi"])
def test_draws_are_those_of_the_posterior(name, mixtures, trees):
    for site, values in trees[name].posterior.data_vars.items():
        assert np.array_equal(values, mixtures[name].posterior_.quantities()[site])


@pytest.mark.parametrize("name", ["nuts", "svi"])
def test_the_log_likelihood_is_the_density_of_each_point(name, trees):
    posterior = trees[name].posterior.isel(chain=-1, draw=3)
    density = sum(
        float(posterior.weights[k]) * stats.norm.pdf(POINTS, posterior.means[k], posterior.scales[k]).prod(1)
        for k in range(2)
    )
    assert np.allclose(trees[name].log_likelihood["x"].isel(chain=-1, draw=3), np.log(density), rtol=1e-9)
    assert np.array_equal(trees[name].observed_data["x"], POINTS)


@pytest.mark.parametrize("name", ["nuts", "svi"])
def test_the_log_prior_is_that_of_the_datas_coordinates(name, trees):
    posterior, log_prior = trees[name].posterior, trees[name].log_prior
    location, scale = POINTS.mean(0), np.sqrt(POINTS.var(0) + 1e-6)
    means = stats.norm.logpdf(posterior.means, location, 3 * scale).sum((-2, -1))
    scales = stats.halfnorm.logpdf(posterior.scales, scale=scale).sum((-2, -1))
    assert np.allclose(log_prior["weights"], 0.0)
    assert np.allclose(log_prior["means"], means)
    assert np.allclose(log_prior["scales"], scales, atol=1e-4)  # the floor is part of the scales


def test_draws_of_the_prior(trees):
    prior = trees["nuts"].prior
    assert dict(prior["means"].sizes) == {"chain": 1, "draw": 500, "component": 2, "feature": 2}
    error = 3 * POINTS.std(0) / np.sqrt(2 * 1000)
    assert np.allclose(prior["means"].std(("chain", "draw", "component")), 3 * POINTS.std(0), atol=5 * error.max())
    assert np.allclose(prior["weights"].sum("component"), 1.0)


def test_statistics_of_nuts(mixtures, trees):
    result, statistics = mixtures["nuts"].result_, trees["nuts"].sample_stats
    assert set(statistics) == {
        "lp",
        "energy",
        "step_size",
        "acceptance_rate",
        "diverging",
        "n_steps",
        "tree_depth",
        "reached_max_tree_depth",
    }
    assert statistics["diverging"].sum("draw").values.tolist() == result.divergences
    assert np.allclose(statistics["step_size"].isel(draw=-1), result.step_sizes)
    made = result.standardised
    potential = MixturePotential(made.model, made.points(torch.from_numpy(POINTS)))
    sites = {name: site[1, 5].clone() for name, site in mixtures["nuts"].posterior_.sites.items()}
    sites["means"] = (sites["means"] - made.location) / made.scale
    sites["scales"] = sites["scales"] / made.scale
    value, _ = potential.value_and_gradient(potential.position(sites).numpy())
    assert float(statistics["lp"][1, 5]) == pytest.approx(-value, rel=1e-8)
    assert (statistics["energy"] > -statistics["lp"]).all()


def test_densities_of_a_guide(mixtures, trees):
    result, statistics = mixtures["svi"].result_, trees["svi"].sample_stats
    made = result.standardised
    potential = MixturePotential(made.model, made.points(torch.from_numpy(POINTS)))
    sites = {name: site[0, 7].clone() for name, site in mixtures["svi"].posterior_.sites.items()}
    sites["means"] = (sites["means"] - made.location) / made.scale
    sites["scales"] = sites["scales"] / made.scale
    position = potential.position(sites)
    constrained = potential.sites(position)
    jacobian = sum(
        potential.transforms[name].log_abs_det_jacobian(part, constrained[name]).sum()
        for name, part in zip(potential.priors, potential.unflattened(position), strict=True)
    )
    log_q = result.guide.get_posterior().log_prob(position)
    assert float(statistics["log_q"][0, 7]) == pytest.approx(
        float(log_q.detach() - jacobian) - made.sites_log_jacobian, abs=1e-6
    )
    tree = trees["svi"]
    log_p = tree.log_likelihood["x"].sum("point") + sum(tree.log_prior.data_vars.values())
    assert np.allclose(statistics["log_p"], log_p)
    gap = statistics["log_p"] - statistics["log_q"]
    error = float(gap.std()) / np.sqrt(gap.size)
    assert float(gap.mean()) == pytest.approx(mixtures["svi"].lower_bound_ * len(POINTS), abs=10 * error)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical", "tied_diag"])
def test_draws_of_an_estimate_have_its_standard_errors(covariance_type):
    mixture = fitted("em", covariance_type)
    tree = to_datatree(mixture, X=POINTS, draws=4000)
    errors = standard_errors(mixture, POINTS)
    spread = tree.posterior.std(("chain", "draw"))
    assert tree.attrs["inference"] == "em_sandwich"
    assert "no posterior" in tree.attrs["log_likelihood_omitted"]
    assert "log_likelihood" not in tree
    assert np.allclose(spread["means"], errors.means, rtol=0.15)
    assert np.allclose(spread["weights"], errors.weights, rtol=0.15)
    assert np.allclose(tree.posterior["means"].mean(("chain", "draw")), mixture.means_, atol=0.1)


def test_thinned_draws_are_evenly_spaced(mixtures, trees):
    tree = to_datatree(mixtures["nuts"], draws=30)
    whole = trees["nuts"]
    assert np.array_equal(tree.posterior["means"], whole.posterior["means"].isel(draw=slice(None, None, 5)))
    assert np.array_equal(tree.sample_stats["lp"], whole.sample_stats["lp"].isel(draw=slice(None, None, 5)))
    assert tree.attrs["thinned_from"] == 150
    assert "log_likelihood" not in tree
    assert "X" in tree.attrs["log_likelihood_omitted"]


def test_replicates_are_of_the_posterior_predictive(mixtures):
    tree = to_datatree(mixtures["nuts"], X=POINTS, posterior_predictive=True)
    replicates = tree.posterior_predictive["x"]
    assert dict(replicates.sizes) == {"chain": 2, "draw": 150, "point": 80, "feature": 2}
    assert np.allclose(replicates.mean(("chain", "draw", "point")), POINTS.mean(0), atol=0.2)
    assert np.allclose(replicates.std(("chain", "draw", "point")), POINTS.std(0), rtol=0.1)


def test_names_of_features_are_coordinates():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(POINTS, columns=["left", "right"])
    mixture = GaussianMixture(2, tol=1e-9, max_iter=500, random_state=0).fit(frame)
    tree = to_datatree(mixture, X=frame, draws=10)
    assert tree.posterior["feature"].values.tolist() == ["left", "right"]
    assert tree.posterior["other_feature"].values.tolist() == ["left", "right"]


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (lambda m: to_datatree(GaussianMixture(2)), "fitted mixture; got one that is not fitted"),
        (lambda m: to_datatree(m["em"]), "points X .* by EM"),
        (lambda m: to_datatree(m["nuts"], X=POINTS[:9]), "the 80 points .* got 9"),
        (lambda m: to_datatree(m["nuts"], X=POINTS[:, :1]), "points with 2 features; got 1"),
        (lambda m: to_datatree(m["nuts"], draws=0), "draws >= 1; got 0"),
        (lambda m: to_datatree(m["em"], X=POINTS, draws=0), "draws >= 1; got 0"),
        (lambda m: to_datatree(m["nuts"], posterior_predictive=True), "points X of posterior_predictive"),
        (lambda m: to_datatree(m["nuts"], guide=1), "options of to_datatree for a GaussianMixture, X, .* got 'guide'"),
        (lambda m: to_datatree("nuts"), "a fitted GaussianMixture, .* got a str: .* from_pyro_svi"),
        (lambda m: to_datatree(GaussianMixture), "got the class GaussianMixture"),
        (lambda m: to_datatree(drawn("diag"), feature_names=["a", "a"]), "2 feature_names, each another"),
    ],
)
def test_refusals(convert, reason, mixtures):
    with pytest.raises(ValueError, match=rf"^Expected .*{reason}"):
        convert(mixtures)


def test_a_fit_without_draws_is_refused():
    point = GaussianMixture(2, inference=SVI(guide=AutoDelta), random_state=0).fit(POINTS)
    with pytest.raises(ValueError, match=r"^Expected a mixture with draws .*SVI\(guide=AutoNormal, priors=\{\}\)\.$"):
        to_datatree(point, X=POINTS)
    stepwise = GaussianMixture(2, random_state=0).partial_fit(POINTS)
    with pytest.raises(ValueError, match=r"^Expected a mixture with draws"):
        to_datatree(stepwise, X=POINTS)


def test_bayesian_mixtures_are_refused():
    with pytest.raises(ValueError, match=r"^Expected .* got a BayesianGaussianMixture, .*NUTS\(\)\.$"):
        to_datatree(BayesianGaussianMixture(n_components=2, random_state=0).fit(POINTS))


def test_weights_of_em_s_points_count():
    """Without the weights the estimate is no maximum, and a warning says so."""
    weights = np.where(POINTS[:, 0] > 0, 2, 1)
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0, tol=1e-9, max_iter=500)
    mixture.fit(POINTS, sample_weight=weights)
    tree = to_datatree(mixture, X=POINTS, sample_weight=weights)
    errors = standard_errors(mixture, POINTS, sample_weight=weights)
    assert np.allclose(tree.posterior["means"][0].std("draw"), errors.means, rtol=0.1)
    with pytest.warns(ConvergenceWarning, match="from the maximum"):
        to_datatree(mixture, X=POINTS)


def test_weights_are_refused_with_draws(mixtures):
    with pytest.raises(ValueError, match="fitted by EM alone"):
        to_datatree(mixtures["svi"], X=POINTS, sample_weight=np.ones(80))


def test_why_there_is_no_log_p_is_said(mixtures):
    """X was given: the priors are what is missing."""
    tree = to_datatree(mixtures["svi"].posterior_, X=POINTS)
    assert "log_likelihood" in tree.children
    assert tree.attrs["log_p_omitted"] == tree.attrs["log_prior_omitted"]
    assert to_datatree(mixtures["svi"]).attrs["log_p_omitted"].startswith("pass the points")


def test_trees_that_fill_the_memory_are_refused(mixtures):
    """300,000 points under 1,000 draws would take 2.2 GiB, and replicates three times as much."""
    many = np.tile(POINTS, (4000, 1))
    posterior = mixtures["svi"].posterior_
    with pytest.raises(ValueError, match=r"at most 2 GiB .* got 2.38 GiB: take fewer draws by draws=838,"):
        to_datatree(posterior, X=many)
    with pytest.raises(ValueError, match=r"got 7.15 GiB: take fewer draws by draws=279,"):
        to_datatree(posterior, X=many, posterior_predictive=True)


@pytest.mark.parametrize("draws", [0, 2.5, True])
def test_draws_are_a_number_of_them(mixtures, draws):
    with pytest.raises(ValueError, match="Expected draws >= 1; got"):
        to_datatree(mixtures["svi"], draws=draws)


def test_options_of_an_object_that_takes_none_are_refused():
    class Own:
        def to_datatree(self):
            return to_datatree(drawn("diag"))

    assert to_datatree(Own()).posterior.sizes["draw"] == 4
    with pytest.raises(ValueError, match="Expected no options of to_datatree for a Own; got 'X'"):
        to_datatree(Own(), X=POINTS)
