r"""Selection of the number of components and the covariance type by six criteria.

For a maximum-likelihood fit with log-likelihood :math:`\ell` of `n` points and `p` free parameters, lower is better for
BIC :math:`= -2\ell + p \log n` (Schwarz, 1978), AIC :math:`= -2\ell + 2p` (Akaike, 1974) and ICL
:math:`= \mathrm{BIC} + 2E`, with :math:`E = -\sum_{ik} r_{ik} \log r_{ik} \ge 0` the entropy of the
responsibilities, which penalises components that overlap (Biernacki, Celeux and Govaert, *Assessing a mixture model for
clustering with the integrated completed likelihood*, 2000, with the opposite sign and half the size). Higher is better
for the held-out log-likelihood and for PSIS-LOO, both in nats per point: held-out points are scored by the
maximum-likelihood fit of the others; PSIS-LOO scores each point by the posterior predictive density given the others,
under the weak conjugate priors of `gibbs` and from draws about one mode, so that it depends on these priors and does
not describe the fit itself. A Dirichlet process determines by itself how many components it uses.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.model_selection import KFold, ShuffleSplit
from torch import Tensor

from latentmix.inference.mixtures.analysis.candidates import CRITERIA, Candidate, Criterion, Selection
from latentmix.inference.mixtures.analysis.gibbs import gibbs
from latentmix.inference.mixtures.analysis.psis import leave_one_out
from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.process_state import kept_warnings

__all__ = ["CRITERIA", "Candidate", "Criterion", "Selection", "check_sizes", "remeasured", "select"]

_FAILURES = (ValueError, ArithmeticError, RuntimeError)


def select(
    x: NDArray[Any] | Tensor,
    n_components: int | Iterable[int] = range(1, 11),
    covariance_types: CovarianceType | Iterable[CovarianceType] = ("full", "diag", "tied", "spherical"),
    *,
    criteria: Criterion | Iterable[Criterion] = CRITERIA,
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
        criteria: Criteria, or a single one.
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
    counts, names = tuple(sorted(map(int, counts))), tuple(name for name in CRITERIA if name in names)
    check_sizes(counts, len(points), names, held_out)
    task = _Task(points, names, n_init, random_state, held_out, draws, min_weight, tol, max_iter, reg_covar)
    asked = [Candidate("mixture", k, kind) for kind in types for k in counts]
    if "dirichlet_process" in names:
        asked += [Candidate("dirichlet_process", counts[-1], kind) for kind in types]
    for candidate in asked:
        task.estimator(candidate, len(points))._validate_params()
    evaluated = []
    jobs = (delayed(task.evaluate)(candidate) for candidate in asked)
    for candidate in Parallel(n_jobs=n_jobs, return_as="generator")(jobs):
        evaluated.append(candidate)
        if report is not None:
            report(candidate)
    return Selection(tuple(evaluated), len(points), points.shape[1], names, held_out, min_weight)


def remeasured(
    selection: Selection,
    x: NDArray[Any] | Tensor,
    mixture: GaussianMixture,
    *,
    draws: int = 1000,
    random_state: int = 0,
) -> Selection:
    """The selection with `mixture` as the fit of its candidate, if its likelihood is higher than the candidate's.

    Criteria of the fit are computed again; the held-out log-likelihood, which is of other fits, is kept.

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
            f"the selection; got {points.shape} and {mixture.n_components} components, {mixture.covariance_type}."
        )
    candidates, place = list(selection.candidates), keys.index(key)
    old, figures = candidates[place], _criteria(points, mixture, selection.criteria)
    if old.log_likelihood is not None and not figures["log_likelihood"] > old.log_likelihood:
        return selection
    kept = ("model", "n_components", "covariance_type", "held_out", "held_out_error", "seconds")
    new = Candidate(**{name: getattr(old, name) for name in kept}, **figures, **_fit_figures(mixture, ()))
    loo = [lambda: _leave_one_out(points, mixture, draws, random_state)] if "loo" in selection.criteria else []
    candidates[place] = _filled(new, loo)
    return replace(selection, candidates=tuple(candidates))


