"""Groups of runs in rows: their figures with intervals, and paired differences from a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.stacks import Stack
from latentmix.experiments.figures.style import (
    INK,
    MUTED,
    PAPER,
    RULE,
    SMALL,
    WIDTH,
    clean,
    fitted,
    group_styles,
    joined,
    text_width,
    wrapped,
)
from latentmix.experiments.figures.tableau import Metric, inner_ticks, metric_of
from latentmix.models.words import plural

__all__ = ["group_means", "paired_differences"]

NAME_WIDTH, NAME_LINES = 2.4, 3  # inches and lines of a group's name
DIRECTIONS = {1: "better →", -1: "← better", 0: ""}
LINE = 0.165  # inches of a line of a name
SEEDS = 0.1  # inches from the mark of a group down to those of its runs
DECIMALS = 7  # least number that is not written out
ABOVE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
Block = Sequence[str]


def group_means(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    *,
    metrics: Mapping[str, Metric] | None = None,
    measures: Mapping[str, str] | None = None,
    heading: str | None = None,
    caption: str = "",
    ax: Ax | None = None,
) -> Figure:
    """Draw figures of groups of runs: a panel per figure, and in it a row per group.

    A mark is the mean over the runs of a group, the line through it an interval, and small marks below are the runs.
    Groups of one measure lie together, with an axis of their own for figures that compare within a measure only.

    Args:
        values: By figure and group, a value for each run of the group; groups without one have an empty row.
        intervals: By figure and group, the low and high end of the interval of the mean, where there is one.
        metrics: Name, direction and limits of each figure; by default those of sweeps.
        measures: The measure of each group's likelihood; by default one is taken for all.
        heading: Title of the figure; by default the number of groups.
        caption: Text below the figure, such as what the intervals are.
        ax: Axes of the caller's figure to draw into, one for each figure and measure.

    Raises:
        ValueError: If no group has a finite value, a group has no measure, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import group_means
        >>> figure = group_means({"elbo": {"narrow": [-101.2, -100.8], "wide": [-99.0]}})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['narrow', 'wide']
    """
    groups = _groups(values)
    finite = {
        name: {group: [float(v) for v in by_group.get(group, ()) if math.isfinite(v)] for group in groups}
        for name, by_group in values.items()
    }
    if not any(runs for by_group in finite.values() for runs in by_group.values()):
        raise ValueError("Expected a finite value of a group of runs; got none.")
    known = {name: (metrics or {}).get(name) or metric_of(name) for name in values}
    ends = {name: {group: _interval((intervals or {}).get(name, {}).get(group)) for group in groups} for name in values}
    spread = {name: {group: [*finite[name][group], *(ends[name][group] or ())] for group in groups} for name in values}
    blocks = _blocks(groups, measures)
    sheet, panels, row_height = _panels(blocks, known, spread, measures, ax)
    styles = dict(zip(groups, group_styles(len(groups)), strict=True))
    for (name, _), (axes, block) in panels.items():
        for row, group in enumerate(block):
            runs = finite[name][group]
            if not runs:
                continue
            colour, marker, _ = styles[group]
            interval = ends[name][group]
            if interval:
                axes.plot(interval, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
            (mark,) = axes.plot(math.fsum(runs) / len(runs), row, marker, color=colour, markersize=8, clip_on=False)
            mark.set(markeredgecolor=PAPER, zorder=3)
            if len(runs) > 1:
                below = row + SEEDS / row_height
                axes.plot(runs, [below] * len(runs), marker, color=colour, markersize=4, markerfacecolor=PAPER)
    sheet.title(heading or f"Figures of {plural(len(groups), 'group')} of runs")
    several = any(len(runs) > 1 for by_group in finite.values() for runs in by_group.values())
    sentences = ["marks: means over the runs of a group; small marks: single runs"] if several else []
    _note(sheet, [*sentences, *([caption] if caption else [])], known, blocks)
    return sheet.figure


def paired_differences(
    differences: Mapping[str, Mapping[str, Sequence[float]]],
    reference: str,
    *,
    p_values: Mapping[str, Mapping[str, float]] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    groups: Sequence[str] | None = None,
    heading: str | None = None,
    caption: str = "",
    ax: Ax | None = None,
) -> Figure:
    """Draw how groups of runs differ from a reference on the same data: a panel per figure, and in it a row per group.

    Args:
        differences: By figure and group, the difference of the group minus the reference, and the low and high end of
            its interval.
        reference: Name of the reference.
        p_values: By figure and group, the p-value of a test that the two are alike, written at the end of its row.
        metrics: Name and direction of each figure; by default those of sweeps.
        groups: All groups, in the order in which other pictures of the comparison colour them; by default those that
            have a difference.
        heading: Title of the figure; by default the name of the reference.
        caption: Text below the figure, such as what the intervals are.
        ax: Axes of the caller's figure to draw into, one for each figure with a finite difference.

    Raises:
        ValueError: If there is no finite difference, or the axes are not as many as the figures.

    Example:
        >>> from latentmix.experiments.figures import paired_differences
        >>> figure = paired_differences({"elbo": {"wide": (1.2, 0.6, 1.8)}}, "narrow")
        >>> figure.get_suptitle()
        'Differences from narrow'
    """
    everyone = list(groups or _groups(differences))
    rows = [group for group in everyone if any(group in by_group for by_group in differences.values())]
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name, by_group in differences.items():
        kept = {group: found for group in rows if (found := _difference(by_group.get(group)))}
        table |= {name: kept} if kept else {}
    if not table:
        raise ValueError("Expected a finite difference of a group of runs from the reference; got none.")
    known = {name: _unlimited((metrics or {}).get(name) or metric_of(name)) for name in table}
    spread = {name: {group: [0.0, *by_group.get(group, ())] for group in rows} for name, by_group in table.items()}
    written = {name: {g: _p(p) for g, p in (p_values or {}).get(name, {}).items()} for name in table}
    sheet, panels, row_height = _panels([rows], known, spread, None, ax, least=0.5 if any(written.values()) else 0.32)
    styles = dict(zip(everyone, group_styles(len(everyone)), strict=True))
    for (name, _), (axes, block) in panels.items():
        axes.axvline(0.0, color=MUTED, linewidth=1.2, zorder=1)
        for row, group in enumerate(block):
            if group not in table[name]:
                continue
            value, low, high = table[name][group]
            colour, marker, _ = styles[group]
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=2)
            axes.plot(value, row, marker, color=colour, markersize=8, markeredgecolor=PAPER, zorder=3)
            if group in written[name]:
                _write_over(axes, value, row - 0.12 / row_height, written[name][group])
    sheet.title(heading or f"Differences from {reference}")
    sentences = ["p: McNemar's test"] if any(written.values()) else []
    _note(sheet, [*([caption] if caption else []), *sentences], known, [])
    return sheet.figure


def _groups(values: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return list(dict.fromkeys(group for by_group in values.values() for group in by_group))


def _unlimited(metric: Metric) -> Metric:
    """The metric for differences, which may have either sign."""
    return Metric(metric.name, metric.decimals, metric.better)


def _interval(ends: Sequence[float] | None) -> tuple[float, float] | None:
    """The ends of an interval; `None` without finite ones."""
    if ends is None or not all(map(math.isfinite, ends)):
        return None
    low, high = ends
    return float(low), float(high)


def _difference(row: Sequence[float] | None) -> tuple[float, float, float] | None:
    """A difference and the ends of its interval, at itself where they are not finite; `None` if it is not."""
    if row is None:
        return None
    value, low, high = map(float, row)
    if not math.isfinite(value):
        return None
    return value, low if math.isfinite(low) else value, high if math.isfinite(high) else value


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _blocks(groups: Sequence[str], measures: Mapping[str, str] | None) -> list[list[str]]:
    """The groups of each measure."""
    blocks: dict[str, list[str]] = {}
    for group in groups:
        if measures is not None and group not in measures:
            raise ValueError(f"Expected a measure for each group; got none for {group!r}.")
        blocks.setdefault("" if measures is None else measures[group], []).append(group)
    return list(blocks.values())


def _panels(
    blocks: Sequence[Block],
    metrics: Mapping[str, Metric],
    spread: Mapping[str, Mapping[str, Sequence[float]]],
    measures: Mapping[str, str] | None,
    ax: Ax | None,
    least: float = 0.34,
) -> tuple[Sheet, dict[tuple[str, int], tuple[Axes, Block]], float]:
    """The sheet, its empty panels by metric and block of groups, and the height of a row, at least `least` inches."""
    names = {group: fitted(group, NAME_WIDTH, NAME_LINES) for block in blocks for group in block}
    measure_of = measures if measures and len(blocks) > 1 else {}
    above = {row: wrapped(measure_of[block[0]], NAME_WIDTH, SMALL) for row, block in enumerate(blocks) if measure_of}
    stack = Stack(list(metrics), [len(block) for block in blocks])
    row_height = max(least, 0.12 + LINE * max(text.count("\n") + 1 for text in names.values()))
    height = stack.lines * (row_height * len(names) + (0.7 if above else 0.45) * len(blocks) + 0.5) + 0.9
    sheet = Sheet(ax, WIDTH, height)
    places = stack.panels()
    what = ", ".join(f"{name} of {measure_of[blocks[row][0]]}" if above else name for name, row, _ in places)
    drawn = sheet.panels(len(places), stack.make, what=what)
    if not sheet.own:
        sizes = [sheet.size(axes) for axes in drawn]
        across = min(NAME_WIDTH, *(width / 2 for width, _ in sizes))
        lines = min(int(up / len(blocks[row]) / LINE) for (_, up), (_, row, _) in zip(sizes, places, strict=True))
        names = {group: fitted(group, across, min(max(lines, 1), NAME_LINES)) for group in names}
    longest = max(text_width(text, SMALL) for text in [*names.values(), *above.values()])
    room = (WIDTH - 0.4 - longest) / stack.columns - 0.15 if sheet.own else min(sheet.size(axes)[0] for axes in drawn)
    panels: dict[tuple[str, int], tuple[Axes, Block]] = {}
    for axes, (name, row, column) in zip(drawn, places, strict=True):
        metric, block = metrics[name], blocks[row]
        left, top, bottom = (end or not sheet.own for end in (column == 0, row == 0, row == len(blocks) - 1))
        scale = block if metric.grouped else list(names)
        low, high = _span([value for group in scale for value in spread[name][group]], metric.limits)
        _rows(axes, [names[group] for group in block] if left else [""] * len(block), low, high, room)
        if left and row in above:
            text = axes.annotate(above[row], (0.0, 1.0), (-6, 3), **ABOVE)
            text.set(fontsize=SMALL, fontweight="bold", color=INK, ha="right", va="bottom")
        if top:
            axes.set_title(wrapped(metric.name, room, 11, "bold"), fontsize=11, fontweight="bold")
        if bottom:
            axes.set_xlabel(DIRECTIONS[metric.better])
        elif not metric.grouped:
            axes.tick_params(axis="x", labelbottom=False)
        if not any(len(spread[name][group]) for group in scale):
            axes.set_xticks([])
        panels[name, row] = (axes, block)
    return sheet, panels, row_height


def _rows(axes: Axes, names: Sequence[str], low: float, high: float, width: float) -> None:
    """An empty panel of a row for each name, about `width` inches wide."""
    clean(axes)
    axes.grid(False, axis="y")
    axes.set(xlim=(low, high), ylim=(len(names) - 0.45, -0.55))
    for row in range(len(names)):
        axes.axhline(row, color=RULE, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks(*_ticks(low, high, width))


def _ticks(low: float, high: float, width: float) -> tuple[list[float], list[str]]:
    """Round numbers inside a scale that is `width` inches long, and their labels: up to three that have room."""
    ticks: list[float] = []
    labels: list[str] = []
    for count in (3, 2, 1):
        ticks = inner_ticks(low, high, count)
        least = next(
            (d for d in range(DECIMALS) if all(math.isclose(round(t, d), t, abs_tol=1e-12) for t in ticks)), None
        )
        labels = [f"{tick:.1e}" if least is None else f"{tick:,.{least}f}" for tick in ticks]
        labels = [label.replace("-", "−") for label in labels]
        if sum(text_width(label, SMALL) + 0.12 for label in labels) <= width:
            break
    return ticks, labels


def _write_over(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a text over a place, within the panel."""
    low, high = axes.get_xlim()
    reach = high - low
    side = "left" if x < low + 0.25 * reach else "right" if x > high - 0.25 * reach else "center"
    place = {"left": low + 0.02 * reach, "right": high - 0.02 * reach, "center": x}[side]
    ground = {"facecolor": PAPER, "linewidth": 0, "pad": 0.5}
    axes.text(place, y, text, ha=side, va="bottom", fontsize=SMALL, color=INK, bbox=ground, zorder=4)


def _span(values: Sequence[float], limits: tuple[float, float]) -> tuple[float, float]:
    """The range of an axis, within the limits of its values."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    reach = high - low if high > low else 0.2 * abs(high) or 1.0
    return max(low - 0.1 * reach, limits[0]), min(high + 0.1 * reach, limits[1])


def _note(sheet: Sheet, sentences: Sequence[str], metrics: Mapping[str, Metric], blocks: Sequence[Block]) -> None:
    grouped = len(blocks) > 1 and any(metric.grouped for metric in metrics.values())
    parts = [*sentences, *(["ELBOs compare within one measure only"] if grouped else [])]
    if parts:
        sheet.note(joined(parts))
