"""Simulation-based calibration: whether truths drawn from the prior look like draws of their posteriors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentmix.inference.diagnostics.convergence import effective_size, split_r_hat
from latentmix.inference.diagnostics.ranks import EcdfBand, Ranks, rank_statistics, thin
from latentmix.inference.isolation import isolated
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["CalibrationReport", "Fitted", "Replicate", "calibrate"]

Array = NDArray[np.float64]
Values = Mapping[str, ArrayLike | Tensor]


@dataclass(frozen=True, repr=False)
class Fitted[P](Displayed):
    """The posterior draws of a fit.

    Attributes:
        draws: Parameters with leading dimensions `(chain, draw)` for MCMC, `(draw,)` for independent draws.
        problems: Names of problems of convergence, such as `divergences`; none by default.
    """

    draws: P
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Replicate(Displayed):
    """One simulated data set and its fit.

    Attributes:
        index: Number of the data set.
        ranks: The truth's rank among the thinned draws, by quantity; empty where simulation or fit raised.
        problems: Problems of convergence: those that the fit named, `r_hat`, `ess`; the error if it raised one.
        r_hat: The greatest over the quantities; `None` without chains.
        ess: The least bulk effective sample size over the quantities; `None` without chains.
        seconds: Wall-clock time of the fit.
    """

    index: int
    ranks: Mapping[str, int]
    problems: tuple[str, ...]
    r_hat: float | None
    ess: float | None
    seconds: float


@dataclass(frozen=True, repr=False)
class CalibrationReport(Displayed):
    """Outcome of simulation-based calibration.

    Attributes:
        replicates: One for each data set, in order.
        n_draws: `L`, the number of draws that each truth was ranked among.
        false_alarm: Upper bound on the probability that any quantity of a calibrated fit is flagged: the level is
            divided by the number of quantities (Bonferroni).
    """

    replicates: tuple[Replicate, ...]
    n_draws: int
    false_alarm: float

    def shown(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "data sets": f"{len(self.replicates)}, {self.n_failed} failed, {self.n_not_converged} not converged",
            "flagged": f"{', '.join(self.flagged) or 'none'} of {plural(len(self.ranks), 'quantity', 'quantities')}",
            "draws": f"{self.n_draws} for each rank",
            "false alarm": self.false_alarm,
        }

    @cached_property
    def ranks(self) -> dict[str, Ranks]:
        """Ranks of every fit that did not raise, converged or not, by quantity."""
        ranked = [replicate.ranks for replicate in self.replicates if replicate.ranks]
        return {name: np.array([ranks[name] for ranks in ranked]) for name in (ranked[0] if ranked else ())}

    @cached_property
    def band(self) -> EcdfBand:
        """The band in which the ECDF of each quantity's ranks should lie."""
        n = sum(bool(replicate.ranks) for replicate in self.replicates)
        return EcdfBand.at(n, self.n_draws, self.false_alarm / max(len(self.ranks), 1))

    @property
    def flagged(self) -> list[str]:
        """Quantities with ranks outside the band."""
        return [name for name, ranks in self.ranks.items() if not self.band.contains(ranks)]

    @property
    def n_failed(self) -> int:
        """Number of fits that raised an error; they have no ranks."""
        return sum(not replicate.ranks for replicate in self.replicates)

    @property
    def n_not_converged(self) -> int:
        """Number of fits with problems, those that raised an error included; the ranks of the others count."""
        return sum(bool(replicate.problems) for replicate in self.replicates)

    @property
    def passed(self) -> bool:
        """Whether no fit raised and no quantity is flagged."""
        return bool(self.replicates) and not self.n_failed and not self.flagged

    def summary(self) -> dict[str, Any]:
        """The figures, in plain numbers and strings.

        For each quantity: whether its ranks lie inside the band, the p-value before the level is divided, the mean of
        the ranks over `L` (0.5 if calibrated) and their standard deviation relative to that of uniform ranks (above 1
        if the draws are too narrow, below 1 if too wide).
        """
        uniform = (((self.n_draws + 1) ** 2 - 1) / 12) ** 0.5
        reasons = [problem for replicate in self.replicates for problem in replicate.problems]
        return {
            "passed": self.passed,
            "data_sets": len(self.replicates),
            "failed": self.n_failed,
            "not_converged": self.n_not_converged,
            "problems": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "flagged": self.flagged,
            "quantities": {
                name: {
                    "inside": self.band.contains(ranks),
                    "p_value": self.band.p_value(ranks),
                    "mean": float(ranks.mean() / self.n_draws),
                    "spread": float(ranks.std() / uniform),
                }
                for name, ranks in self.ranks.items()
            },
            "mean_seconds": float(np.mean([replicate.seconds for replicate in self.replicates] or [0.0])),
        }