def check_sizes(counts: Sequence[int], n_points: int, criteria: Sequence[Criterion], held_out: float) -> None:
    """Refuse more folds than points, and more components than the smallest fit of `select` has points.

    Raises:
        ValueError: If there are more.
    """
    if "held_out" in criteria and held_out > n_points:
        raise ValueError(f"Expected at most as many folds as points, {n_points}; got {held_out}.")
    out = math.ceil(n_points * held_out if held_out < 1 else n_points / held_out) if "held_out" in criteria else 0
    if max(counts) > n_points - out:
        limit = "points without those held out" if out else "points"
        raise ValueError(
            f"Expected at most as many components as {limit}, {n_points - out}; got {max(counts)}: take fewer."
        )


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
    criteria: Sequence[Criterion],
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
    unknown = [name for name in criteria if name not in CRITERIA]
    if unknown:
        raise ValueError(f"Expected criteria out of {', '.join(CRITERIA)}; got {unknown[0]!r}.")
    if not 0 < min_weight < 1:
        raise ValueError(f"Expected min_weight in (0, 1); got {min_weight}.")
    _check_draws(draws, random_state)
    if not (0 < held_out < 1 or (held_out >= 2 and held_out == int(held_out))):
        raise ValueError(f"Expected held_out in (0, 1), or a number of folds from 2; got {held_out}.")
    if n_jobs == 0:
        raise ValueError("Expected n_jobs other than 0; got 0.")
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
            process = asked.model == "dirichlet_process"
            steps = [lambda: self._weights(fitted) if process else _criteria(self.points, fitted, self.criteria)]
            if "held_out" in self.criteria:
                steps.append(lambda: self._held_out(asked))
            if "loo" in self.criteria and not process:
                steps.append(lambda: _leave_one_out(self.points, fitted, self.draws, self.random_state))
            done = _filled(done, steps)
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

    def _weights(self, fitted: Any) -> dict[str, Any]:
        weights = np.sort(np.asarray(fitted.weights_))[::-1]
        evidence = float(fitted.evidence_lower_bound_)
        return {
            "weights": tuple(weights.tolist()),
            "n_effective": int((weights > self.min_weight).sum()),
            "evidence_bound": evidence if math.isfinite(evidence) else None,
            "log_likelihood": float(_densities(fitted, self.points).mean()),
        }

    def _held_out(self, asked: Candidate) -> dict[str, Any]:
        """Mean log-likelihood of points under fits to the others, and its standard error."""
        split = (
            ShuffleSplit(1, test_size=self.held_out, random_state=self.random_state)
            if self.held_out < 1
            else KFold(int(self.held_out), shuffle=True, random_state=self.random_state)
        )
        densities = np.concatenate(
            [
                _densities(self._fit(asked, self.points[train]), self.points[test])
                for train, test in split.split(self.points)
            ]
        )
        error = float(densities.std(ddof=1) / math.sqrt(len(densities))) if len(densities) > 1 else math.nan
        return {"held_out": float(densities.mean()), "held_out_error": error}


def _filled(done: Candidate, steps: Iterable[Callable[[], dict[str, Any]]]) -> Candidate:
    """The candidate with the figures of every step, or the reason why a step gave none."""
    with kept_warnings():  # folds and draws repeat the warnings of the fit
        warnings.simplefilter("ignore")
        for step in steps:
            try:
                done = replace(done, **step())
            except _FAILURES as error:
                done = replace(done, reason="; ".join(filter(None, [done.reason, _failed(error)])))
    return done


def _failed(error: Exception) -> str:
    return f"failed: {' '.join(str(error).split()):.160}"


def _fit_figures(fitted: Any, caught: Sequence[warnings.WarningMessage]) -> dict[str, Any]:
    return {"mixture": fitted, "converged": bool(fitted.converged_), "reason": _remarks(fitted, caught)}


def _criteria(points: NDArray[np.float64], fitted: Any, criteria: Sequence[Criterion]) -> dict[str, Any]:
    joint = fitted._log_joints(points)
    n, free = len(joint), fitted.parameters_.n_parameters()
    density = float(joint.logsumexp(1).sum()) / n
    bic = -2 * n * density + free * math.log(n)
    entropy = float(torch.special.entr(joint.softmax(1)).sum())
    values: dict[Criterion, float] = {"bic": bic, "aic": -2 * n * density + 2 * free, "icl": bic + 2 * entropy}
    wanted = {str(name): value for name, value in values.items() if name in criteria}
    return {"n_parameters": free, "log_likelihood": density, **wanted}


def _leave_one_out(points: NDArray[np.float64], fitted: Any, draws: int, random_state: int) -> dict[str, Any]:
    drawn = gibbs(torch.from_numpy(points), fitted.parameters_, draws=math.ceil(draws / 4), random_state=random_state)
    result = leave_one_out(drawn.log_likelihood.cpu().numpy())
    return {
        "loo": result.mean,
        "loo_error": result.standard_error,
        "loo_parameters": result.n_effective,
        "pareto_k": float(result.pareto_k.max()),
        "n_unreliable": result.n_unreliable,
        "r_hat": result.r_hat,
    }


def _densities(fitted: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-densities under the mixture of a fit; of a Dirichlet process under its expected parameters.

    The exponential of its `score_samples`, as of scikit-learn's, integrates to less than one.
    """
    return np.asarray(log_joint(torch.from_numpy(points), fitted.parameters_).logsumexp(1))


def _remarks(fitted: Any, caught: Sequence[warnings.WarningMessage]) -> str:
    """The warnings of a fit, in short."""
    remarks = [] if fitted.converged_ else [f"not converged in {fitted.n_iter_} iterations"]
    others = [" ".join(str(warning.message).split()).split(": ")[0] for warning in caught]
    remarks += [text for text in dict.fromkeys(others) if "did not converge" not in text]
    if float(torch.linalg.eigvalsh(fitted.parameters_.expanded_covariances()).min()) < 2 * fitted.reg_covar:
        remarks.append(
            f"a covariance lies on the floor, reg_covar = {fitted.reg_covar:.2g}, which then makes the figures"
        )
    return "; ".join(remarks)
