"""Estimates of a mixture's parameters by several fits, with their uncertainty, as a forest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    FIT_STYLE,
    INK,
    MUTED,
    PAPER,
    RULE,
    SMALL,
    WIDTH,
    as_array,
    check_finite,
    check_same_length,
    clean,
    shortened,
)

__all__ = ["posterior_forest"]

ROWS = 12  # most rows of a panel
REACH = 8.0  # most posterior standard deviations from EM's answer that are drawn
NORMAL_90 = 1.645  # standard errors on each side of a 90% interval
HEADINGS = {"weight": "Weights", "mean": "Means", "scale": "Scales"}
_LINE = 0.095  # inches of height for one fit of one row

Quantity = Sequence[Any]


def posterior_forest(
    quantities: Sequence[Quantity],
    fits: Mapping[str, Mapping[str, Any]],
    components: Sequence[str],
    *,
    accuracies: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    heading: str = "Parameters of the mixture by each fit, and their uncertainty",
    caption: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw weights, means and scales by every fit, with 90% intervals, and accuracies.

    Weights are drawn as they are. Means and scales are drawn minus EM's, in standard deviations of the first posterior:
    so all of them share an axis on which intervals are seen. Of more than twelve in a panel, those are drawn in which a
    posterior differs most from EM, in their order.

    Args:
        quantities: Q of the kind ("weight", "mean" or "scale"), the place of the component in `components`, and the
            feature, from 0; each of the last two perhaps `None`.
        fits: By the name of the fit, that of EM first: `point`, and perhaps `sd`, `low` and `high`, Q values each. A
            fit with `low` and `high` is a posterior; one with `sd` alone has standard errors.
        components: Names of the components.
        accuracies: By label budget and fit, an accuracy, or an accuracy and the ends of its interval.
        heading: Title of the figure.
        caption: Text below the figure.
        ax: Axes of the caller's figure to draw into: one for each kind of quantity that is there, in the order of
            weights, means and scales, and one for accuracies if there are any.

    Raises:
        ValueError: If there is no posterior among the fits, arrays differ in length or are not finite, or the axes are
            not as many.

    Example:
        >>> from latentmix.experiments.figures import posterior_forest
        >>> quantities = [("weight", 0, None), ("weight", 1, None)]
        >>> nuts = {"point": [0.4, 0.6], "sd": [0.05, 0.05], "low": [0.3, 0.5], "high": [0.5, 0.7]}
        >>> figure = posterior_forest(quantities, {"EM": {"point": [0.41, 0.59]}, "NUTS": nuts}, ["a", "b"])
        >>> figure.axes[0].get_title()
        'Weights'
    """
    posteriors = [name for name, values in fits.items() if "low" in values]
    if not posteriors:
        raise ValueError(f"Expected a fit with intervals among the fits; got {', '.join(fits) or 'none'}.")
    tables = {name: {part: as_array(values[part]) for part in values} for name, values in fits.items()}
    for name, parts in tables.items():
        check_same_length(quantities=quantities, **{f"{part} of {name}": values for part, values in parts.items()})
        check_finite(**{f"{part} of {name}": values for part, values in parts.items()})
    distance = _distances(tables, posteriors)
    kinds = np.asarray([quantity[0] for quantity in quantities])
    chosen = {kind: _chosen(np.flatnonzero(kinds == kind), distance) for kind in HEADINGS}
    chosen = {kind: rows for kind, rows in chosen.items() if len(rows)}
    count = max(map(len, chosen.values()))
    height = count * (_LINE * len(fits) + 0.1) + 0.9
    below = 0.0 if not accuracies else len(accuracies) * (_LINE * len(fits) + 0.12) + 0.85

    def make(figure: Figure) -> list[Axes]:
        rows = 1 + bool(accuracies)
        grid = figure.add_gridspec(rows, len(chosen), height_ratios=[height, below][:rows])
        places = [grid[0, column] for column in range(len(chosen))]
        places += [grid[1, : max(1, len(chosen) - 1)]] if accuracies else []  # its numbers take the last column's place
        return [figure.add_subplot(place) for place in places]

    sheet = Sheet(ax, WIDTH, height + below + 1.35)
    what = ", ".join([*(HEADINGS[kind].lower() for kind in chosen), *["accuracies"] * bool(accuracies)])
    panels = sheet.panels(len(chosen) + bool(accuracies), make, what=what)
    beyond = False
    for axes, (kind, rows) in zip(panels, chosen.items(), strict=False):
        labels = [_label(quantities[k], components) for k in rows]
        whole = int((kinds == kind).sum())
        spread = 0.32 * len(rows) / count  # lines of all panels lie equally close
        beyond |= _forest(axes, tables, rows, labels, posteriors[0] if kind != "weight" else None, spread)
        part = f"{len(rows)} of {whole}" if len(rows) < whole else ""
        axes.set(title=f"{HEADINGS[kind]}{f' ({part})' if part else ''}")
        axes.set_xlabel("weight" if kind == "weight" else "minus EM's, in\nposterior sd")
    if accuracies:
        _accuracies(panels[-1], accuracies, list(fits))
    sheet.title(heading)
    notes = ["Bars: 90% intervals, of EM 1.64 standard errors each way"] if "sd" in tables["EM"] else []
    notes = notes or ["Bars: 90% intervals"]
    if any(quantity[2] is not None for quantity in quantities):
        notes.append("z1: the first latent dimension")
    notes += [f"arrows: more than {REACH:.0f} away"] if beyond else []
    if any(len(rows) < int((kinds == kind).sum()) for kind, rows in chosen.items()):
        notes.append("of many, those in which EM and a posterior differ most")
    sheet.note("; ".join([*notes, *([caption] if caption else [])]))
    barred = {name: 1.6 if {"sd", "low"} & set(values) else 0.0 for name, values in fits.items()}
    handles = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=_face(name, colour), linewidth=width, label=name)
        for name, width in barred.items()
        for colour, marker in (FIT_STYLE[name],)
    ]
    sheet.legend(handles)
    return sheet.figure


