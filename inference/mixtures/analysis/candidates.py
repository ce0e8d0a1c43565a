"""What criteria say of mixtures that were fitted to the same points, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """One number of components and covariance type; what was not asked for, or failed, is `None`.

    Attributes:
        model: "mixture", fitted by EM, or "dirichlet_process", whose `n_components` is its truncation.
        n_components: Number of components.
        covariance_type: Its name.
        n_parameters: Free parameters of the mixture.
        log_likelihood: Of the fit, nats per point; of a Dirichlet process, here and held out, that of its expected
            parameters.
        bic: Lower is better, in nats times two.
        aic: Likewise.
        icl: Likewise.
        held_out: Log-likelihood of points that a fit has not seen, nats per point.
        held_out_error: Its standard error over points.
        loo: PSIS-LOO: leave-one-out log-density of the posterior predictive, under the weak conjugate priors of `gibbs`
            and from draws about one mode, nats per point; it is not of the maximum-likelihood fit.
        loo_error: Its standard error over points.
        loo_parameters: Effective number of parameters.
        pareto_k: Highest Pareto k.
        n_unreliable: Points with a Pareto k above 0.7; where there are any, `loo` is unreliable.
        r_hat: Of the log-likelihood over the chains that `loo` is taken from; above 1.1 it is unreliable too.
        weights: Of the Dirichlet process, in descending order.
        n_effective: How many of them are above `min_weight`.
        evidence_bound: Lower bound of the log-evidence of the Dirichlet process, nats; higher is better. There is none
            where its prior is singular, as in constant columns.
        converged: Whether the fit did.
        reason: Why there are no figures, or what is to be known of them.
        seconds: Time of it all.
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
        """Why `loo` is unreliable, where it is."""
        found = []
        if self.n_unreliable:
            found.append(f"Pareto k > 0.7 at {self.n_unreliable:,} point{'s' * (self.n_unreliable > 1)}")
        if self.r_hat is not None and self.r_hat > 1.1:
            found.append(f"chains apart, R-hat {self.r_hat:.2f}")
        return tuple(found)


@dataclass(frozen=True)
class Selection:
    """What the criteria say of all candidates.

    Attributes:
        candidates: In the order of covariance types and then components, Dirichlet processes last.
        n_points: Number of points.
        n_features: Number of features.
        criteria: Those that were asked for.
        held_out: How points were held out: a number of folds, or a share.
        min_weight: Weight above which a component of a Dirichlet process counts as used.
    """

    candidates: tuple[Candidate, ...]
    n_points: int
    n_features: int
    criteria: tuple[Criterion, ...]
    held_out: int | float
    min_weight: float

    def best(self, criterion: Criterion) -> Candidate:
        """The candidate that a criterion prefers; of Dirichlet processes the one with the highest bound.

        Unconverged fits take part: their likelihood is a lower bound of what could be reached.

        Raises:
            ValueError: If the criterion was not asked for, or no candidate has its value.
        """
        if criterion not in self.criteria:
            raise ValueError(f"Expected a criterion out of {', '.join(self.criteria)}; got {criterion!r}.")
        found = self._values(criterion)
        if not found:
            reasons = sorted({candidate.reason for candidate in self.candidates if candidate.reason})
            raise ValueError(f"Expected a fit with a value of {criterion}; got none: {'; '.join(reasons)}")
        chosen = min if criterion in LOWER else max
        return chosen(found, key=lambda pair: pair[0])[1]

    def as_rows(self) -> list[dict[str, Any]]:
        """The candidates as plain values, for JSON, without the estimators."""
        rows = map(asdict, self.candidates)
        return [{name: value for name, value in row.items() if name != "mixture"} for row in rows]

    def table(self) -> str:
        """The candidates as aligned text, `*` at the best of each criterion, and what each criterion prefers."""
        drawn: tuple[Criterion, ...] = tuple(name for name in self.criteria if name != "dirichlet_process")
        best: dict[Criterion, Candidate] = {name: self.best(name) for name in drawn if self._values(name)}
        head = ["covariance", "K", "parameters", "log-lik.", *(NAMES[name] for name in drawn)]
        head += ["k > 0.7", "R-hat"] if "loo" in drawn else []
        rows = [_words(one, drawn, best) for one in self.candidates]
        return "\n".join([aligned(head, rows), "", *self.preferences(), *_remarks(self.candidates)])

    def preferences(self) -> list[str]:
        """What each criterion prefers, a line each."""
        lines = []
        for name in self.criteria:
            if not self._values(name):
                lines.append(f"{NAMES[name]}: no value")
                continue
            one = self.best(name)
            if one.n_effective is not None:
                said = f"{one.n_effective} of {one.n_components} components above {self.min_weight:.2g}"
                more = "; all are in use, more may be" if one.n_effective == one.n_components else ""
                lines.append(f"{NAMES[name]}: {said}, {one.covariance_type} (highest bound of the log-evidence{more})")
                continue
            said = "lowest" if name in LOWER else "highest"
            said += ", of the posterior predictive under weak conjugate priors" if name == "loo" else ""
            if name == "loo" and one.doubts:
                said += f"; unreliable, {', '.join(one.doubts)}"
            counts = {other.n_components for other in self.candidates if other.model == "mixture"}
            if len(counts) > 1 and one.n_components == max(counts):
                said += "; the largest K of all, more may be better"
            lines.append(f"{NAMES[name]}: K = {one.n_components}, {one.covariance_type} ({said})")
        return lines

    def _values(self, criterion: Criterion) -> list[tuple[float, Candidate]]:
        name = "evidence_bound" if criterion == "dirichlet_process" else criterion
        model = "dirichlet_process" if criterion == "dirichlet_process" else "mixture"
        return [
            (value, one)
            for one in self.candidates
            if one.model == model and (value := getattr(one, name)) is not None and math.isfinite(value)
        ]


def _words(one: Candidate, drawn: Sequence[Criterion], best: Mapping[Criterion, Candidate]) -> list[str]:
    """A line of the table."""
    count = f"{one.n_components}"
    if one.model == "dirichlet_process":
        count = f"DP {'-' if one.n_effective is None else one.n_effective} of {count}"
    words = [one.covariance_type, count, _number(one.n_parameters, 0), _number(one.log_likelihood, 4)]
    for name in drawn:
        text = _number(getattr(one, name), 1 if name in LOWER else 4)
        if name not in LOWER and text != "-":
            text += f" ± {_number(getattr(one, f'{name}_error'), 4)}"
        words.append(text + ("*" if best.get(name) is one else " "))
    return [*words, _number(one.n_unreliable, 0), _number(one.r_hat, 2)] if "loo" in drawn else words


def _remarks(candidates: Sequence[Candidate]) -> list[str]:
    """Why figures are missing or in doubt, candidates of one reason together."""
    reasons: dict[str, list[str]] = {}
    for one in candidates:
        if one.reason:
            name = "DP" if one.model == "dirichlet_process" else f"{one.n_components}"
            reasons.setdefault(one.reason, []).append(f"{name} {one.covariance_type}")
    return [f"! {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
