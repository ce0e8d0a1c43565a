from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentmix.inference.diagnostics.calibration import CalibrationReport, Fitted, Replicate, calibrate

Array = NDArray[np.float64]
N_DATA = 5


def simulate(seed: int) -> tuple[Array, Array]:
    """A mean drawn from N(0, 1), and data of N(mean, 1)."""
    generator = np.random.default_rng(seed)
    mean = generator.normal()
    return np.asarray(mean), mean + generator.normal(size=N_DATA)


class Posterior:
    """The posterior under N(location, scale^2), in chains where `n_chains` is given."""

    def __init__(self, location: float = 0.0, scale: float = 1.0, n_chains: int | None = None) -> None:
        self.location, self.scale, self.n_chains = location, scale, n_chains

    def __call__(self, x: Array, seed: int) -> Fitted[Array]:
        precision = len(x) + self.scale**-2
        mean = (x.sum() + self.location * self.scale**-2) / precision
        shape = (99,) if self.n_chains is None else (self.n_chains, 100)
        return Fitted(mean + np.random.default_rng(seed).normal(size=shape) / precision**0.5)


def quantities(mean: Array, x: Array) -> Mapping[str, Array]:
    return {"mean": mean, "log_likelihood": -0.5 * ((x - mean[..., None]) ** 2).sum(-1)}


def prior_again(x: Array, seed: int) -> Fitted[Array]:
    return Fitted(np.random.default_rng(seed).normal(size=99))


def test_the_exact_posterior_passes() -> None:
    report = calibrate(simulate, Posterior(), quantities, n_data_sets=300)  # fails by chance once in 100 seeds
    assert report.passed
    assert report.flagged == []
    assert {name: ranks.shape for name, ranks in report.ranks.items()} == {"mean": (300,), "log_likelihood": (300,)}
    assert report.band.false_alarm == pytest.approx(0.01 / 2)
    assert all(replicate.r_hat is None and replicate.ess is None for replicate in report.replicates)


@pytest.mark.parametrize(
    ("name", "fit", "flagged"),
    [
        ("shifted prior", Posterior(location=2.0), "mean"),
        ("narrow prior", Posterior(scale=0.3), "mean"),
        ("the prior itself, which only a quantity of the data can tell", prior_again, "log_likelihood"),
    ],
)
def test_wrong_posteriors_are_flagged(name: str, fit: Posterior, flagged: str) -> None:
    report = calibrate(simulate, fit, quantities, n_data_sets=300)
    assert flagged in report.flagged, name
    assert not report.passed
    if fit is prior_again:
        assert report.flagged == ["log_likelihood"]


def test_the_summary_says_the_verdicts_and_directions() -> None:
    shifted = calibrate(simulate, Posterior(location=2.0), quantities, n_data_sets=200).summary()
    assert json.loads(json.dumps(shifted, allow_nan=False)) == shifted
    mean = shifted["quantities"]["mean"]
    assert mean["mean"] < 0.45  # the truth lies below the draws
    assert not mean["inside"]
    assert mean["p_value"] < 0.005
    narrow = calibrate(simulate, Posterior(scale=0.3), quantities, n_data_sets=200).summary()
    assert narrow["quantities"]["mean"]["spread"] > 1.1
    assert shifted["data_sets"] == 200
    assert shifted["not_converged"] == shifted["failed"] == 0


def test_chains_that_have_not_converged_are_counted_and_kept() -> None:
    def stuck(x: Array, seed: int) -> Fitted[Array]:
        draws = Posterior(n_chains=2)(x, seed).draws
        if x[0] > 0:
            draws[1] += 3.0
        return Fitted(draws, ("divergences",) if x[1] > 0 else ())

    report = calibrate(simulate, stuck, quantities, n_data_sets=30, n_draws=19)
    data = [simulate(seed)[1] for seed in seeds_of(30)]
    assert report.summary()["problems"]["divergences"] == sum(x[1] > 0 for x in data)
    assert report.summary()["problems"]["r_hat"] == sum(x[0] > 0 for x in data)
    assert report.n_not_converged == sum(x[0] > 0 or x[1] > 0 for x in data)
    assert report.n_failed == 0
    assert len(report.ranks["mean"]) == 30