def _distances(tables: Mapping[str, Mapping[str, Any]], posteriors: Sequence[str]) -> Any:
    """Greatest distance of a posterior from EM, in its standard deviations: `(Q,)`."""
    em = next(iter(tables.values()))["point"]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = [np.abs(tables[name]["point"] - em) / tables[name]["sd"] for name in posteriors]
    return np.nan_to_num(np.max(each, axis=0), posinf=0.0)


def _chosen(places: Any, distance: Any) -> Any:
    return np.sort(places[np.argsort(-distance[places], kind="stable")[:ROWS]])


def _label(quantity: Quantity, components: Sequence[str]) -> str:
    _, component, feature = quantity
    parts = [] if component is None else [shortened(components[component], 10)]
    return ", ".join([*parts, *([] if feature is None else [f"z{feature + 1}"])]) or "all"


def _forest(
    axes: Axes,
    tables: Mapping[str, Mapping[str, Any]],
    rows: Any,
    labels: Sequence[str],
    unit: str | None,
    reach: float,
) -> bool:
    """Draw one row per quantity, with a line for each fit; whether some lie beyond the axis."""
    clean(axes)
    axes.grid(False, axis="y")
    centre, width = np.zeros(len(rows)), np.ones(len(rows))
    if unit is not None:
        sd = tables[unit]["sd"][rows]
        centre, width = next(iter(tables.values()))["point"][rows], np.where(sd > 0, sd, 1.0)
        axes.axvline(0.0, color=MUTED, linewidth=1.0, zorder=1)
    shifts = np.linspace(-reach, reach, len(tables)) if len(tables) > 1 else [0.0]
    ends, beyond = [], False
    for shift, (name, table) in zip(shifts, tables.items(), strict=True):
        colour, marker = FIT_STYLE[name]
        point = (table["point"][rows] - centre) / width
        low, high = ((end[rows] - centre) / width for end in _interval(table))
        places = np.arange(len(rows)) + shift
        outside = np.abs(point) > REACH if unit is not None else np.zeros(len(rows), bool)
        beyond |= bool(outside.any())
        inside = ~outside
        axes.hlines(places[inside], low[inside], high[inside], color=colour, linewidth=1.6)
        face = _face(name, colour)
        axes.plot(point[inside], places[inside], marker, color=colour, markersize=4.5, markerfacecolor=face, zorder=3)
        for value, place in zip(point[outside], places[outside], strict=True):
            edge = REACH if value > 0 else -REACH
            axes.plot(edge, place, ">" if value > 0 else "<", color=colour, markersize=5, clip_on=False, zorder=3)
        ends += [low[inside], high[inside], np.clip(point[outside], -REACH, REACH)]
    joined = np.concatenate([np.ravel(end) for end in ends])
    least, most = float(joined.min()), float(joined.max())
    if unit is not None:
        least, most = max(min(least, -2.0), -REACH), min(max(most, 2.0), REACH)
    margin = 0.06 * max(most - least, 1e-3)
    axes.set(xlim=(max(least - margin, 0.0) if unit is None else least - margin, most + margin))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(axis="y", length=0)
    for place in range(len(rows) - 1):
        axes.axhline(place + 0.5, color=RULE, linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    return beyond


def _interval(table: Mapping[str, Any]) -> tuple[Any, Any]:
    """Ends of a fit's interval; the point where it has none."""
    if "low" in table:
        return table["low"], table["high"]
    reach = NORMAL_90 * table["sd"] if "sd" in table else np.zeros_like(table["point"])
    return table["point"] - reach, table["point"] + reach


def _accuracies(axes: Axes, accuracies: Mapping[str, Mapping[str, Sequence[float]]], fits: Sequence[str]) -> None:
    """Draw a row for each label budget: an accuracy, or its median under a posterior and its interval."""
    clean(axes)
    axes.grid(False, axis="y")
    shifts = np.linspace(-0.3, 0.3, len(fits))
    ends: list[float] = []
    for row, values in enumerate(accuracies.values()):
        for shift, name in zip(shifts, fits, strict=True):
            if name not in values:
                continue
            colour, marker = FIT_STYLE[name]
            point, *interval = values[name]
            low, high = interval or (point, point)
            ends += [low, point, high]
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.6)
            axes.plot(point, row + shift, marker, color=colour, markersize=5, markerfacecolor=_face(name, colour))
            words = f"{point:.3f} ({low:.3f} to {high:.3f})" if interval else f"{point:.3f}"
            place = axes.annotate(words, (1.0, row + shift), (6, 0), textcoords="offset points")
            place.xycoords = axes.get_yaxis_transform()
            place.set(fontsize=7.5, color=INK, va="center", ha="left", annotation_clip=False, in_layout=False)
    reach = max(max(ends) - min(ends), 0.02)
    axes.set(xlim=(max(min(ends) - 0.1 * reach, 0.0), min(max(ends) + 0.1 * reach, 1.0 + 0.02 * reach)))
    axes.set_ylim(len(accuracies) - 0.5, -0.5)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title="Accuracy on the test data", xlabel="accuracy at the mean of q")


def _face(name: str, colour: str) -> str:
    """Hollow marks of points without uncertainty of their own."""
    return PAPER if name in ("EM", "SVI") else colour
