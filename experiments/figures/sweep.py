"""All cells of a sweep in one figure: a tableau of numbers, or rows of dots for a single axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from latentmix.experiments.figures.style import INK, MUTED, clean, new_figure, note, title
from latentmix.experiments.figures.tableau import (
    FAILED,
    METRICS,
    Cell,
    Key,
    best_cells,
    elided,
    figure_of,
    group_of,
    inner_ticks,
    metric_of,
    number,
    tableau,
)

__all__ = ["sweep_overview"]

STATUSES = {"done": "done", "refused": "refused (hatched)", "failed": "failed (×)"}
DOTS = ("#0072B2", "#D55E00", "#7b3294", "#a01800")
FEW = 40


def sweep_overview(
    cells: Sequence[Cell],
    axes: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] | None = None,
    heading: str | None = None,
) -> Figure:
    """Draw metrics of all cells of a grid: for one axis as rows of dots, for two to four axes as a tableau.

    A group has one measure, against which ELBOs are comparable: ELBOs and log-likelihoods have a scale per group, all
    other metrics one scale. If the group depends on one axis only, that axis is the outer one of the rows.

    Args:
        cells: Mappings with `options` (a label by axis), `status` (`done`, `refused` or `failed`) and, if they are
            done, `group` and `figures` (numbers by metric; missing and infinite ones are skipped).
        axes: The labels of one to four axes.
        metrics: Metrics to draw; by default the known ones (ELBO, log-likelihood, MSE, SSIM, KL divergence, accuracy)
            that some cell has, and in tableaux of more than 40 cells only the first of these.
        heading: Title of the figure.

    Raises:
        ValueError: If there are no axes or more than four, if a cell is not on the grid, is repeated or has another
            status, or if no finished cell has a metric.

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
    figure = _rows(grid, drawn) if len(axes) == 1 else tableau(grid, axes, drawn)
    title(figure, heading or f"Sweep over {', '.join(axes)}: {len(grid):,} cell{'s' * (len(grid) > 1)}")
    note(figure, _caption(grid, axes, drawn, float(figure.get_size_inches()[0])))
    return figure


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


def _caption(grid: Mapping[Key, Cell], axes: Mapping[str, Sequence[str]], metrics: Sequence[str], width: float) -> str:
    """Numbers of cells by status, and the legend, wrapped to a `width` in inches."""
    counts = {name: sum(cell["status"] == name for cell in grid.values()) for name in STATUSES}
    words = STATUSES if len(axes) > 1 else {name: name for name in STATUSES}
    sentences = [f"{count:,} {words[name]}" for name, count in counts.items() if count]
    missing = math.prod(len(labels) for labels in axes.values()) - len(grid)
    sentences += [f"{missing:,} not run"] if missing else []
    grouped = any(metric_of(name).grouped for name in metrics)
    groups = len({group_of(cell) for cell in grid.values() if cell["status"] == "done"})
    if any(best_cells(grid, name) for name in metrics):
        sentences.append("ringed: the best" if len(axes) == 1 else "framed: the best; darker is better")
        neither = [metric_of(name).name.split(",")[0] for name in metrics if not metric_of(name).better]
        sentences[-1] += f" (for {', '.join(neither)}: higher)" if neither and len(axes) > 1 else ""
    if grouped and groups > 1:
        sentences.append("ELBOs compare within one measure only")
    return "\n".join(textwrap.wrap("; ".join(sentences), int(13.5 * width)))


def _rows(grid: Mapping[Key, Cell], metrics: Sequence[str]) -> Figure:
    """Draw a row of dots for each cell of one axis, grouped."""
    groups = list(dict.fromkeys(group_of(cell) for cell in grid.values() if cell["status"] == "done")) or [""]
    blocks: dict[str, dict[str, Cell]] = {group: {} for group in groups}
    for (label,), cell in grid.items():
        blocks[group_of(cell) if group_of(cell) in blocks else groups[-1]][label] = cell
    named = len(groups) > 1
    heights = [len(block) for block in blocks.values()]
    height = 0.5 if named else 0.38
    figure = new_figure(
        min(13.0, 2.6 + 2.3 * max(2, len(metrics))), height * len(grid) + 0.45 * len(groups) * named + 1.6
    )
    panels = figure.subplots(len(groups), len(metrics), squeeze=False, height_ratios=heights)
    for column, name in enumerate(metrics):
        metric, best = metric_of(name), best_cells(grid, name)
        together = [figure_of(cell, name) for cell in grid.values()]
        for row, (group, block) in enumerate(blocks.items()):
            axes = panels[row, column]
            clean(axes)
            axes.grid(False, axis="y")
            mine = [figure_of(cell, name) for cell in block.values()]
            low, high = _span(mine if metric.grouped else together)
            axes.set(xlim=(low, high), ylim=(len(block) - 0.45, -0.55))
            for place, (label, cell) in enumerate(block.items()):
                axes.axhline(place, color="#ededed", linewidth=1.0, zorder=0)
                value = figure_of(cell, name)
                if cell["status"] != "done":
                    colour = FAILED if cell["status"] == "failed" else MUTED
                    axes.text(low, place, f" {cell['status']}", va="center", fontsize=9.5, color=colour)
                elif math.isfinite(value):
                    ring = {"markeredgecolor": "black", "markeredgewidth": 1.8} if (label,) in best else {}
                    axes.plot(value, place, "o", color=DOTS[row % len(DOTS)], markersize=8, **ring)
                    text = number(value, metric.decimals)
                    axes.annotate(
                        text, (value, place), (8, 0), textcoords="offset points", va="center", fontsize=9.5, color=INK
                    )
            names = [f"{elided(label)}\n{group}" if named else elided(label) for label in block]
            axes.set_yticks(range(len(block)), names if column == 0 else [])
            axes.tick_params(axis="y", length=0)
            axes.set_xticks(inner_ticks(low, high))
            if row == 0:
                axes.set_title(metric.name, fontsize=10.5, fontweight="bold")
            if row < len(groups) - 1 and not metric.grouped:
                axes.tick_params(axis="x", labelbottom=False)
    return figure


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis, with room for numbers to the right of the dots."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    reach = high - low if high > low else 0.2 * abs(high) or 1.0
    return low - 0.12 * reach, high + 0.55 * reach
