"""Estimates of a run's mixtures side by side, as tables and sentences, from the figures of `summary.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentmix.experiments.options.names import BUDGETS, FIT_NAMES, fit_name
from latentmix.experiments.runs.component_names import parameter_name
from latentmix.experiments.runs.page import number, typeset
from latentmix.inference.tables import aligned

__all__ = [
    "accuracy_sentences",
    "accuracy_values",
    "estimates_rows",
    "estimates_text",
    "posterior_accuracies",
    "posterior_notes",
]

Summary = Mapping[str, Any]

TERMINAL_ROWS = 10
BY_CONSTRUCTION = (
    "SVI maximises the likelihood, as EM does: they agree by construction where they end at one optimum, and neither "
    "has a posterior."
)


def estimates_rows(
    summary: Summary, most: int | None = None, write: Callable[[Any, int], str] = number
) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]], int]:
    """Estimates of each quantity by each fit, as words.

    Args:
        summary: The contents of `summary.json`.
        most: How many rows there are at most: those in which a posterior differs most from EM, in their order.
        write: Writes a number with so many digits.

    Returns:
        The names of the fits; the quantities, each with its estimate and its uncertainty by fit; and the number of all
        quantities.
    """
    estimates = summary.get("estimates") or {}
    fits: Mapping[str, Any] = estimates.get("fits") or {}
    quantities: Sequence[Any] = estimates.get("quantities") or []
    names = [name for name in FIT_NAMES if name in fits]
    rows = range(len(quantities))
    if most is not None and len(quantities) > most:
        distances = [_distance(fits, row) for row in rows]
        rows = sorted(sorted(rows, key=lambda row: -distances[row])[:most])  # type: ignore[assignment]
    shown = []
    for row in rows:
        kind, component, feature = quantities[row]
        name = None if component is None else estimates["components"][component]
        digits = _decimals(fits, row)
        shown.append((parameter_name(kind, name, feature), [_words(fits[fit], row, digits, write) for fit in names]))
    return list(map(fit_name, names)), shown, len(quantities) + int(estimates.get("left_out") or 0)


def _distance(fits: Mapping[str, Any], row: int) -> float:
    """Greatest distance of a posterior from EM, in its standard deviations."""
    em = fits["em"]["point"][row]
    posteriors = [values for values in fits.values() if "low" in values]
    return max((abs(em - each["point"][row]) / (each["sd"][row] or 1.0) for each in posteriors), default=0.0)


def _decimals(fits: Mapping[str, Any], row: int) -> int:
    """Decimals by which the least uncertainty of a quantity has two digits."""
    sds = [values["sd"][row] for values in fits.values() if "sd" in values and values["sd"][row] > 0]
    return max(0, min(8, 1 - math.floor(math.log10(min(sds))))) if sds else 4


def _words(values: Mapping[str, Any], row: int, digits: int, write: Callable[[Any, int], str]) -> tuple[str, str]:
    point, sd = values["point"][row], values["sd"][row] if "sd" in values else None
    if "low" in values:
        return write(point, digits), f"{write(values['low'][row], digits)} to {write(values['high'][row], digits)}"
    return write(point, digits), "" if sd is None else f"± {write(sd, digits)}"


def accuracy_values(summary: Summary) -> dict[str, dict[str, list[float]]]:
    """By label budget and name of the fit, an accuracy, or its median and interval; budgets with an interval alone."""
    values: dict[str, dict[str, list[float]]] = {}
    mixtures: Mapping[str, Any] = summary.get("mixtures") or {}
    for budget in BUDGETS:
        rows = {fit: mixtures[fit][budget] for fit in FIT_NAMES if budget in mixtures.get(fit, {})}
        if any("accuracy_interval" in row for row in rows.values()):
            values[budget] = {
                fit_name(fit): [row["accuracy_interval"][part] for part in ("median", "low", "high")]
                if "accuracy_interval" in row
                else [row["accuracy"]]
                for fit, row in rows.items()
                if "accuracy" in row
            }
    return values


def posterior_accuracies(summary: Summary) -> list[tuple[str, str, list[float]]]:
    """Label budget, name of the fit, and the median and the ends of the interval of its accuracy, of each posterior."""
    return [
        (budget, name, values)
        for budget, fits in accuracy_values(summary).items()
        for name, values in fits.items()
        if len(values) == 3
    ]


def accuracy_sentences(summary: Summary) -> list[str]:
    """The accuracy under the draws of each posterior, by label budget."""
    return [
        f"Accuracy under the draws of {_the(name)}, labels {budget}: median {median:.3f}, 90% interval {low:.3f} to "
        f"{high:.3f}"
        for budget, name, (median, low, high) in posterior_accuracies(summary)
    ]


def _the(name: str) -> str:
    return f"the {name}" if name.startswith("SVI ") else name


def posterior_notes(summary: Summary) -> list[str]:
    """Sentences on the posterior by SVI: the guides, what has not converged, and how far to trust it."""
    figures = summary.get("posterior")
    if not figures:
        return []
    if "failed" in figures:
        return [f"The posterior by SVI is left out, for it failed: {str(figures['failed']).rstrip('.')}."]
    if "left_out" in figures:
        return [f"The posterior by SVI is left out: {figures['left_out']} by --mixture.posterior.guide."]
    bounds = [
        f"{tried['guide']} {typeset(tried['bound'], 4)} in {typeset(tried['seconds'], 1)} s"
        for tried in figures["guides"]
        if tried["bound"] is not None
    ]
    notes = [f"The guide of the SVI posterior is {figures['guide']}, of the highest bound"]
    notes[0] += f" (nats per latent: {', '.join(bounds)})." if bounds else "."
    notes += [f"The fit is cut: {figures['cut']}."] if figures.get("cut") else []
    notes += [f"{tried['guide']}: {tried['note']}." for tried in figures["guides"] if tried["note"]]
    shape = figures.get("k_hat")
    if shape is not None:
        verdict = (
            "its draws can be weighted to the posterior's"
            if shape <= 0.7
            else "its draws cannot be weighted to the posterior's, as is usual of many parameters"
        )
        used, whole = figures.get("k_hat_draws"), figures.get("draws")
        draws = "" if not used or not whole else f" (of {'all ' if used == whole else ''}{used:,} draws)"
        notes.append(f"k-hat, the Pareto k of its importance weights{draws}: {typeset(shape, 2)}, so that {verdict}.")
    return notes


def estimates_text(summary: Summary) -> str:
    """Estimates and accuracies for the terminal: ten quantities, and where the fits differ most; empty without any."""
    notes = posterior_notes(summary)
    failed = [note for note in notes if "is left out" in note]
    names, rows, total = estimates_rows(summary, TERMINAL_ROWS)
    if not rows:
        return "\n".join(failed)
    cells = [[name, *(f"{point} ({more})" if more else point for point, more in values)] for name, values in rows]
    head = ["estimate", *names]
    lines = [aligned(head, cells)]
    if len(rows) < total:
        lines.append(f"{len(rows)} of {total:,} quantities, those in which EM and a posterior differ most.")
    estimates = summary["estimates"]
    errors = "EM with standard errors; posteriors" if "sd" in estimates["fits"].get("em", {}) else "Posteriors"
    lines += [f"{errors}: means and 90% intervals.", *([f"EM: {estimates['note']}."] if estimates.get("note") else [])]
    lines.append(estimates["sentence"])
    lines += [f"{sentence}." for sentence in accuracy_sentences(summary)]
    lines += [note for note in notes if note.startswith("k-hat")]
    return "\n".join([*lines, BY_CONSTRUCTION, *failed])