def calibrate[P, X](
    simulate: Callable[[int], tuple[P, X]],
    fit: Callable[[X, int], Fitted[P]],
    quantities: Callable[[P, X], Values],
    *,
    n_data_sets: int = 200,
    n_draws: int = 99,
    false_alarm: float = 0.01,
    max_r_hat: float = 1.05,
    seed: int = 0,
    n_jobs: int | None = 1,
    done: Iterable[Replicate] = (),
    tell: Callable[[Replicate], None] | None = None,
) -> CalibrationReport:
    """Draw truths from the prior, fit data simulated from them, and rank each truth among its posterior draws.

    Quantities may depend on the data: those of the parameters alone cannot distinguish the posterior from the prior
    (Modrák et al., *Simulation-based calibration checking for Bayesian computation: the choice of test quantities
    shapes sensitivity*, 2023). Draws are thinned evenly; with chains, a fit counts as not converged if a quantity's
    effective sample size is below `n_draws`, so that thinned draws are not nearly independent, or its R-hat is too
    great. Such fits are counted and kept: dropping them would bias the ranks.

    Args:
        simulate: Takes a seed; returns a truth drawn from the prior, and its data.
        fit: Takes the data and a seed; returns the posterior draws.
        quantities: Takes parameters and data; returns values by name, `()` for the truth, `(chain, draw)` or `(draw,)`
            for draws.
        n_data_sets: Number of data sets.
        n_draws: `L`, the number of draws that each truth is ranked among.
        false_alarm: Probability of a false alarm, for all quantities together.
        max_r_hat: Greatest R-hat of a fit that counts as converged.
        seed: Seeds each data set and fit separately: results depend neither on `n_jobs` nor on the order.
        n_jobs: Number of processes, as in joblib; `None` follows `joblib.parallel_config`.
        done: Data sets of an interrupted call with the same arguments, which are not fitted again.
        tell: Called with each finished data set, in any order.

    Returns:
        Ranks and verdicts.

    Raises:
        ValueError: If a number is below one, or `done` holds a data set beyond `n_data_sets`.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.diagnostics.calibration import Fitted, calibrate
        >>> def simulate(seed):
        ...     mean, noise = np.random.default_rng(seed).normal(size=2)
        ...     return mean, mean + noise
        >>> def fit(x, seed):
        ...     return Fitted(x / 2 + np.sqrt(0.5) * np.random.default_rng(seed).normal(size=19))
        >>> report = calibrate(simulate, fit, lambda mean, x: {"mean": mean, "fit": -((x - mean) ** 2)}, n_draws=19)
        >>> report.passed, report.n_not_converged
        (True, 0)
    """
    check_n_jobs(n_jobs)
    if n_data_sets < 1 or n_draws < 1:
        raise ValueError(f"Expected at least one data set and one draw; got {n_data_sets} and {n_draws}.")
    replicates = {replicate.index: replicate for replicate in done}
    if replicates and max(replicates) >= n_data_sets:
        raise ValueError(f"Expected finished data sets below {n_data_sets}; got number {max(replicates)}.")
    work = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)(
        joblib.delayed(tied(_replicate))(simulate, fit, quantities, index, n_draws, max_r_hat, seed)
        for index in range(n_data_sets)
        if index not in replicates
    )
    with closing(work):
        for replicate in work:
            replicates[replicate.index] = replicate
            if tell is not None:
                tell(replicate)
    return CalibrationReport(tuple(replicates[index] for index in sorted(replicates)), n_draws, false_alarm)


def _replicate(
    simulate: Callable[[int], tuple[Any, Any]],
    fit: Callable[[Any, int], Fitted[Any]],
    quantities: Callable[[Any, Any], Values],
    index: int,
    n_draws: int,
    max_r_hat: float,
    seed: int,
) -> Replicate:
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(3)
    seeds = [int(word) for word in state >> 1]
    start = time.perf_counter()
    try:
        with isolated(seed=seeds[0]):
            truth, data = simulate(seeds[0])
            known = {name: float(value) for name, value in quantities(truth, data).items()}  # type: ignore[arg-type]
        start = time.perf_counter()
        with isolated(seed=seeds[1]):
            fitted = fit(data, seeds[1])
        seconds = time.perf_counter() - start
        drawn = {name: _as_array(value) for name, value in quantities(fitted.draws, data).items()}
        generator = np.random.default_rng(seeds[2])
        ranks = {
            name: int(rank_statistics(known[name], thin(values, n_draws), generator)) for name, values in drawn.items()
        }
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        return Replicate(index, {}, (problem,), None, None, time.perf_counter() - start)
    problems, r_hat, ess = list(fitted.problems), None, None
    chains = [values for values in drawn.values() if values.ndim == 2]
    if chains:
        r_hat, ess = _convergence(np.stack(chains, -1))
        problems += ["r_hat"] * (not r_hat <= max_r_hat) + ["ess"] * (not ess >= n_draws)
    return Replicate(index, ranks, tuple(problems), r_hat, ess, seconds)


def _convergence(values: Array) -> tuple[float, float]:
    """The worst R-hat and the least effective size of `chain x draw x quantity` values that are not constant."""
    moving = values[..., np.ptp(values, axis=(0, 1)) > 0]
    if not moving.shape[-1]:
        return 1.0, float(values[..., 0].size)
    return float(np.max(split_r_hat(moving))), float(np.min(effective_size(moving)))


def _as_array(value: ArrayLike | Tensor) -> Array:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, float)
