"""Candidates of a selection with their criteria, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from latentmix.inference.mixtures.bayesian import BayesianGaussianMixture
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.tables import aligned
from latentmix.models.mixture.covariances import CovarianceType

__all__ = ["CRITERIA", "LOWER", "NAMES", "Candidate", "Criterion", "Selection"]

Criterion = Literal["bic", "aic", "icl", "held_out", "loo", "dirichlet_process"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
LOWER: tuple[Criterion, ...] = ("bic", "aic", "icl")
NAMES: dict[Criterion, str] = {
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "held_out": "held-out",
    "loo": "PSIS-LOO",
    "dirichlet_process": "Dirichlet process",
}


@dataclass(frozen=True)
class Candidate:
    """A fit with one number of components and covariance type; figures not asked for, or failed, are `None`.

    Attributes:
        model: "mixture", fitted by EM, or "dirichlet_process", whose `n_components` is its truncation.
        n_components: Number of components.
        covariance_type: Covariance type.
        n_parameters: Number of free parameters of the mixture.
        log_likelihood: Of the fit, nats per point; for a Dirichlet process, here and held out, under its expected
            parameters.
        bic: Lower is better, in nats times two.
        aic: Likewise.
        icl: Likewise.
        held_out: Log-likelihood of points that a fit has not seen, nats per point.
        held_out_error: Its standard error over points.
        loo: PSIS-LOO: leave-one-out log-density of the posterior predictive, under the weak conjugate priors of `gibbs`
            and from draws about one mode, nats per point; it does not describe the maximum-likelihood fit.
        loo_error: Its standard error over points.
        loo_parameters: Effective number of parameters.
        pareto_k: Highest Pareto k.
        n_unreliable: Number of points with a Pareto k above 0.7; if there are any, `loo` is unreliable.
        r_hat: R-hat of the log-likelihood over the chains of `loo`; above 1.1 `loo` is unreliable too.
        weights: Weights of the Dirichlet process, in descending order.
        n_effective: Number of them above `min_weight`.
        evidence_bound: Lower bound of the log-evidence of the Dirichlet process, nats; higher is better. `None`
            where its prior is singular, as in constant columns.
        converged: Whether the fit converged.
        reason: Why figures are missing, or remarks on them.
        seconds: Wall-clock time, all criteria included.
        mixture: The fitted estimator.
    """

    model: Literal["mixture", "dirichlet_process"]
    n_components: int
    covariance_type: CovarianceType
    n_parameters: int | None = None
    log_likelihood: float | None = None
    bic: float | None = None
    aic: float | None = None
    icl: float | None = None
    held_out: float | None = None
    held_out_error: float | None = None
    loo: float | None = None
    loo_error: float | None = None
    loo_parameters: float | None = None
    pareto_k: float | None = None
    n_unreliable: int | None = None
    r_hat: float | None = None
    weights: tuple[float, ...] | None = None
    n_effective: int | None = None
    evidence_bound: float | None = None
    converged: bool = False
    reason: str = ""
    seconds: float = 0.0
    mixture: GaussianMixture | BayesianGaussianMixture | None = field(default=None, repr=False, compare=False)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons why `loo` is unreliable, if any."""
        reasons = []
        if self.n_unreliable:
            reasons.append(f"Pareto k > 0.7 at {self.n_unreliable:,} point{'s' * (self.n_unreliable > 1)}")
        if self.r_hat is not None and self.r_hat > 1.1:
            reasons.append(f"chains apart, R-hat {self.r_hat:.2f}")
        return tuple(reasons)


