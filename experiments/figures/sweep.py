"""All cells of a sweep in one figure: a tableau of numbers, or rows of dots for a single axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.stacks import Stack
from latentmix.experiments.figures.style import (
    BLUE,
    INK,
    MUTED,
    PURPLE,
    RED,
    RULE,
    SMALL,
    VERMILION,
    WIDTH,
    clean,
    shortened,
    wrapped,
)
from latentmix.experiments.figures.tableau import (
    FAILED,
    METRICS,
    Cell,
    Key,
    best_cells,
    figure_of,
    group_of,
    inner_ticks,
    interval_of,
    metric_of,
    number,
    over_seeds,
    tableau,
    values_of,
)
from latentmix.experiments.options.names import LEVEL
from latentmix.models.words import plural

__all__ = ["sweep_overview"]

STATUSES = {"done": "done", "refused": "refused (hatched)", "failed": "failed (×)"}
DOTS = (BLUE, VERMILION, PURPLE, RED)
FEW = 40


def sweep_overview(
    cells: Sequence[Cell],
    axes: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] | None = None,
    heading: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw metrics of all cells of a grid: for one axis as rows of dots, for two to four axes as a tableau.

    A group has one measure, against which ELBOs are comparable: ELBOs and log-likelihoods have a scale per group, all
    other metrics one scale. If the group depends on one axis only, that axis is the outer one of the rows.

    Args:
        cells: Mappings with `options` (a label by axis), `status` (`done`, `refused` or `failed`) and, if they are
            done, `group` and `figures` (by metric a number, or a list of one for each seed, of which the mean is drawn
            with its Student t interval; missing and infinite ones are skipped).
        axes: The labels of one to four axes.
        metrics: Metrics to draw; by default the known ones (ELBO, log-likelihood, MSE, SSIM, KL divergence, accuracy)
            that some cell has, and in tableaux of more than 40 cells only the first of these.
        heading: Title of the figure.
        ax: Axes of the caller's figure to draw into: of a tableau one for each metric; of rows, one for each metric
            and, if there are several, group. Tableaux in them have no colour bars.

    Raises:
        ValueError: If there are no axes of the grid or more than four, if a cell is not on it, is repeated or has
            another status, if no finished cell has a metric, or if the axes to draw into are not as many.

    Example:
        >>> from latentmix.experiments.figures import sweep_overview
        >>> cells = [
        ...     {"options": {"prior": name}, "status": "done", "group": "density", "figures": {"elbo": value}}
        ...     for name, value in (("StandardNormal", -101.0), ("MixturePrior", -99.5))
        ... ]
        >>> sweep_overview(cells, {"prior": ["StandardNormal", "MixturePrior"]}).get_suptitle()
        'Sweep over prior: 2 cells'
    """
    grid = _grid(cells, axes)
    done = [cell for cell in grid.values() if cell["status"] == "done"]
    known = [name for name in METRICS if any(math.isfinite(figure_of(cell, name)) for cell in done)]
    drawn = list(metrics) if metrics else known[: 1 if len(axes) > 1 and len(grid) > FEW else None]
    for name in drawn:
        if done and not any(name in (cell.get("figures") or {}) for cell in done):
            raise ValueError(f"Expected a finished cell with the figure {name!r}; got none.")
    drawn = drawn or ["elbo"]
    text = heading or f"Sweep over {', '.join(axes)}: {plural(len(grid), 'cell')}"
    caption = _caption(grid, axes, drawn)
    if len(axes) > 1:
        return tableau(grid, axes, drawn, heading=text, caption=caption, ax=ax)
    sheet = _rows(grid, drawn, ax)
    sheet.title(text)
    sheet.note(caption)
    return sheet.figure


