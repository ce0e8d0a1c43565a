"""Learning curves of groups of runs, over one another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import batched

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import WITHIN, Ax, Sheet
from latentmix.experiments.figures.style import (
    PAPER,
    SMALL,
    WIDTH,
    Array,
    as_array,
    clean,
    fitted,
    group_styles,
    joined,
    legend_rows,
    wrapped,
)
from latentmix.models.process_state import kept_filters

__all__ = ["learning_curves"]

Curves = Mapping[str, Sequence[ArrayLike | Tensor]]

SPLITS = ("training", "validation")
SETTLED = 0.2  # share of the epochs whose curves may leave the axis, at their beginning
NAME_WIDTH = 6.0  # inches
AROUND = 1.1  # inches that a name leaves to its line and the number of runs, in a legend within axes


def learning_curves(
    curves: Mapping[str, Curves],
    *,
    measures: Mapping[str, str] | None = None,
    thing: str = "image",
    heading: str = "Learning curves",
    ax: Ax | None = None,
) -> Figure:
    """Draw the negative ELBO of groups of runs after each epoch, on training and on validation data.

    A group is drawn as the mean over its runs, through the epochs that all of them have, in the range of the runs, and
    each run as a thin line. Groups of different measures, whose ELBOs are not comparable, have panels of their own.
    Where the first fifth of the epochs lies far above the others, the axis leaves it out.

    Args:
        curves: By group, and by `training` and `validation`, one sequence for each run: its negative ELBO after each
            epoch, in nats per datum. Values that are not finite are omitted.
        measures: The measure of each group's likelihood; by default one is taken for all.
        thing: Word for a datum.
        heading: Title of the figure.
        ax: Axes of the caller's figure to draw into, one for each measure and split.

    Raises:
        ValueError: If there is no curve with a finite value, a group has no measure, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import learning_curves
        >>> narrow, wide = [[120.0, 110.0], [122.0, 111.0]], [[115.0, 104.0]]
        >>> figure = learning_curves({"narrow": {"validation": narrow}, "wide": {"validation": wide}})
        >>> [line.get_label() for line in figure.legends[0].get_lines()]
        ['narrow (2 runs)', 'wide']
    """
    tables = {
        group: {split: table for split in SPLITS if (table := _table(splits.get(split, ()))) is not None}
        for group, splits in curves.items()
    }
    splits = [split for split in SPLITS if any(split in by_split for by_split in tables.values())]
    if not splits:
        raise ValueError("Expected a curve with a finite value; got none.")
    by_measure: dict[str, list[str]] = {}
    for group in tables:
        if measures is not None and group not in measures:
            raise ValueError(f"Expected a measure for each group; got none for {group!r}.")
        by_measure.setdefault("" if measures is None else measures[group], []).append(group)
    styles = dict(zip(tables, group_styles(len(tables)), strict=True))
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, linewidth=1.8, label=_label(group, tables[group]))
        for group, (colour, marker, line) in styles.items()
    ]
    shape = len(by_measure), len(splits)
    sheet = Sheet(ax, WIDTH, 2.9 * len(by_measure) + 0.7 + 0.21 * legend_rows(handles, WIDTH - 0.3))
    what = ", ".join(f"{split} {measure}".strip() for measure in by_measure for split in splits)
    panels = sheet.panels(math.prod(shape), lambda figure: figure.subplots(*shape), what=what)
    room = WIDTH / len(splits) - 0.8 if sheet.own else min(sheet.size(axes)[0] for axes in panels)
    if not sheet.own:
        for handle, group in zip(handles, styles, strict=True):
            handle.set_label(_label(group, tables[group], min(NAME_WIDTH, sheet.size(panels[0])[0] - AROUND), WITHIN))
    clipped = False
    for row, (measure, groups) in zip(batched(panels, len(splits)), by_measure.items(), strict=True):
        drawn = [(tables[group], styles[group]) for group in groups]
        for axes, split in zip(row, splits, strict=True):
            for by_split, style in drawn:
                if split in by_split:
                    _draw(axes, by_split[split], *style)
            axes.set_title(wrapped(f"{split}\n{measure}" if measure else split, room, 11))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axes.set_xlabel("epoch")
        limits, leaves = _span([table for by_split, _ in drawn for table in by_split.values()])
        clipped |= leaves
        for axes in row:
            clean(axes)
            axes.set_ylim(*limits)
        for axes in row[: 1 if sheet.own else None]:
            axes.set_ylabel(f"negative ELBO\nnats per {thing}")
    sheet.title(heading)
    several = any(len(table) > 1 for by_split in tables.values() for table in by_split.values())
    sheet.note(joined(_sentences(several, clipped, len(by_measure) > 1)))
    sheet.legend(handles)
    return sheet.figure


def _table(runs: Sequence[ArrayLike | Tensor]) -> Array | None:
    """The curves of runs as rows, filled up with NaN; `None` without a finite value."""
    rows = [as_array(run).ravel() for run in runs]
    table = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = np.where(np.isfinite(values), values, np.nan)
    table = table[np.isfinite(table).any(axis=1)]
    return table if len(table) else None


def _label(group: str, by_split: Mapping[str, Array], width: float = NAME_WIDTH, size: float = SMALL) -> str:
    runs = max(map(len, by_split.values()), default=0)
    return fitted(group, width, 1, size) + (f" ({runs} runs)" if runs > 1 else "" if runs else " (no curve)")


def _draw(axes: Axes, table: Array, colour: str, marker: str, line: str) -> None:
    epochs = np.arange(1, table.shape[1] + 1)
    if len(table) > 1:
        with kept_filters():
            warnings.simplefilter("ignore", RuntimeWarning)  # of epochs that no run has
            low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
        for run in table:
            axes.plot(epochs, run, line, color=colour, linewidth=0.6, alpha=0.6)
    mean = table.mean(axis=0)  # NaN where a run has ended
    shown = np.flatnonzero(np.isfinite(mean))
    axes.plot(epochs[shown], mean[shown], line, color=colour, linewidth=1.8)
    if len(shown):
        (end,) = axes.plot(epochs[shown[-1]], mean[shown[-1]], marker, color=colour, clip_on=False, zorder=3)
        end.set(markersize=7, markeredgecolor=PAPER, markeredgewidth=0.6)


def _span(tables: Sequence[Array]) -> tuple[tuple[float, float], bool]:
    """Limits of the axis, and whether some first epochs lie outside."""
    values = np.concatenate([table[np.isfinite(table)] for table in tables])
    later = np.concatenate([part[np.isfinite(part)] for part in map(_later, tables)])
    low, high = float(values.min()), float(later.max())
    reach = high - low or 0.02 * abs(high) or 1.0
    top = float(values.max())
    leaves = top > high + reach
    return (low - 0.06 * reach, (high if leaves else top) + (0.35 if leaves else 0.06) * reach), leaves


def _later(table: Array) -> Array:
    return table[:, int(np.ceil(SETTLED * table.shape[1])) if table.shape[1] > 2 else 0 :]


def _sentences(several: bool, clipped: bool, measures: bool) -> Iterator[str]:
    if several:
        yield "thick: mean over the runs of a group; thin: single runs; shaded: their range"
    if clipped:
        yield "the first epochs lie above the axis"
    if measures:
        yield "negative ELBOs compare within one measure only"