def seeds_of(n: int) -> list[int]:
    seeds: list[int] = []

    def note(seed: int) -> tuple[Array, Array]:
        seeds.append(seed)
        return simulate(seed)

    calibrate(note, Posterior(), quantities, n_data_sets=n, n_draws=19)
    return seeds


def test_correlated_draws_are_counted_by_their_effective_size() -> None:
    def slow(x: Array, seed: int) -> Fitted[Array]:
        draws = Posterior(n_chains=4)(x, seed).draws
        for t in range(1, draws.shape[1]):
            draws[:, t] = x.mean() + 0.98 * (draws[:, t - 1] - x.mean()) + 0.2 * (draws[:, t] - x.mean())
        return Fitted(draws)

    report = calibrate(simulate, slow, quantities, n_data_sets=3)
    assert all("ess" in replicate.problems for replicate in report.replicates)
    assert all(replicate.ess is not None and replicate.ess < 99 for replicate in report.replicates)


def test_quantities_that_never_move_have_no_r_hat() -> None:
    report = calibrate(
        simulate, Posterior(n_chains=2), lambda mean, x: {"one": np.ones_like(mean)}, n_data_sets=40, n_draws=9
    )
    assert report.n_not_converged == 0
    assert report.passed  # all are ties: the ranks are uniform


def test_fits_that_raise_are_counted_and_fail_the_report() -> None:
    def breaks(x: Array, seed: int) -> Fitted[Array]:
        if x[0] > 1:
            raise ArithmeticError("no posterior")
        return Posterior()(x, seed)

    report = calibrate(simulate, breaks, quantities, n_data_sets=40)
    assert 0 < report.n_failed == report.n_not_converged < 40
    assert report.summary()["problems"] == {"ArithmeticError: no posterior": report.n_failed}
    assert len(report.ranks["mean"]) == report.band.n == 40 - report.n_failed
    assert not report.passed
    none = calibrate(simulate, Posterior(), lambda mean, x: {"nan": mean * np.nan}, n_data_sets=3)
    assert none.n_failed == 3
    assert not none.passed
    assert json.dumps(none.summary())


def test_an_interrupted_calibration_goes_on_where_it_was() -> None:
    done: list[Replicate] = []

    def keep(replicate: Replicate) -> None:
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(replicate)

    with pytest.raises(KeyboardInterrupt):
        calibrate(simulate, Posterior(), quantities, n_data_sets=20, tell=keep)
    again: list[Replicate] = []
    resumed = calibrate(simulate, Posterior(), quantities, n_data_sets=20, done=done, tell=again.append)
    assert len(done) == 7
    assert len(again) == 13
    assert_equal(resumed, calibrate(simulate, Posterior(), quantities, n_data_sets=20))
    with pytest.raises(ValueError, match="Expected finished data sets below 5; got number 6"):
        calibrate(simulate, Posterior(), quantities, n_data_sets=5, done=done)


def test_processes_change_nothing() -> None:
    two = calibrate(simulate, Posterior(n_chains=2), quantities, n_data_sets=6, n_jobs=2)
    assert_equal(two, calibrate(simulate, Posterior(n_chains=2), quantities, n_data_sets=6))


def assert_equal(ours: CalibrationReport, other: CalibrationReport) -> None:
    assert [(r.index, r.ranks, r.problems) for r in ours.replicates] == [
        (r.index, r.ranks, r.problems) for r in other.replicates
    ]


def test_seeds_make_other_data_sets_and_torch_draws_are_seeded() -> None:
    def by_torch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.randn(())
        return mean, mean + torch.randn(N_DATA)

    def fit(x: torch.Tensor, seed: int) -> Fitted[torch.Tensor]:
        return Fitted(x.sum() / (N_DATA + 1) + torch.randn(99) / (N_DATA + 1) ** 0.5)

    before = torch.get_rng_state()
    first, second, other = (
        calibrate(by_torch, fit, lambda mean, x: {"mean": mean}, n_data_sets=30, seed=seed).ranks["mean"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert first.tolist() == second.tolist() != other.tolist()
    assert len(set(first.tolist())) > 10


def test_numbers_that_make_no_calibration_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one data set and one draw; got 0 and 99"):
        calibrate(simulate, Posterior(), quantities, n_data_sets=0)