def _grid(cells: Sequence[Cell], axes: Mapping[str, Sequence[str]]) -> dict[Key, Cell]:
    """The cells by their labels, in the order of the axes."""
    if not 1 <= len(axes) <= 4 or not all(axes.values()):
        raise ValueError(f"Expected one to four axes with their labels; got {dict(axes)}.")
    grid: dict[Key, Cell] = {}
    for cell in cells:
        options = cell["options"]
        if set(options) != set(axes) or any(options[name] not in labels for name, labels in axes.items()):
            raise ValueError(f"Expected cells with a label of each axis, {', '.join(axes)}; got {dict(options)}.")
        if cell["status"] not in STATUSES:
            raise ValueError(f"Expected a status out of {', '.join(STATUSES)}; got {cell['status']!r}.")
        key = tuple(options[name] for name in axes)
        if key in grid:
            raise ValueError(f"Expected every cell once; got {dict(options)} twice.")
        grid[key] = cell
    if not grid:
        raise ValueError("Expected at least one cell; got none.")
    return grid


def _caption(grid: Mapping[Key, Cell], axes: Mapping[str, Sequence[str]], metrics: Sequence[str]) -> str:
    """Numbers of cells by status, the legend, and what ELBOs are measured against."""
    counts = {name: sum(cell["status"] == name for cell in grid.values()) for name in STATUSES}
    words = STATUSES if len(axes) > 1 else {name: name for name in STATUSES}
    counted = {name: f"{count:,} {words[name]}" for name, count in counts.items() if count}
    if (seeds := _seeds(grid, metrics)) and counts["done"]:
        counted["done"] = f"{plural(counts['done'], 'mean')} over {seeds}"
    sentences = list(counted.values())
    missing = math.prod(len(labels) for labels in axes.values()) - len(grid)
    sentences += [f"{missing:,} not run"] if missing else []
    sentences += _marks(grid, metrics, "ring" if len(axes) == 1 else "frame")
    if len(axes) > 1 and any(metric_of(name).better for name in metrics) and len(grid) > 1:
        sentences.append("darker colour is better")
    neither = [metric_of(name).name.split(",")[0] for name in metrics if not metric_of(name).better]
    if neither and len(axes) > 1:
        sentences.append(f"grey ({', '.join(neither)}): darker is higher, not better")
    groups = list(dict.fromkeys(group_of(cell) for cell in grid.values() if cell["status"] == "done"))
    if any(metric_of(name).grouped for name in metrics):
        sentences += ["ELBOs compare within one measure only"] if len(groups) > 1 else []
        sentences += [f"measure of the ELBOs: {groups[0]}"] if len(groups) == 1 and groups[0] else []
    return "; ".join(sentences)


def _seeds(grid: Mapping[Key, Cell], metrics: Sequence[str]) -> str:
    """Over how many seeds means are, and what their intervals; empty if no cell has several."""
    counts = sorted({len(values) for cell in grid.values() for name in metrics if (values := values_of(cell, name))})
    if not counts or counts[-1] == 1:
        return ""
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[-1]}"
    return f"{many} seeds, with {100 * LEVEL:.0f}% Student t intervals"


def _marks(grid: Mapping[Key, Cell], metrics: Sequence[str], mark: str) -> list[str]:
    """The meaning of a mark, a frame or a ring: the best cell, as far as seeds tell."""
    compared = [name for name in metrics if metric_of(name).better]
    best = [bool(best_cells(grid, name)) for name in compared]
    if not any(over_seeds(grid, name) for name in compared):
        return [f"{mark}: the best, of one run each"] if any(best) else []
    some = [f"{mark}: may be the best, as no interval lies above"] if any(best) else []
    return [*some, *([f"no {mark}: all intervals overlap"] if len(grid) > 1 and not all(best) else [])]


