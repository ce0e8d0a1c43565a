"""Mode reports: where there is one optimum, where there are rivals, and where starts fail."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score

from latentmix.inference.mixtures.analysis.modes import modes
from latentmix.inference.mixtures.gaussian import GaussianMixture

ACCEPTED = sorted(GaussianMixture._parameter_constraints["covariance_type"][0].options)


def separated(n: int = 240) -> NDArray[np.float64]:
    state = np.random.RandomState(0)
    return state.randn(n, 2) + np.repeat([[-5.0, 0.0], [5.0, 0.0], [0.0, 8.0]], n // 3, 0)


def corners(n: int = 400) -> NDArray[np.float64]:
    """Four groups at the corners of a square, turned into each other: two clusters can be had in two ways."""
    quarter = np.random.RandomState(0).randn(n // 4, 2) * 0.6 + [3.0, 3.0]
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter, quarter @ turn, quarter @ turn @ turn, quarter @ turn @ turn @ turn])


def test_every_start_reaches_the_only_optimum() -> None:
    x = separated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = modes(x, 3, n_starts=6, random_state=3)
    assert (report.n_best, len(report.modes), report.rivals, report.warnings) == (6, 1, (), ())
    best = GaussianMixture(3, tol=1e-8, random_state=0).fit(x).score(x)
    np.testing.assert_allclose(report.log_likelihoods, best, atol=1e-4)
    np.testing.assert_allclose(report.ari, 1.0)
    assert "6 of 6 starts reach the best of 1 optimum" in report.table()


@pytest.mark.parametrize("covariance_type", ACCEPTED)
def test_every_covariance_type_has_a_report(covariance_type: str) -> None:
    report = modes(separated(120), 3, n_starts=3, covariance_type=covariance_type)
    assert (report.n_best, report.covariance_type) == (3, covariance_type)
    assert report.log_likelihoods[0] == pytest.approx(report.mixture.score(separated(120)), abs=1e-12)
    values = report.as_dict()
    assert "mixture" not in values
    assert values["modes"][0]["log_likelihood"] == report.modes[0].log_likelihood
    json.dumps(values)


def test_rival_modes_are_reported_and_warned_of() -> None:
    x = corners()
    with pytest.warns(ConvergenceWarning, match="rival modes: 1 other partition "):
        report = modes(x, 2, n_starts=12, covariance_type="full", random_state=0)
    (rival,) = report.rivals
    assert abs(rival.gap) < 1e-2
    assert rival.ari < 0.1
    assert report.modes[0].n_starts + rival.n_starts <= 12
    assert any("rival modes" in sentence for sentence in report.warnings)
    assert "yes" in report.table()
    json.dumps(report.as_dict())


def test_ari_follows_the_order_of_the_partitions() -> None:
    x = corners(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = modes(x, 3, n_starts=4, random_state=1)
    assert list(report.log_likelihoods) == sorted(report.log_likelihoods, reverse=True)
    seeds = np.random.RandomState(1).randint(2**31, size=4)
    options = {"init_params": "k-means++", "tol": 1e-6, "max_iter": 2000}
    fits = [GaussianMixture(3, random_state=int(seed), **options).fit(x) for seed in seeds]
    fits.sort(key=lambda fit: -fit.score(x))
    expected = [[adjusted_rand_score(a.predict(x), b.predict(x)) for b in fits] for a in fits]
    np.testing.assert_allclose(report.ari, expected)
    assert sum(mode.n_starts for mode in report.modes) == 4


def test_few_starts_at_the_best_optimum_are_warned_of() -> None:
    state = np.random.RandomState(0)
    x = state.uniform(-1, 1, (150, 2))
    with pytest.warns(ConvergenceWarning, match=r"Only \d of 12 starts reach the best optimum"):
        report = modes(x, 6, n_starts=12, few=1.0, close=0.0)
    assert report.n_best < 12


def test_unconverged_starts_are_counted() -> None:
    with pytest.warns(ConvergenceWarning, match="3 of 3 starts did not converge"):
        report = modes(corners(), 2, n_starts=3, max_iter=1)
    assert report.converged == (False, False, False)


def test_reports_depend_on_the_seed_and_not_on_the_kind_of_array() -> None:
    x = separated()
    first, second = modes(x, 3, n_starts=3), modes(torch.from_numpy(x), 3, n_starts=3)
    assert first == second


def test_failing_starts_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fit = GaussianMixture.fit

    def failing(self: GaussianMixture, points: object) -> GaussianMixture:
        calls.append(1)
        if len(calls) == 2:
            raise ArithmeticError("planted")
        return fit(self, points)

    monkeypatch.setattr(GaussianMixture, "fit", failing)
    with pytest.warns(ConvergenceWarning, match="1 of 3 starts failed: planted"):
        report = modes(separated(), 3, n_starts=3)
    assert len(report.log_likelihoods) == 2
    calls[:] = [1]
    monkeypatch.setattr(GaussianMixture, "fit", lambda *_: (_ for _ in ()).throw(ArithmeticError("planted")))
    with pytest.raises(ValueError, match="got 2 that fail: planted"):
        modes(separated(), 3, n_starts=2)


def test_a_known_fit_is_among_the_optima_but_not_a_start() -> None:
    x = np.random.RandomState(0).uniform(size=(60, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = modes(x, 3, n_starts=6)
        assert alone.mixture.score(x) == alone.log_likelihoods[0] == alone.modes[0].log_likelihood
        report = modes(x, 3, n_starts=2, random_state=12, known=alone.mixture)
        again = modes(x, 3, n_starts=6, known=alone.mixture)
    assert report.log_likelihoods[0] < alone.log_likelihoods[0] - 1e-3
    assert report.mixture is alone.mixture
    assert (report.modes[0].log_likelihood, report.n_best) == (alone.log_likelihoods[0], 0)
    assert sum(mode.n_starts for mode in report.modes) == len(report.log_likelihoods) == len(report.ari) == 2
    assert "Only 0 of 2 starts reach the best optimum" in report.table()
    assert again == alone
    assert "mixture" not in json.loads(json.dumps(report.as_dict()))


def test_an_unfitted_known_mixture_is_refused() -> None:
    with pytest.raises(NotFittedError):
        modes(separated(), 3, known=GaussianMixture(3))


def test_a_known_fit_suffices_if_all_starts_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    x = separated()
    known = GaussianMixture(3, random_state=0).fit(x)
    monkeypatch.setattr(GaussianMixture, "fit", lambda *_: (_ for _ in ()).throw(ArithmeticError("planted")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = modes(x, 3, n_starts=2, known=known)
    assert (report.mixture, report.n_best, report.log_likelihoods, report.ari) == (known, 0, (), ())
    assert "2 of 2 starts failed: planted" in report.table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": GaussianMixture(3)}, "Expected a known fit of 2 components, full; got one of 3, full"),
        ({"n_starts": 1}, "Expected n_starts >= 2; got 1"),
        ({"same": 0.0}, "Expected tolerance > 0"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 500}, "n_samples"),
    ],
)
def test_invalid_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modes(separated(), **{"n_components": 2, **change})  # type: ignore[arg-type]
