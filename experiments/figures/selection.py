"""Model-selection criteria against the number of components, in a panel each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    INK,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    class_styles,
    clean,
    wrapped,
)
from latentmix.inference.mixtures.analysis.candidates import Candidate
from latentmix.inference.mixtures.analysis.criteria import Criterion
from latentmix.inference.mixtures.analysis.selected import Selection
from latentmix.models.mixture.covariances import CovarianceType
from latentmix.models.words import plural

__all__ = ["selection_panels"]

Style = dict[CovarianceType, tuple[str, str]]
ABREAST, HEADING = 2, 2.7  # panels abreast, and the width of their titles in inches


def selection_panels(selection: Selection, *, heading: str | None = None, ax: Ax | None = None) -> Figure:
    """Draw every criterion against the number of components, with a line per covariance type and a ring at the best.

    Criteria of which the lowest is best are drawn as differences from it; those with a standard error with a bar of one
    at the best. Hollow markers mean unreliable figures, crosses at the lower edge failed fits. Lines are clipped where
    they are far from the best.

    Args:
        selection: The result of `select`.
        heading: Title of the figure.
        ax: Axes of the caller's figure to draw into, one for each criterion.

    Raises:
        ValueError: If the axes are not as many as the criteria.

    Example:
        >>> import numpy as np
        >>> from latentmix.inference.mixtures.analysis.selection import select
        >>> from latentmix.experiments.figures import selection_panels
        >>> points = np.random.RandomState(0).randn(60, 2)
        >>> selection = select(points, [1, 2], ["diag"], criteria=["bic", "icl"], n_init=1)
        >>> len(selection_panels(selection).axes)
        2
    """
    types = list(dict.fromkeys(candidate.covariance_type for candidate in selection.candidates))
    styles: Style = dict(zip(types, class_styles(len(types)), strict=True))
    columns = min(ABREAST, len(selection.criteria))
    rows = math.ceil(len(selection.criteria) / columns)

    def make(figure: Figure) -> list[Axes]:
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[len(selection.criteria) :]:
            axes.remove()
        return grid[: len(selection.criteria)]

    sheet = Sheet(ax, WIDTH, 3.1 * rows + 1.7)
    panels = sheet.panels(len(selection.criteria), make, what=", ".join(selection.criteria))
    for axes, criterion in zip(panels, selection.measured(), strict=True):
        clean(axes)
        if criterion.model == "dirichlet_process":
            _process(axes, selection, criterion, styles)
        else:
            _criterion(axes, selection, criterion, styles)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=6, label=kind)
        for kind, (colour, marker) in styles.items()
    ]
    points = f"{plural(selection.n_points, 'point')}, {plural(selection.n_features, 'feature')}"
    sheet.title(heading or f"How many components? {points}")
    sheet.note(_caption(selection))
    sheet.legend(handles)
    return sheet.figure


def _criterion(axes: Axes, selection: Selection, criterion: Criterion, styles: Style) -> None:
    fits = [candidate for candidate in selection.candidates if candidate.model == "mixture"]
    known = [candidate for candidate in fits if criterion.value(candidate) is not None]
    heading = f"{criterion.title or criterion.label}: {'lower' if criterion.lower else 'higher'} is better"
    axes.set_title(wrapped(heading, HEADING, 11))
    axes.set_xlabel("number of components K")
    axes.set_ylabel(", ".join(filter(None, ["above the lowest" * criterion.lower, criterion.unit])))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not known:
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", color=MUTED)
        return
    best = selection.best(criterion.name)
    base = _number(best, criterion) if criterion.lower else 0.0
    for kind, (colour, marker) in styles.items():
        line = [candidate for candidate in known if candidate.covariance_type == kind]
        places = [candidate.n_components for candidate in line]
        values = [_number(candidate, criterion) - base for candidate in line]
        axes.plot(places, values, "-", color=colour, linewidth=1.5, alpha=0.9)
        for place, value, candidate in zip(places, values, line, strict=True):
            face = PAPER if criterion.doubts(candidate) else None
            axes.plot(place, value, marker, color=colour, markersize=5.5, markerfacecolor=face)
    low, high = _range(known, best, criterion, base)
    axes.set_ylim(low, high)
    if criterion.lower:  # nothing is below the lowest
        axes.yaxis.set_major_formatter(lambda height, _: "" if height < 0 else f"{height:,.10g}")
    failed = [candidate.n_components for candidate in fits if criterion.value(candidate) is None]
    if failed:
        axes.plot(failed, [low] * len(failed), "x", color=MUTED, markersize=7, clip_on=False)
    _mark(axes, best, criterion, base, styles)


def _mark(axes: Axes, best: Candidate, criterion: Criterion, base: float, styles: Style) -> None:
    """Ring and label the best candidate."""
    value = _number(best, criterion) - base
    colour = styles[best.covariance_type][0]
    axes.plot(best.n_components, value, "o", markersize=13, color=INK, markerfacecolor="none", markeredgewidth=1.6)
    error = criterion.error(best)
    if error is not None:
        axes.errorbar(best.n_components, value, yerr=error, color=colour, capsize=4, linewidth=1.2)
    low, high = axes.get_xlim()
    right = best.n_components > (low + high) / 2
    axes.annotate(
        f"K = {best.n_components}, {best.covariance_type}",
        (best.n_components, value),
        xytext=(-9 if right else 9, -14 if criterion.lower else 14),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if criterion.lower else "bottom",
        fontsize=SMALL,
        fontweight="bold",
        color=INK,
    )


def _process(axes: Axes, selection: Selection, criterion: Criterion, styles: Style) -> None:
    axes.set_title(wrapped("Dirichlet process: components in use", HEADING, 11))
    axes.set_xlabel("component, by descending weight")
    axes.set_ylabel("weight")
    axes.set_yscale("log")
    candidates = [candidate for candidate in selection.candidates if candidate.weights is not None]
    if not candidates:
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", color=MUTED)
        return
    bounded = any(criterion.value(candidate) is not None for candidate in candidates)
    best = selection.best(criterion.name) if bounded else None
    for candidate in candidates:
        colour, marker = styles[candidate.covariance_type]
        weights = [max(weight, 1e-9) for weight in candidate.weights or ()]
        places = range(1, len(weights) + 1)
        axes.plot(places, weights, "-", marker=marker, color=colour, linewidth=1.5, markersize=5.5, alpha=0.9)
    axes.axhline(selection.min_weight, color=MUTED, linestyle="--", linewidth=1.0)
    axes.set_ylim(selection.min_weight / 25, 1.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = [
        f"{candidate.covariance_type}: {candidate.n_effective}{' *' if candidate is best else ''}"
        for candidate in candidates
    ]
    axes.text(
        0.03,
        0.03,
        "\n".join([f"weights above {selection.min_weight:.2g}", *lines]),
        transform=axes.transAxes,
        va="bottom",
        fontsize=SMALL,
        color=INK,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )


def _number(candidate: Candidate, criterion: Criterion) -> float:
    value = criterion.value(candidate)
    assert value is not None
    return value


def _range(known: Sequence[Candidate], best: Candidate, criterion: Criterion, base: float) -> tuple[float, float]:
    """Limits that include the best of every type, the best with its bar and neighbours, and half of its line."""
    top = _number(best, criterion) - base
    gaps = [(candidate, abs(_number(candidate, criterion) - base - top)) for candidate in known]
    values = {
        kind: [gap for candidate, gap in gaps if candidate.covariance_type == kind]
        for kind in {candidate.covariance_type for candidate in known}
    }
    neighbours = [
        gap
        for candidate, gap in gaps
        if candidate.covariance_type == best.covariance_type and abs(candidate.n_components - best.n_components) <= 1
    ]
    own = sorted(values[best.covariance_type])
    reach = max([*(min(line) for line in values.values()), *neighbours, own[len(own) // 2]]) * 1.7
    reach = min(reach, max(gap for _, gap in gaps)) or 1.0
    low, high = (0.22, 1.1) if criterion.lower else (1.1, 0.28)
    bar = 1.1 * (criterion.error(best) or 0.0)
    return top - max(low * reach, bar), top + max(high * reach, bar)


def _caption(selection: Selection) -> str:
    folds = (
        f"{selection.held_out:.0f} folds"
        if selection.held_out >= 1
        else f"{100 * selection.held_out:.0f}% of the points held out"
    )
    sentences = ["Ringed: the best of each criterion"]
    for criterion in selection.measured():
        if criterion.refits:
            sentences.append(f"{criterion.label}: {folds}, bar: one standard error over points")
        if criterion.predictive:
            sentences.append(f"{criterion.label}: {criterion.predictive}")
        if any(criterion.doubts(candidate) for candidate in selection.candidates):
            causes = f" ({criterion.caution})" if criterion.caution else ""
            sentences.append(f"hollow: unreliable {criterion.label}{causes}")
    if any(candidate.model == "mixture" and candidate.log_likelihood is None for candidate in selection.candidates):
        sentences.append("×: a fit with that K failed")
    if any(candidate.weights for candidate in selection.candidates):
        sentences.append("*: the Dirichlet process with the highest bound of the evidence")
    sentences.append("lines leave a panel where they are far from the best")
    return "; ".join(sentences)