def _rows(grid: Mapping[Key, Cell], metrics: Sequence[str], ax: Ax | None) -> Sheet:
    """Draw a row of dots for each cell of one axis, grouped, and at most three metrics abreast."""
    groups = list(dict.fromkeys(group_of(cell) for cell in grid.values() if cell["status"] == "done")) or [""]
    blocks: dict[str, dict[str, Cell]] = {group: {} for group in groups}
    for (label,), cell in grid.items():
        blocks[group_of(cell) if group_of(cell) in blocks else groups[-1]][label] = cell
    named = len(groups) > 1
    names = {
        (label, group): "\n".join([shortened(label), *([wrapped(group, 1.9, SMALL)] if named else [])])
        for group, block in blocks.items()
        for label in block
    }
    stack = Stack(metrics, [len(block) for block in blocks.values()])
    seeds = any(over_seeds(grid, name) for name in metrics)
    row_height = (0.34 if seeds else 0.22) + 0.17 * max(text.count("\n") + 1 for text in names.values())
    sheet = Sheet(ax, WIDTH, stack.lines * (row_height * len(grid) + 0.4 * len(groups) + 0.35) + 0.9)
    places = stack.panels()
    what = ", ".join(f"{name} of {groups[row]}" if named else name for name, row, _ in places)
    for axes, (name, row, column) in zip(sheet.panels(len(places), stack.make, what=what), places, strict=True):
        metric, best, block = metric_of(name), best_cells(grid, name), blocks[groups[row]]
        left, top, bottom = (end or not sheet.own for end in (column == 0, row == 0, row == len(groups) - 1))
        clean(axes)
        axes.grid(False, axis="y")
        compared = block if metric.grouped else {label: cell for (label,), cell in grid.items()}
        low, high = _span([end for cell in compared.values() for end in _ends(cell, name)], metric.limits)
        axes.set(xlim=(low, high), ylim=(len(block) - 0.45, -0.55))
        for spot, (label, cell) in enumerate(block.items()):
            axes.axhline(spot, color=RULE, linewidth=0.8, zorder=0)
            value = figure_of(cell, name)
            if cell["status"] != "done":
                colour = FAILED if cell["status"] == "failed" else MUTED
                axes.text(low, spot, f" {cell['status']}", va="center", fontsize=SMALL, color=colour)
            elif math.isfinite(value):
                ring: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 1.8} if (label,) in best else {}
                colour, interval = DOTS[row % len(DOTS)], interval_of(cell, name)
                if interval is not None:
                    axes.plot(interval, (spot, spot), color=colour, linewidth=2, solid_capstyle="butt")
                    each = values_of(cell, name)
                    axes.plot(each, [spot] * len(each), "|", color=INK, markersize=7, markeredgewidth=0.8)
                axes.plot(value, spot, "o", color=colour, markersize=8, clip_on=False, **ring)
                _value(axes, cell, name, spot, (low, high), above=seeds)
        labelled = block if left else ()
        axes.set_yticks(range(len(labelled)), [names[label, groups[row]] for label in labelled])
        axes.tick_params(axis="y", length=0)
        axes.set_xticks(inner_ticks(low, high, 3))
        if top:
            room = (WIDTH - 1.9) / stack.columns if sheet.own else sheet.size(axes)[0]
            axes.set_title(wrapped(metric.name, room, 11, "bold"), fontsize=11, fontweight="bold")
        if not bottom and not metric.grouped:
            axes.tick_params(axis="x", labelbottom=False)
    return sheet


def _value(axes: Axes, cell: Cell, name: str, spot: int, span: tuple[float, float], *, above: bool) -> None:
    """Write the figure of a cell beside its dot, or above it where there are intervals."""
    value, decimals, interval = figure_of(cell, name), metric_of(name).decimals, interval_of(cell, name)
    words = number(value, decimals)
    if interval is not None:
        words += f" ± {number((interval[1] - interval[0]) / 2, decimals)}"
    low, high = span
    place = (value - low) / (high - low)
    if above:
        side = "left" if place < 0.35 else "right" if place > 0.65 else "center"
        offset, rise = (0.0, 6.0), "bottom"
    else:
        side = "right" if place > 0.5 else "left"
        offset, rise = (-9.0 if side == "right" else 9.0, 0.0), "center"
    text = axes.annotate(words, (value, spot), offset)
    text.set(fontsize=SMALL, color=INK, ha=side, va=rise)
    text.anncoords = "offset points"


def _ends(cell: Cell, name: str) -> tuple[float, ...]:
    """The values that an axis has to hold for a cell: figures of seeds and the ends of their interval."""
    return (*values_of(cell, name), *(interval_of(cell, name) or ()))


def _span(values: Sequence[float], limits: tuple[float, float]) -> tuple[float, float]:
    """The range of an axis, within the limits of its values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    reach = high - low if high > low else 0.2 * abs(high) or 1.0
    return max(low - 0.12 * reach, limits[0]), min(high + 0.12 * reach, limits[1])
