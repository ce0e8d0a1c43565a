"""Selection of the number of components and the covariance type by criteria."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor

from latentmix.inference.mixtures.analysis.candidates import Candidate
from latentmix.inference.mixtures.analysis.criteria import CRITERIA, Criterion, Evaluation, criteria, find_criterion
from latentmix.inference.mixtures.analysis.selected import Selection
from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.process_state import kept_warnings
from latentmix.models.words import plural

__all__ = ["CRITERIA", "Candidate", "Selection", "check_sizes", "remeasured", "select"]

_FAILURES = (ValueError, ArithmeticError, RuntimeError)


def select(
    x: NDArray[Any] | Tensor,
    n_components: int | Iterable[int] = range(1, 11),
    covariance_types: CovarianceType | Iterable[CovarianceType] = ("full", "diag", "tied", "spherical"),
    *,
    criteria: str | Iterable[str] = CRITERIA,
    n_init: int = 5,
    random_state: int = 0,
    held_out: float = 5,
    draws: int = 1000,
    min_weight: float = 0.01,
    tol: float = 1e-5,
    max_iter: int = 1000,
    reg_covar: float = 1e-6,
    n_jobs: int | None = None,
    report: Callable[[Candidate], None] | None = None,
) -> Selection:
    """Fit every number of components and covariance type, and evaluate each fit by every criterion.

    Held-out points are scored by fits to the others, initialized on these alone; all candidates share the folds.
    PSIS-LOO takes draws of `gibbs` about the fit, four chains, and thus describes the posterior under its weak
    conjugate priors, not the maximum-likelihood fit; draws under other priors can be passed to `leave_one_out`. Fits
    that fail or do not converge are candidates with a reason.

    Args:
        x: `n x D` points.
        n_components: Numbers of components, or a single one; the largest truncates the Dirichlet process.
        covariance_types: Covariance types, or a single one.
        criteria: Names of criteria, or a single one; by default those shipped, `CRITERIA`.
        n_init: Number of starts of every fit, of which the best is kept.
        random_state: Seed of starts, folds and draws.
        held_out: Number of folds, from 2; or, below 1, the fraction of points that is held out once.
        draws: Posterior draws for PSIS-LOO.
        min_weight: Weight above which a component of the Dirichlet process counts as used.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Maximum number of iterations.
        reg_covar: Variance added to the diagonals.
        n_jobs: Number of candidates at a time, as joblib takes it; results do not depend on it.
        report: Called with each finished candidate.

    Returns:
        The candidates and their criteria.

    Raises:
        ValueError: If the points or an option are not as described, or a fit would have more components than points.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.selection import select
        >>> x = np.random.RandomState(0).randn(300, 1) + np.repeat([[-4.0], [4.0]], 150, 0)
        >>> select(x, range(1, 4), ["full"], criteria=["bic", "icl"]).best("bic").n_components
        2
    """
    counts, types, names = _each(n_components), _each(covariance_types), _each(criteria)
    points = _checked(x, counts, types, names, held_out, draws, min_weight, random_state, n_jobs)
    counts, measured = tuple(sorted(map(int, counts))), _in_order(names)
    check_sizes(counts, len(points), names, held_out)
    task = _Task(points, measured, n_init, random_state, held_out, draws, min_weight, tol, max_iter, reg_covar)
    asked = [Candidate("mixture", k, kind) for kind in types for k in counts]
    if any(criterion.model == "dirichlet_process" for criterion in measured):
        asked += [Candidate("dirichlet_process", counts[-1], kind) for kind in types]
    for candidate in asked:
        task.estimator(candidate, len(points))._validate_params()
    evaluated = []
    jobs = (delayed(tied(task.evaluate))(candidate) for candidate in asked)
    for candidate in Parallel(n_jobs=n_jobs, return_as="generator")(jobs):
        evaluated.append(candidate)
        if report is not None:
            report(candidate)
    order = tuple(criterion.name for criterion in measured)
    return Selection(tuple(evaluated), len(points), points.shape[1], order, held_out, min_weight)


def remeasured(
    selection: Selection,
    x: NDArray[Any] | Tensor,
    mixture: GaussianMixture,
    *,
    draws: int = 1000,
    random_state: int = 0,
) -> Selection:
    """The selection with `mixture` as the fit of its candidate, if its likelihood is higher than the candidate's.

    Criteria of the fit are computed again; those of other fits, as the held-out log-likelihood, are kept.

    Args:
        selection: The result of `select` for these points.
        x: `n x D` points.
        mixture: A fit to them, such as the best optimum of `modes`.
        draws: Posterior draws for PSIS-LOO.
        random_state: Seed of the draws.

    Raises:
        ValueError: If the selection has no such candidate or is of other points, or an option is out of range.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.modes import modes
        >>> from latentmix.inference.mixtures.analysis.selection import remeasured, select
        >>> x = np.random.RandomState(0).uniform(size=(150, 2))
        >>> selection = select(x, 6, "full", criteria="bic", n_init=1)
        >>> better = modes(x, 6, n_starts=8, few=0, close=0).mixture
        >>> remeasured(selection, x, better).candidates[0].bic < selection.candidates[0].bic
        True
    """
    _check_draws(draws, random_state)
    points = _points(x)
    key = ("mixture", mixture.n_components, mixture.covariance_type)
    keys = [(candidate.model, candidate.n_components, candidate.covariance_type) for candidate in selection.candidates]
    if key not in keys or points.shape != (selection.n_points, selection.n_features):
        raise ValueError(
            f"Expected points of shape {(selection.n_points, selection.n_features)} and a mixture like a candidate of "
            f"the selection; got {points.shape} and {plural(mixture.n_components, 'component')}, "
            f"{mixture.covariance_type}."
        )
    candidates, place = list(selection.candidates), keys.index(key)
    old = candidates[place]
    evaluation = Evaluation(
        points,
        mixture,
        lambda others: clone(mixture).fit(others),
        selection.held_out,
        draws,
        selection.min_weight,
        random_state,
    )
    if old.log_likelihood is not None and not evaluation.log_likelihood > old.log_likelihood:
        return selection
    measured = selection.measured()
    kept = [criterion.name for criterion in measured if criterion.refits]
    figures = {
        name: value
        for name, value in old.as_row().items()
        if any(name == criterion or name.startswith(f"{criterion}_") for criterion in kept)
    }
    new = Candidate(old.model, old.n_components, old.covariance_type, seconds=old.seconds).with_figures(figures)
    new = replace(new, **_fit_figures(mixture, ()))
    candidates[place] = _measured(new, evaluation, [criterion for criterion in measured if not criterion.refits])
    return replace(selection, candidates=tuple(candidates))


def check_sizes(counts: Sequence[int], n_points: int, criteria: Sequence[str], held_out: float) -> None:
    """Refuse more folds than points, and more components than the smallest fit of `select` has points.

    Raises:
        ValueError: If there are more.
    """
    refits = any(find_criterion(name).refits for name in criteria)
    if refits and held_out > n_points:
        raise ValueError(f"Expected at most as many folds as points, {n_points}; got {held_out}.")
    out = math.ceil(n_points * held_out if held_out < 1 else n_points / held_out) if refits else 0
    if max(counts) > n_points - out:
        limit = "points without those held out" if out else "points"
        raise ValueError(
            f"Expected at most as many components as {limit}, {n_points - out}; got {max(counts)}: take fewer."
        )


def _in_order(names: Sequence[str]) -> tuple[Criterion, ...]:
    """The criteria of these names in the order of registration."""
    return tuple(criterion for name, criterion in criteria().items() if name in names)


def _each(given: Any) -> tuple[Any, ...]:
    """The distinct values given, in order, as a tuple; a single number or name is one of them."""
    alone = isinstance(given, str) or not isinstance(given, Iterable)
    return (given,) if alone else tuple(dict.fromkeys(given))


def _points(x: NDArray[Any] | Tensor) -> NDArray[np.float64]:
    return as_tensor(x).detach().cpu().double().numpy()


def _checked(
    x: NDArray[Any] | Tensor,
    counts: Sequence[Any],
    types: Sequence[CovarianceType],
    criteria: Sequence[str],
    held_out: float,
    draws: int,
    min_weight: float,
    random_state: Any,
    n_jobs: int | None,
) -> NDArray[np.float64]:
    """The points in float64, after checks of them and of the options that the estimators do not check."""
    points = _points(x)
    if points.ndim != 2 or len(points) < 4 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"Expected at least four finite points of shape (n, D); got {points.shape}, or NaN.")
    if not counts or any(not isinstance(k, int | np.integer) or k < 1 for k in counts):
        raise ValueError(f"Expected numbers of components from 1; got {list(counts)}.")
    if not types or not criteria:
        raise ValueError("Expected at least one covariance type and one criterion; got none.")
    for kind in types:
        covariance_structure(kind)
    for name in criteria:
        find_criterion(name)
    if not 0 < min_weight < 1:
        raise ValueError(f"Expected min_weight in (0, 1); got {min_weight}.")
    _check_draws(draws, random_state)
    if not (0 < held_out < 1 or (held_out >= 2 and held_out == int(held_out))):
        raise ValueError(f"Expected held_out in (0, 1), or a number of folds from 2; got {held_out}.")
    check_n_jobs(n_jobs)
    return points


def _check_draws(draws: int, random_state: Any) -> None:
    if draws < 50:
        raise ValueError(f"Expected draws >= 50; got {draws}.")
    if not isinstance(random_state, int | np.integer) or not 0 <= random_state < 2**32:
        raise ValueError(f"Expected random_state from 0 to 2**32 - 1; got {random_state!r}.")


@dataclass(frozen=True)
class _Task:
    """The points and options that all candidates share."""

    points: NDArray[np.float64]
    criteria: tuple[Criterion, ...]
    n_init: int
    random_state: int
    held_out: float
    draws: int
    min_weight: float
    tol: float
    max_iter: int
    reg_covar: float

    def evaluate(self, asked: Candidate) -> Candidate:
        """The candidate with its figures, or with the reason why it has none."""
        began = time.perf_counter()
        try:
            with kept_warnings(record=True) as caught:
                warnings.simplefilter("always")
                fitted = self._fit(asked, self.points)
            done = replace(asked, **_fit_figures(fitted, caught))
        except _FAILURES as error:
            done = replace(asked, reason=_failed(error))
        else:
            evaluation = Evaluation(
                self.points,
                fitted,
                partial(self._fit, asked),
                self.held_out,
                self.draws,
                self.min_weight,
                self.random_state,
            )
            done = _measured(done, evaluation, self.criteria)
        return replace(done, seconds=time.perf_counter() - began)

    def estimator(self, asked: Candidate, n_points: int) -> Any:
        """The unfitted estimator of a candidate, for that many points."""
        options: dict[str, Any] = {
            "n_components": asked.n_components,
            "covariance_type": asked.covariance_type,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "reg_covar": self.reg_covar,
            "random_state": self.random_state,
        }
        if asked.model == "mixture":
            return GaussianMixture(tol=self.tol, **options)
        # Its bound is a sum over the points, EM's a mean.
        return BayesianGaussianMixture(
            weight_concentration_prior_type="dirichlet_process", tol=self.tol * n_points, **options
        )

    def _fit(self, asked: Candidate, points: NDArray[np.float64]) -> Any:
        return self.estimator(asked, len(points)).fit(points)


def _measured(candidate: Candidate, evaluation: Evaluation, criteria: Sequence[Criterion]) -> Candidate:
    """The candidate with the figures of every criterion, or the reasons why there are none."""
    measures = [criterion.figures for criterion in criteria if candidate.model in criterion.models]
    if candidate.model == "mixture":
        measures = [_likelihood, *measures]
    reasons = [candidate.reason] if candidate.reason else []
    with kept_warnings():  # folds and draws repeat the warnings of the fit
        warnings.simplefilter("ignore")
        for measure in measures:
            try:
                candidate = candidate.with_figures(measure(evaluation))
            except _FAILURES as error:
                reasons.append(_failed(error))
    return replace(candidate, reason="; ".join(dict.fromkeys(reasons)))


def _likelihood(evaluation: Evaluation) -> Mapping[str, Any]:
    return {"n_parameters": evaluation.n_parameters, "log_likelihood": evaluation.log_likelihood}


def _failed(error: Exception) -> str:
    return f"failed: {' '.join(str(error).split()):.160}"


def _fit_figures(fitted: Any, caught: Sequence[warnings.WarningMessage]) -> dict[str, Any]:
    return {"mixture": fitted, "converged": bool(fitted.converged_), "reason": _remarks(fitted, caught)}


def _remarks(fitted: Any, caught: Sequence[warnings.WarningMessage]) -> str:
    """The warnings of a fit, in short."""
    remarks = [] if fitted.converged_ else [f"not converged in {plural(fitted.n_iter_, 'iteration')}"]
    others = [" ".join(str(warning.message).split()).split(": ")[0] for warning in caught]
    remarks += [text for text in dict.fromkeys(others) if "did not converge" not in text]
    if float(torch.linalg.eigvalsh(fitted.parameters_.expanded_covariances()).min()) < 2 * fitted.reg_covar:
        remarks.append(
            f"a covariance lies on the floor, reg_covar = {fitted.reg_covar:.2g}, which then makes the figures"
        )
    return "; ".join(remarks)