@dataclass(frozen=True)
class Selection:
    """All candidates with their criteria.

    Attributes:
        candidates: In the order of covariance types and then components, Dirichlet processes last.
        n_points: Number of points.
        n_features: Number of features.
        criteria: The criteria that were asked for.
        held_out: Number of folds, or the fraction of points that was held out.
        min_weight: Weight above which a component of a Dirichlet process counts as used.
    """

    candidates: tuple[Candidate, ...]
    n_points: int
    n_features: int
    criteria: tuple[Criterion, ...]
    held_out: int | float
    min_weight: float

    def best(self, criterion: Criterion) -> Candidate:
        """The candidate that a criterion prefers; among Dirichlet processes the one with the highest bound.

        Unconverged fits count: their likelihood is a lower bound of the attainable one.

        Raises:
            ValueError: If the criterion was not asked for, or no candidate has its value.
        """
        if criterion not in self.criteria:
            raise ValueError(f"Expected a criterion out of {', '.join(self.criteria)}; got {criterion!r}.")
        values = self._values(criterion)
        if not values:
            reasons = sorted({candidate.reason for candidate in self.candidates if candidate.reason})
            raise ValueError(f"Expected a fit with a value of {criterion}; got none: {'; '.join(reasons)}")
        chosen = min if criterion in LOWER else max
        return chosen(values, key=lambda pair: pair[0])[1]

    def as_rows(self) -> list[dict[str, Any]]:
        """The candidates as plain values, for JSON, without the estimators."""
        names = [field.name for field in fields(Candidate) if field.name != "mixture"]
        return [{name: getattr(candidate, name) for name in names} for candidate in self.candidates]

    def table(self) -> str:
        """The candidates as aligned text, `*` at the best by each criterion, and the criteria's preferences."""
        drawn: tuple[Criterion, ...] = tuple(name for name in self.criteria if name != "dirichlet_process")
        best: dict[Criterion, Candidate] = {name: self.best(name) for name in drawn if self._values(name)}
        head = ["covariance", "K", "parameters", "log-lik.", *(NAMES[name] for name in drawn)]
        head += ["k > 0.7", "R-hat"] if "loo" in drawn else []
        rows = [_row(candidate, drawn, best) for candidate in self.candidates]
        return "\n".join([aligned(head, rows), "", *self.preferences(), *_remarks(self.candidates)])

    def preferences(self) -> list[str]:
        """The preference of each criterion, a line each."""
        return [f"{NAMES[name]}: {self._preference(name)}" for name in self.criteria]

    def _preference(self, criterion: Criterion) -> str:
        if not self._values(criterion):
            return "no value"
        best = self.best(criterion)
        if best.n_effective is not None:
            used = f"{best.n_effective} of {best.n_components} components above {self.min_weight:.2g}"
            more = "; all are in use, more may be" if best.n_effective == best.n_components else ""
            return f"{used}, {best.covariance_type} (highest bound of the log-evidence{more})"
        reason = "lowest" if criterion in LOWER else "highest"
        if criterion == "loo":
            reason += ", of the posterior predictive under weak conjugate priors"
            reason += f"; unreliable, {', '.join(best.doubts)}" if best.doubts else ""
        counts = {candidate.n_components for candidate in self.candidates if candidate.model == "mixture"}
        if len(counts) > 1 and best.n_components == max(counts):
            reason += "; the largest K of all, more may be better"
        return f"K = {best.n_components}, {best.covariance_type} ({reason})"

    def _values(self, criterion: Criterion) -> list[tuple[float, Candidate]]:
        name = "evidence_bound" if criterion == "dirichlet_process" else criterion
        model = "dirichlet_process" if criterion == "dirichlet_process" else "mixture"
        values = [(getattr(candidate, name), candidate) for candidate in self.candidates if candidate.model == model]
        return [(value, candidate) for value, candidate in values if value is not None and math.isfinite(value)]


def _row(candidate: Candidate, drawn: Sequence[Criterion], best: Mapping[Criterion, Candidate]) -> list[str]:
    """The row of a candidate in the table."""
    count = f"{candidate.n_components}"
    if candidate.model == "dirichlet_process":
        count = f"DP {'-' if candidate.n_effective is None else candidate.n_effective} of {count}"
    parameters, density = _number(candidate.n_parameters, 0), _number(candidate.log_likelihood, 4)
    words = [candidate.covariance_type, count, parameters, density]
    for name in drawn:
        text = _number(getattr(candidate, name), 1 if name in LOWER else 4)
        if name not in LOWER and text != "-":
            text += f" ± {_number(getattr(candidate, f'{name}_error'), 4)}"
        words.append(text + ("*" if best.get(name) is candidate else " "))
    return [*words, _number(candidate.n_unreliable, 0), _number(candidate.r_hat, 2)] if "loo" in drawn else words


def _remarks(candidates: Sequence[Candidate]) -> list[str]:
    """Why figures are missing or in doubt: a line for each reason, with its candidates."""
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.reason:
            name = "DP" if candidate.model == "dirichlet_process" else f"{candidate.n_components}"
            reasons.setdefault(candidate.reason, []).append(f"{name} {candidate.covariance_type}")
    return [f"! {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
