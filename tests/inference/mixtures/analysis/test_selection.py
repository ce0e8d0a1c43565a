"""Criteria against their definitions, on points with a known number of components; failures are rows."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture as Peer
from sklearn.model_selection import KFold

from latentmix.experiments.figures.selection import selection_panels
from latentmix.inference.mixtures.analysis.criteria import CRITERIA
from latentmix.inference.mixtures.analysis.selection import Candidate, Selection, remeasured, select
from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture


def three_groups(n: int = 240) -> NDArray[np.float64]:
    """Three round groups."""
    return np.random.RandomState(0).randn(n, 2) + np.repeat([[-6.0, 0.0], [6.0, 0.0], [0.0, 9.0]], n // 3, 0)


def overlapping(n: int = 600) -> NDArray[np.float64]:
    """Two components with the same centre, which do not separate the points: one cluster, but not Gaussian."""
    state = np.random.RandomState(0)
    return state.randn(n, 2) * np.where(np.arange(n) % 2, 1.0, 2.2)[:, None]


@pytest.fixture(scope="module")
def selection() -> Selection:
    return select(three_groups(), range(1, 5), ("full", "spherical"), n_init=2, draws=120, held_out=3, random_state=0)


def test_every_criterion_prefers_three_components(selection: Selection) -> None:
    for name in ("bic", "icl", "loo"):
        best = selection.best(name)
        assert (best.n_components, best.covariance_type) == (3, "spherical"), name
    assert selection.best("aic").n_components >= 3
    assert selection.best("held_out").n_components >= 3
    process = selection.best("dirichlet_process")
    assert (process.n_components, process.n_effective) == (4, 3)
    assert process.weights is not None
    assert abs(sum(process.weights) - 1) < 1e-9
    rows = [(row["model"], row["covariance_type"], row["n_components"]) for row in selection.as_rows()]
    mixtures = [("mixture", kind, k) for kind in ("full", "spherical") for k in range(1, 5)]
    assert rows == [*mixtures, ("dirichlet_process", "full", 4), ("dirichlet_process", "spherical", 4)]
    json.dumps(selection.as_rows())


def test_figures_are_those_of_the_definitions(selection: Selection) -> None:
    x = three_groups()
    candidate = next(row for row in selection.candidates if (row.n_components, row.covariance_type) == (3, "spherical"))
    peer = Peer(3, covariance_type="spherical", tol=1e-9, n_init=5, max_iter=1000, random_state=0).fit(x)
    responsibilities = peer.predict_proba(x)
    entropy = -(responsibilities * np.log(np.maximum(responsibilities, 1e-300))).sum()
    assert entropy > 0
    assert candidate.bic == pytest.approx(peer.bic(x), abs=0.01)
    assert candidate.aic == pytest.approx(peer.aic(x), abs=0.01)
    assert candidate.icl == pytest.approx(peer.bic(x) + 2 * entropy, abs=0.05)
    assert candidate.log_likelihood == pytest.approx(peer.score(x), abs=1e-4)
    assert candidate.n_parameters == 11
    densities = np.concatenate(
        [
            Peer(3, covariance_type="spherical", tol=1e-9, n_init=5, max_iter=1000).fit(x[train]).score_samples(x[test])
            for train, test in KFold(3, shuffle=True, random_state=0).split(x)
        ]
    )
    assert candidate.held_out == pytest.approx(densities.mean(), abs=1e-3)
    assert candidate.held_out_error == pytest.approx(densities.std(ddof=1) / math.sqrt(len(x)), rel=0.02)


def test_one_component_has_no_entropy_and_its_held_out_densities_are_exact() -> None:
    x = overlapping(60)
    (candidate,) = select(x, [1], ["full"], criteria=["bic", "icl", "held_out"], held_out=20, n_init=1).candidates
    assert candidate.icl == pytest.approx(candidate.bic)
    exact = [
        torch.distributions.MultivariateNormal(
            torch.from_numpy(rest.mean(0)), torch.from_numpy(np.cov(rest.T, bias=True) + 1e-6 * np.eye(2))
        )
        .log_prob(torch.from_numpy(x[left]))
        .mean()
        for train, test in KFold(20, shuffle=True, random_state=0).split(x)
        for left, rest in [(test, x[train])]
    ]
    assert candidate.held_out == pytest.approx(np.mean(exact), abs=1e-9)
    assert candidate.aic is None
    assert candidate.loo is None


def test_icl_counts_clusters_and_bic_counts_components() -> None:
    result = select(overlapping(), [1, 2], ["full"], criteria=["bic", "icl"], n_init=3)
    assert (result.best("bic").n_components, result.best("icl").n_components) == (2, 1)
    assert [row.held_out for row in result.candidates] == [None, None]


def test_candidates_depend_on_the_seed_and_not_on_jobs() -> None:
    x = three_groups(60)
    options = {"criteria": ["bic", "held_out", "loo"], "n_init": 1, "draws": 60, "held_out": 0.3}
    first = select(x, [1, 2], ["diag"], **options, random_state=5)
    again = select(torch.from_numpy(x), [1, 2], ["diag"], **options, random_state=5)
    other = select(x, [1, 2], ["diag"], **options, random_state=6)
    values = [[(row.bic, row.held_out, row.loo) for row in result.candidates] for result in (first, again, other)]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_failed_fits_are_rows_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BayesianGaussianMixture, "fit", lambda *_: (_ for _ in ()).throw(ArithmeticError("planted")))
    seen: list[Candidate] = []
    x = np.repeat(three_groups(3), 4, 0)
    options = {"criteria": ("bic", "dirichlet_process"), "n_init": 1, "reg_covar": 0.0}
    result = select(x, [1, 4], ["full", "diag"], **options, report=seen.append)
    assert list(result.candidates) == seen
    failed = [row for row in result.candidates if row.n_components == 4]
    assert [row.bic for row in failed] == [None] * 4
    assert all(row.reason.startswith("failed: Fitting the mixture") for row in failed[:2])
    assert all(row.reason == "failed: planted" for row in failed[2:])
    assert result.best("bic").n_components == 1
    with pytest.raises(ValueError, match="Expected a fit with a value of dirichlet_process; got none: failed"):
        result.best("dirichlet_process")
    text = result.table()
    assert "Dirichlet process: no value" in text
    assert "! 4 full, 4 diag: failed: Fitting the mixture" in text
    assert "! DP full, DP diag: failed: planted" in text


def test_densities_of_a_dirichlet_process_integrate_to_one() -> None:
    x = np.random.RandomState(0).randn(12, 1)
    options = {"max_iter": 500, "tol": 1e-8, "n_init": 1}
    result = select(x, [3], ["full"], criteria=["held_out", "dirichlet_process"], held_out=12, **options)
    process = result.best("dirichlet_process")
    fits = [
        BayesianGaussianMixture(
            n_components=3, tol=1e-8 * (12 - left), max_iter=500, random_state=0, reg_covar=1e-6
        ).fit(np.delete(x, range(point, point + left), 0))
        for left, point in [(0, 0), *((1, point) for point in range(12))]
    ]
    grid = np.linspace(-200, 200, 400_001)[:, None]
    density = fits[0].parameters_.log_likelihood(torch.from_numpy(grid)).exp()
    assert float(density.mean()) * 400 == pytest.approx(1, abs=1e-3)
    assert np.exp(fits[0].score_samples(grid)).mean() * 400 < 0.95
    held_out = [
        float(fit.parameters_.log_likelihood(torch.from_numpy(x[[point]]))) for point, fit in enumerate(fits[1:])
    ]
    assert process.held_out == pytest.approx(np.mean(held_out), abs=1e-9)
    assert process.log_likelihood == pytest.approx(
        float(fits[0].parameters_.log_likelihood(torch.from_numpy(x)).mean()), abs=1e-9
    )


def test_constant_columns_have_no_evidence_and_a_floor_is_reported() -> None:
    x = np.c_[three_groups(60), np.full(60, 3.0)]
    criteria = ["bic", "dirichlet_process"]
    result = select(x, [1, 2], ["full", "spherical"], criteria=criteria, n_init=1)
    bounds = {row.covariance_type: row.evidence_bound for row in result.candidates if row.model == "dirichlet_process"}
    assert bounds["full"] is None
    assert bounds["spherical"] is not None
    assert json.loads(json.dumps(result.as_rows(), allow_nan=False))
    floored = {row.covariance_type: "on the floor" in row.reason for row in result.candidates if row.model == "mixture"}
    assert floored == {"full": True, "spherical": False}
    assert "on the floor, reg_covar = 1e-06" in result.table()
    alone = select(x, [1, 2], ["full"], criteria=criteria, n_init=1)
    assert "Dirichlet process: no value" in alone.preferences()
    assert len(selection_panels(alone).axes) == 2
    assert all(
        "on the floor" in row.reason
        for row in select(three_groups(60) * 1e-8, [1], criteria=["bic"], n_init=1).candidates
    )


def test_unconverged_and_unreliable_figures_are_marked() -> None:
    x = np.random.RandomState(0).standard_t(2, (40, 3))
    result = select(x, [8], ["full"], criteria=["bic", "loo"], n_init=1, max_iter=2, draws=200)
    (candidate,) = result.candidates
    assert not candidate.converged
    assert candidate.reason.startswith("not converged in 2 iterations")
    assert candidate.bic is not None
    assert candidate.n_unreliable
    assert candidate.pareto_k is not None
    assert candidate.pareto_k > 0.7
    assert f"unreliable, Pareto k > 0.7 at {candidate.n_unreliable} point" in result.table()
    assert "chains apart, R-hat 1.37" in replace(candidate, r_hat=1.37).doubts
    assert candidate.r_hat is not None
    assert replace(candidate, n_unreliable=0, r_hat=1.0).doubts == ()
    assert "! 8 full: not converged" in result.table()


def test_table_marks_the_best(selection: Selection) -> None:
    lines = selection.table().splitlines()
    assert len({len(line) for line in lines[1:2]}) == 1
    three_components = next(line for line in lines if line.startswith("spherical   ") and line.split()[1] == "3")
    assert three_components.count("*") >= 3
    assert "BIC: K = 3, spherical (lowest)" in lines
    assert any(line.startswith("Dirichlet process: 3 of 4 components above 0.01") for line in lines)
    edge = select(three_groups(60), [1, 2], ["tied"], criteria=["bic"], n_init=1)
    assert "the largest K of all" in edge.table()
    with pytest.raises(ValueError, match="Expected a criterion out of bic; got 'icl'"):
        edge.best("icl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_components": []}, "Expected numbers of components from 1"),
        ({"n_components": [0, 1]}, r"Expected numbers of components from 1; got \[0, 1\]"),
        ({"covariance_types": ["round"]}, "Expected covariance_type in"),
        ({"covariance_types": []}, "at least one covariance type"),
        ({"criteria": ["bicc"]}, "got 'bicc'"),
        ({"n_components": 2.5}, r"Expected numbers of components from 1; got \[2.5\]"),
        ({"n_components": 31, "criteria": "bic"}, "Expected at most as many components as points, 30; got 31"),
        ({"n_components": [2, 25], "held_out": 5}, "as points without those held out, 24; got 25"),
        ({"n_components": [2, 25], "held_out": 0.21}, "as points without those held out, 23; got 25"),
        ({"criteria": "bicc"}, "got 'bicc'"),
        ({"n_init": 0}, "n_init"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": -1}, "max_iter"),
        ({"random_state": -1}, "Expected random_state from 0 .*got -1"),
        ({"n_jobs": 0}, "n_jobs of 1 to 1,024, or below 0"),
        ({"held_out": 1}, "Expected held_out in"),
        ({"held_out": 500}, "as many folds as points, 30; got 500"),
        ({"draws": 10}, "draws >= 50"),
        ({"x": np.zeros(5)}, "at least four finite points"),
        ({"x": np.full((9, 2), np.nan)}, "at least four finite points"),
    ],
)
def test_bad_input_is_refused_before_any_fit(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(GaussianMixture, "fit", lambda *_: pytest.fail("a fit"))
    with pytest.raises(ValueError, match=message):
        select(**{"x": three_groups(30), **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "covariance_type", sorted(GaussianMixture._parameter_constraints["covariance_type"][0].options)
)
def test_every_covariance_type_is_evaluated_by_every_criterion_of_mixtures(covariance_type: str) -> None:
    criteria = ("bic", "aic", "icl", "held_out", "loo")
    result = select(three_groups(90), [2, 3], covariance_type, criteria=criteria, n_init=1, draws=100)
    rows = result.as_rows()
    assert all(np.isfinite(row[name]) for row in rows for name in criteria)
    assert "mixture" not in rows[0]
    for candidate in result.candidates:
        joint = candidate.mixture.parameters_.log_joint(torch.from_numpy(three_groups(90)))
        entropy = torch.special.entr(joint.softmax(1)).sum()
        assert candidate.log_likelihood == pytest.approx(float(joint.logsumexp(1).mean()), abs=1e-9)
        assert candidate.icl == pytest.approx(candidate.bic + 2 * float(entropy), abs=1e-6)


def test_fits_are_those_of_the_estimator() -> None:
    x = three_groups(90)
    (candidate,) = select(x, [2], ["tied"], criteria=["bic"], n_init=3, random_state=7).candidates
    fitted = GaussianMixture(2, covariance_type="tied", n_init=3, tol=1e-5, max_iter=1000, random_state=7).fit(x)
    assert candidate.bic == pytest.approx(fitted.bic(x), rel=1e-12)
    assert set(CRITERIA) == {"bic", "aic", "icl", "held_out", "loo", "dirichlet_process"}
    assert candidate.mixture is not None
    np.testing.assert_array_equal(candidate.mixture.means_, fitted.means_)


def test_as_many_components_as_points_of_a_fold_are_accepted() -> None:
    x = three_groups(30)[:12]
    (candidate,) = select(x, 9, "spherical", criteria="held_out", held_out=4, n_init=1, reg_covar=1e-3).candidates
    assert candidate.held_out is not None


def test_a_single_value_equals_a_sequence_of_it() -> None:
    alone = select(three_groups(60), 3, "diag", criteria="bic", n_init=1)
    several = select(three_groups(60), [3], ["diag"], criteria=["bic"], n_init=1)
    assert replace(several, candidates=()) == replace(alone, candidates=())
    for name in ("log_likelihood", "n_parameters", "bic"):
        assert getattr(several.candidates[0], name) == getattr(alone.candidates[0], name)
    assert (alone.candidates[0].n_components, alone.candidates[0].covariance_type) == (3, "diag")
    assert select(three_groups(60), np.int64(2), "diag", criteria="bic", n_init=1).best("bic").n_components == 2


def test_a_better_fit_replaces_a_candidate() -> None:
    x = np.random.RandomState(0).uniform(size=(60, 2))
    options = {"criteria": ("bic", "aic", "icl", "held_out", "loo"), "held_out": 0.3, "draws": 60, "n_init": 1}
    selection = select(x, [1, 3], "full", **options)
    fits = [GaussianMixture(3, random_state=seed, tol=1e-6, max_iter=1000).fit(x) for seed in range(6)]
    fits.sort(key=lambda fit: fit.score(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert remeasured(selection, x, GaussianMixture(3, max_iter=1).fit(x)) is selection
    better = remeasured(selection, x, fits[-1], draws=60)
    candidate, old = better.candidates[1], selection.candidates[1]
    assert better.candidates[0] == selection.candidates[0]
    assert (candidate.log_likelihood, candidate.mixture) == (fits[-1].score(x), fits[-1])
    assert candidate.bic == pytest.approx(fits[-1].bic(x), rel=1e-12)
    assert candidate.aic == pytest.approx(fits[-1].aic(x), rel=1e-12)
    assert candidate.icl - candidate.bic != pytest.approx(old.icl - old.bic, rel=1e-3)
    assert candidate.loo != old.loo
    for name in ("held_out", "held_out_error", "seconds"):
        assert getattr(candidate, name) == getattr(old, name)
    with pytest.raises(ValueError, match=r"a candidate of the selection; got .* 2 components, full"):
        remeasured(selection, x, GaussianMixture(2, random_state=0).fit(x))
    with pytest.raises(ValueError, match=r"Expected points of shape \(60, 2\)"):
        remeasured(selection, x[:40], fits[-1])
    with pytest.raises(ValueError, match="Expected draws >= 50; got 4"):
        remeasured(selection, x, fits[-1], draws=4)
    with pytest.raises(ValueError, match="Expected random_state from 0"):
        remeasured(selection, x, fits[-1], random_state=-1)


def test_candidates_do_not_depend_on_the_number_of_processes() -> None:
    x, options = three_groups(30), {"criteria": ("bic", "loo"), "n_init": 1, "draws": 50}
    here, there = (select(x, [1, 2], "diag", **options, n_jobs=jobs) for jobs in (1, 2))
    assert there.table() == here.table()
    assert [candidate.mixture.n_components for candidate in there.candidates] == [1, 2]
