r"""How many components, and of which covariance: six criteria side by side.

Of a maximum-likelihood fit with log-likelihood :math:`\ell` of `n` points and `p` free parameters, lower is better of
BIC :math:`= -2\ell + p \log n` (Schwarz, 1978), AIC :math:`= -2\ell + 2p` (Akaike, 1974) and ICL
:math:`= \mathrm{BIC} + 2E`, with :math:`E = -\sum_{ik} r_{ik} \log r_{ik} \ge 0` the entropy of the
responsibilities, so that components which overlap cost (Biernacki, Celeux and Govaert, *Assessing a mixture model for
clustering with the integrated completed likelihood*, 2000, with the opposite sign and half the size). Higher is better
of the held-out log-likelihood and of PSIS-LOO, both in nats per point. A Dirichlet process says by itself how many
components it uses.
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

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.candidates import CRITERIA, Candidate, Criterion, Selection
from latentmix.inference.mixtures.density import log_joint
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.gibbs import gibbs
from latentmix.inference.mixtures.psis import leave_one_out
from latentmix.models.covariances import CovarianceType, covariance_structure

__all__ = ["CRITERIA", "Candidate", "Criterion", "Selection", "select"]


def select(
    x: NDArray[Any] | Tensor,
    n_components: Iterable[int] = range(1, 11),
    covariance_types: Sequence[CovarianceType] = ("full", "diag", "tied", "spherical"),
    *,
    criteria: Sequence[Criterion] = CRITERIA,
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
    """Fit every number of components and covariance type, and measure each by every criterion.

    Held-out points are scored by fits to the others, started on these alone; all candidates share the folds. PSIS-LOO
    takes draws of `gibbs` about the fit, four chains, under weak priors that are conjugate; those of any other
    posterior can be given to `leave_one_out`. Fits that fail or do not
    converge are candidates with the reason.

    Args:
        x: `n x D` points.
        n_components: Numbers of components; the largest truncates the Dirichlet process.
        covariance_types: Names.
        criteria: Which are measured.
        n_init: Starts of every fit, the best is kept.
        random_state: Seed of starts, folds and draws.
        held_out: Number of folds, from 2; or, below 1, the share of points that is held out once.
        draws: Posterior draws for PSIS-LOO.
        min_weight: Weight above which a component of the Dirichlet process counts as used.
        tol: EM ends when the bound changes by less, in nats per datum.
        max_iter: Most iterations.
        reg_covar: Variance added to the diagonals.
        n_jobs: Candidates at a time, as joblib takes it; results do not depend on it.
        report: Called with each candidate when it is done.

    Returns:
        The candidates and their figures.

    Raises:
        ValueError: If the points or an option are not as described.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.selection import select
        >>> x = np.random.RandomState(0).randn(300, 1) + np.repeat([[-4.0], [4.0]], 150, 0)
        >>> select(x, range(1, 4), ["full"], criteria=["bic", "icl"]).best("bic").n_components
        2
    """
    counts, types = sorted(set(n_components)), tuple(dict.fromkeys(covariance_types))
    points = _checked(x, counts, types, criteria, n_init, held_out, draws, min_weight)
    names = tuple(name for name in CRITERIA if name in criteria)
    task = _Task(points, names, n_init, random_state, held_out, draws, min_weight, tol, max_iter, reg_covar)
    asked = [Candidate("mixture", k, kind) for kind in types for k in counts]
    if "dirichlet_process" in names:
        asked += [Candidate("dirichlet_process", counts[-1], kind) for kind in types]
    measured = []
    for candidate in Parallel(n_jobs=n_jobs, return_as="generator")(delayed(task.measure)(one) for one in asked):
        measured.append(candidate)
        if report is not None:
            report(candidate)
    return Selection(tuple(measured), len(points), points.shape[1], names, held_out, min_weight)


def _checked(
    x: NDArray[Any] | Tensor,
    counts: Sequence[int],
    types: Sequence[CovarianceType],
    criteria: Sequence[Criterion],
    n_init: int,
    held_out: float,
    draws: int,
    min_weight: float,
) -> NDArray[np.float64]:
    """The points in float64, with options that are in their range."""
    points = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
    if points.ndim != 2 or len(points) < 4 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"Expected at least four finite points of shape (n, D); got {points.shape}, or NaN.")
    if not counts or counts[0] < 1:
        raise ValueError(f"Expected numbers of components from 1; got {list(counts)}.")
    if not types or not criteria:
        raise ValueError("Expected at least one covariance type and one criterion; got none.")
    for kind in types:
        covariance_structure(kind)
    unknown = [name for name in criteria if name not in CRITERIA]
    if unknown:
        raise ValueError(f"Expected criteria out of {', '.join(CRITERIA)}; got {unknown[0]!r}.")
    if n_init < 1 or draws < 50 or not 0 < min_weight < 1:
        raise ValueError(
            f"Expected n_init >= 1, draws >= 50 and min_weight in (0, 1); got {n_init}, {draws}, {min_weight}."
        )
    if not (0 < held_out < 1 or (held_out == int(held_out) and 2 <= held_out <= len(points))):
        raise ValueError(f"Expected held_out in (0, 1), or 2 ... {len(points)} folds; got {held_out}.")
    return points


@dataclass(frozen=True)
class _Task:
    """What all candidates share."""

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

    def measure(self, asked: Candidate) -> Candidate:
        """The candidate with its figures, or with the reason why there are none."""
        began = time.perf_counter()
        done = asked
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                fitted = self._fit(asked, self.points)
            done = replace(asked, converged=bool(fitted.converged_), reason=_said(fitted, caught))
            with warnings.catch_warnings():  # what the folds' fits and the draws warn of, the fit has been asked for
                warnings.simplefilter("ignore")
                figures = self._weights(fitted) if asked.model == "dirichlet_process" else self._criteria(fitted)
                done = replace(done, **figures)
                if "held_out" in self.criteria:
                    done = replace(done, **self._held_out(asked))
                if "loo" in self.criteria and asked.model == "mixture":
                    done = replace(done, **self._leave_one_out(fitted))
        except (ValueError, ArithmeticError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            done = replace(done, reason="; ".join(filter(None, [done.reason, f"failed: {reason:.160}"])))
        return replace(done, seconds=time.perf_counter() - began)

    def _fit(self, asked: Candidate, points: NDArray[np.float64]) -> Any:
        options: dict[str, Any] = {
            "n_components": asked.n_components,
            "covariance_type": asked.covariance_type,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "reg_covar": self.reg_covar,
            "random_state": self.random_state,
        }
        if asked.model == "mixture":
            return GaussianMixture(tol=self.tol, **options).fit(points)
        # Its bound is a sum over the points, EM's a mean.
        return BayesianGaussianMixture(
            weight_concentration_prior_type="dirichlet_process", tol=self.tol * len(points), **options
        ).fit(points)

    def _criteria(self, fitted: Any) -> dict[str, Any]:
        n = len(self.points)
        parameters = fitted.parameters_
        density = float(fitted.score(self.points))
        free = parameters.n_parameters()
        bic = -2 * n * density + free * math.log(n)
        shares = np.asarray(fitted.predict_proba(self.points))
        entropy = -float((shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum())
        values: dict[Criterion, float] = {"bic": bic, "aic": -2 * n * density + 2 * free, "icl": bic + 2 * entropy}
        wanted = {str(name): value for name, value in values.items() if name in self.criteria}
        return {"n_parameters": free, "log_likelihood": density, **wanted}

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

    def _leave_one_out(self, fitted: Any) -> dict[str, Any]:
        drawn = gibbs(
            torch.from_numpy(self.points),
            fitted.parameters_,
            draws=math.ceil(self.draws / 4),
            random_state=self.random_state,
        )
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
    """Log-densities under the mixture of a fit: of a Dirichlet process that of the expected parameters.

    What its `score_samples` gives, after scikit-learn, integrates to less than one.
    """
    return np.asarray(log_joint(torch.from_numpy(points), fitted.parameters_).logsumexp(1))


def _said(fitted: Any, caught: Sequence[warnings.WarningMessage]) -> str:
    """What a fit warned of, in short."""
    said = [] if fitted.converged_ else [f"not converged in {fitted.n_iter_} iterations"]
    others = [" ".join(str(one.message).split()).split(": ")[0] for one in caught]
    said += [text for text in dict.fromkeys(others) if "did not converge" not in text]
    if float(torch.linalg.eigvalsh(fitted.parameters_.expanded_covariances()).min()) < 2 * fitted.reg_covar:
        said.append(f"a covariance lies on the floor, reg_covar = {fitted.reg_covar:.2g}, which then makes the figures")
    return "; ".join(said)
