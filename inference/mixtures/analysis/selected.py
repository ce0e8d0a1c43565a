"""The outcome of a selection: candidates, their table and the preference of each criterion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmix.inference.mixtures.analysis.candidates import Candidate
from latentmix.inference.mixtures.analysis.criteria import Criterion, find_criterion
from latentmix.inference.tables import aligned
from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["Selection"]


@dataclass(frozen=True, repr=False)
class Selection(Displayed):
    """All candidates with their criteria.

    Attributes:
        candidates: In the order of covariance types and then components, Dirichlet processes last.
        n_points: Number of points.
        n_features: Number of features.
        criteria: Names of the criteria that were asked for.
        held_out: Number of folds, or the fraction of points that was held out.
        min_weight: Weight above which a component of a Dirichlet process counts as used.
    """

    candidates: tuple[Candidate, ...]
    n_points: int
    n_features: int
    criteria: tuple[str, ...]
    held_out: int | float
    min_weight: float

    def shown(self) -> dict[str, Any]:
        sizes = f"{len(self.candidates)}, of {plural(self.n_points, 'point')} in {plural(self.n_features, 'dimension')}"
        return {"candidates": sizes, **{criterion.label: self._preference(criterion) for criterion in self.measured()}}

    def best(self, criterion: str) -> Candidate:
        """The candidate that a criterion prefers; among Dirichlet processes the one with the highest bound.

        Unconverged fits count: their likelihood is a lower bound of the attainable one.

        Raises:
            ValueError: If the criterion was not asked for, or no candidate has its value.
        """
        if criterion not in self.criteria:
            raise ValueError(f"Expected a criterion out of {', '.join(self.criteria)}; got {criterion!r}.")
        values = self._values(find_criterion(criterion))
        if not values:
            reasons = sorted({candidate.reason for candidate in self.candidates if candidate.reason})
            why = f": {'; '.join(reasons)}" if reasons else "."
            raise ValueError(f"Expected a fit with a value of {criterion}; got none{why}")
        chosen = min if find_criterion(criterion).lower else max
        return chosen(values, key=lambda pair: pair[0])[1]

    def as_rows(self) -> list[dict[str, Any]]:
        """The candidates as plain values, for JSON, without the estimators."""
        rows = [candidate.as_row() for candidate in self.candidates]
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in names} for row in rows]

    def table(self) -> str:
        """The candidates as aligned text, `*` at the best by each criterion, and the criteria's preferences."""
        columns = [criterion for criterion in self.measured() if criterion.model == "mixture"]
        best = {criterion.name: self.best(criterion.name) for criterion in columns if self._values(criterion)}
        head = ["covariance", "K", "parameters", "mean log p(x)", *(criterion.label for criterion in columns)]
        head += [heading for criterion in columns for heading, _, _ in criterion.diagnostics]
        rows = [_row(candidate, columns, best) for candidate in self.candidates]
        return "\n".join([aligned(head, rows), "", *self.preferences(), *_notes(self.candidates)])

    def preferences(self) -> list[str]:
        """The preference of each criterion, a line each."""
        return [f"{criterion.label}: {self._preference(criterion)}" for criterion in self.measured()]

    def _preference(self, criterion: Criterion) -> str:
        if not self._values(criterion):
            return "no value"
        best = self.best(criterion.name)
        if best.n_effective is not None:
            used = f"{best.n_effective} of {best.n_components} components above {self.min_weight:.2g}"
            more = "; all are in use, more may be" if best.n_effective == best.n_components else ""
            return f"{used}, {best.covariance_type} (highest bound of the log-evidence{more})"
        reason = "lowest" if criterion.lower else "highest"
        reason += f", of the {criterion.predictive}" if criterion.predictive else ""
        doubts = criterion.doubts(best)
        reason += f"; unreliable, {', '.join(doubts)}" if doubts else ""
        counts = {candidate.n_components for candidate in self.candidates if candidate.model == "mixture"}
        if len(counts) > 1 and best.n_components == max(counts):
            reason += "; the largest K of all, more may be better"
        return f"K = {best.n_components}, {best.covariance_type} ({reason})"

    def measured(self) -> list[Criterion]:
        """The criteria that were asked for."""
        return [find_criterion(name) for name in self.criteria]

    def _values(self, criterion: Criterion) -> list[tuple[float, Candidate]]:
        values = [(criterion.value(candidate), candidate) for candidate in self.candidates]
        return [(value, candidate) for value, candidate in values if value is not None]


def _row(candidate: Candidate, columns: Sequence[Criterion], best: Mapping[str, Candidate]) -> list[str]:
    """The row of a candidate in the table."""
    count = f"{candidate.n_components}"
    if candidate.model == "dirichlet_process":
        count = f"DP {'-' if candidate.n_effective is None else candidate.n_effective} of {count}"
    parameters, density = _number(candidate.n_parameters, 0), _number(candidate.log_likelihood, 4)
    words = [candidate.covariance_type, count, parameters, density]
    for criterion in columns:
        error = candidate.figure(f"{criterion.figure}_error")
        text = _number(candidate.figure(criterion.figure), criterion.digits)
        text += f" ± {_number(error, 4)}" if error is not None and text != "-" else ""
        words.append(text + ("*" if best.get(criterion.name) is candidate else " "))
    diagnostics = [diagnostic for criterion in columns for diagnostic in criterion.diagnostics]
    return [*words, *(_number(candidate.figure(name), digits) for _, name, digits in diagnostics)]


def _notes(candidates: Sequence[Candidate]) -> list[str]:
    """Reasons of missing or doubtful figures, a line each, with the candidates."""
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.reason:
            name = "DP" if candidate.model == "dirichlet_process" else f"{candidate.n_components}"
            reasons.setdefault(candidate.reason, []).append(f"{name} {candidate.covariance_type}")
    return [f"! {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
