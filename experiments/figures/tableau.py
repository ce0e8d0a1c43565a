"""Tableaux of many cells: combinations of up to two axes in rows and in columns, coloured within each group."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    GREY,
    INK,
    LARGE,
    LIGHT,
    MUTED,
    PAPER,
    RED,
    SHADE,
    SMALL,
    WIDTH,
    fitted,
    new_figure,
    note,
    shortened,
    text_width,
    title,
    wrapped,
)
from latentmix.experiments.options.names import LEVEL
from latentmix.inference.intervals import mean_interval
from latentmix.inference.rank_ranges import rank_ranges

__all__ = [
    "METRICS",
    "Cell",
    "Key",
    "Metric",
    "best_cells",
    "figure_of",
    "group_of",
    "inner_ticks",
    "interval_of",
    "metric_of",
    "number",
    "over_seeds",
    "tableau",
    "values_of",
]

Cell = Mapping[str, Any]
Key = tuple[str, ...]

REFUSED, HATCH, FAILED = SHADE, GREY, RED
GROUP_HUES = ("Blues", "Oranges", "Purples", "Reds")
COMMON_HUE, NEUTRAL_HUE = "Greens", "Greys"
COLUMNS = 21  # of a full page
PAGE, CELL_HEIGHT, BAR, APART = 12.8, 0.34, 1.7, 0.3  # inches: a full page, a cell, a colour bar, between panels
TALL = 0.5  # inches: a cell with its error below the number
ABOVE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}


@final
@dataclass(frozen=True)
class Metric:
    """A metric of the cells: its name, format and direction.

    Args:
        name: Name with its unit.
        decimals: Most decimals of a number.
        better: Whether higher (1) or lower (-1) is better, or neither (0).
        grouped: Whether only cells of one group are comparable.
        limits: The lowest and the highest value that is possible.
    """

    name: str
    decimals: int = 3
    better: int = 0
    grouped: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)


METRICS = {
    "elbo": Metric("ELBO, nats", 1, 1, grouped=True),
    "log_likelihood": Metric("E$_q$ log p(x|z), nats", 1, 1, grouped=True),
    "mse": Metric("MSE", 4, -1, limits=(0.0, math.inf)),
    "ssim": Metric("SSIM", 3, 1, limits=(-1.0, 1.0)),
    "kl": Metric("KL divergence, nats", 1),
    "accuracy_em_none": Metric("accuracy: EM, no labels", 3, 1, limits=(0.0, 1.0)),
}


def metric_of(name: str) -> Metric:
    """The metric of that name; an unknown one has no direction and compares all cells."""
    return METRICS.get(name, Metric(name.replace("_", " ")))


def values_of(cell: Cell, name: str) -> list[float]:
    """The finite values of a figure of a cell: one, or one for each seed."""
    value = (cell.get("figures") or {}).get(name)
    values = [] if value is None else list(value) if isinstance(value, Sequence) else [value]
    return [float(each) for each in values if math.isfinite(each)]


def figure_of(cell: Cell, name: str) -> float:
    """A figure of a cell, or its mean over seeds; NaN if it is missing."""
    values = values_of(cell, name)
    return math.fsum(values) / len(values) if values else math.nan


def interval_of(cell: Cell, name: str) -> tuple[float, float] | None:
    """The Student t interval of the mean of a figure over seeds, of `LEVEL`; `None` without several seeds."""
    interval = mean_interval(values, LEVEL) if len(values := values_of(cell, name)) > 1 else None
    return None if interval is None else (interval.low, interval.high)


def over_seeds(grid: Mapping[Key, Cell], name: str) -> bool:
    """Whether some cell has a figure of several seeds."""
    return any(len(values_of(cell, name)) > 1 for cell in grid.values())


def group_of(cell: Cell) -> str:
    """The group of a cell; empty if it has none."""
    return str(cell.get("group") or "")


def best_cells(grid: Mapping[Key, Cell], name: str) -> set[Key]:
    """The cells that may be the best of their group, or of all if the metric compares all; none if all may.

    Without seeds it is the cell with the best figure. Over seeds it is every cell whose interval none lies above (or
    below, if lower is better); a cell of one seed has no interval, and may be the best.
    """
    metric, best = metric_of(name), set()
    for members in _scales(grid, metric).values():
        known = [key for key in members if values_of(grid[key], name)]
        if not metric.better or len(known) < 2:
            continue
        several = over_seeds({key: grid[key] for key in known}, name)
        ranges = rank_ranges([_rankable(grid[key], name, metric.better, several) for key in known])
        first = [key for key, (place, _) in zip(known, ranges, strict=True) if place == 1]
        best |= set(first) if len(first) < len(known) else set()
    return best


def _rankable(cell: Cell, name: str, better: int, several: bool) -> tuple[float, float]:
    """An interval of a figure, higher if better: without seeds the figure alone, with one seed of several anything."""
    figure = better * figure_of(cell, name)
    if not several:
        return figure, figure
    low, high = sorted(better * end for end in interval_of(cell, name) or (-math.inf, math.inf))
    return low, high


def tableau(
    grid: Mapping[Key, Cell],
    axes: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    *,
    heading: str,
    caption: str,
    ax: Ax | None = None,
) -> Figure:
    """Draw a tableau of each metric.

    Args:
        grid: Cells by their labels, in the order of the axes.
        axes: The labels of each of two to four axes.
        metrics: The metrics.
        heading: Title of the figure.
        caption: Text below the figure.
        ax: Axes of the caller's figure to draw into, one for each metric; by default a new figure is made.
    """
    parts = arrange(grid, axes)
    rows, columns = (math.prod(len(axes[name]) for name in part) for part in parts)
    left = (
        max(sum(_longest(axes[name]) + 0.16 for name in parts[0]), text_width("\n".join(_corner(parts)), SMALL) + 0.1)
        + 0.1
    )
    if ax is not None:
        return _within(Sheet(ax, WIDTH, WIDTH), grid, axes, parts, metrics, left)
    names = [wrapped(metric_of(name).name, 2.0, 11, "bold") for name in metrics]
    most = WIDTH if left + 0.5 * columns <= WIDTH else PAGE
    narrowest = max(BAR, 0.5 * columns, *(text_width(name, 11, "bold") for name in names))
    abreast = int(np.clip((most - left) / (narrowest + APART), 1, len(metrics)))
    lines = -(-len(metrics) // abreast)
    abreast = -(-len(metrics) // lines)
    cell = float(np.clip((most - left) / abreast - APART, min(narrowest, most - left), max(0.62 * columns, narrowest)))
    cell /= columns
    tall = any(over_seeds(grid, name) for name in metrics)
    width, height = cell * columns, (TALL if tall else CELL_HEIGHT) * rows
    turned = _longest(axes[parts[1][-1]]) > cell - 0.06
    top = 0.19 * max(name.count("\n") + 1 for name in names) + 0.26 * (len(parts[1]) - 1)
    top += (_longest(axes[parts[1][-1]]) if turned else 0.16) + 0.26

    labels = {name: _bar_labels(_scales(grid, metric_of(name))) for name in metrics}
    step = 0.4 + 0.17 * max((label.count("\n") + bool(label) for each in labels.values() for label in each), default=0)
    bars_abreast = max(1, int((width + APART) / (BAR + APART)))
    bottoms = [
        0.2
        + step * max(-(-len(labels[name]) // bars_abreast) for name in metrics[line * abreast : (line + 1) * abreast])
        for line in range(lines)
    ]
    page = left + abreast * (width + APART)
    figure = new_figure(max(page, 6.5), 1.0)
    figure.set_layout_engine("none")
    title(figure, heading)
    note(figure, caption)
    head = 0.4 + LARGE / 60 * (figure.get_suptitle().count("\n") + 1)
    foot = 0.15 + SMALL / 60 * (figure.get_supxlabel().count("\n") + 1)
    figure.set_size_inches(figure.get_size_inches()[0], head + lines * (top + height) + sum(bottoms) + foot)

    def add(x: float, y: float, wide: float, high: float) -> Axes:
        """Axes in inches from the left and from the top."""
        size = figure.get_size_inches()
        x += max(0.0, size[0] - page) / 2
        return figure.add_axes((x / size[0], 1.0 - (y + high) / size[1], wide / size[0], high / size[1]))

    def corner(place: int) -> tuple[float, float]:
        line = place // abreast
        x = left + (place % abreast) * (width + APART)
        return x, head + line * (top + height) + sum(bottoms[:line]) + top

    panels = [add(*corner(place), width, height) for place in range(len(metrics))]
    for place, (panel, name) in enumerate(zip(panels, metrics, strict=True)):
        x, y = corner(place)
        scales = _paint(panel, grid, axes, parts, name, cell)
        _labels(panel, axes, parts, first=place % abreast == 0, turned=turned)
        above = panel.annotate(names[place], (0.5, 1.0), (0, 72 * top - 6), **ABOVE)
        above.set(fontsize=11, fontweight="bold", color=INK, ha="center", va="top")
        in_row = min(bars_abreast, len(scales))
        long = min(3.2, (width - APART * (in_row - 1)) / max(in_row, 1))
        start = x + (width - in_row * long - APART * (in_row - 1)) / 2
        for k, (colours, label) in enumerate(zip(scales.values(), labels[name], strict=True)):
            spot = start + (k % in_row) * (long + APART), y + height + 0.15 + step * (k // in_row)
            _bar(figure, add(*spot, long, 0.12), *colours, label=label)
    return figure


def _within(
    sheet: Sheet,
    grid: Mapping[Key, Cell],
    axes: Mapping[str, Sequence[str]],
    parts: tuple[Key, Key],
    metrics: Sequence[str],
    left: float,
) -> Figure:
    """Draw tableaux into axes of the caller's, where words name the colours of several measures.

    Labels of the rows, `left` inches wide, take their room from the panel if the figure has a layout engine.
    """
    columns = math.prod(len(axes[name]) for name in parts[1])
    for panel, name in zip(sheet.panels(len(metrics), what=", ".join(metrics)), metrics, strict=True):
        width, _ = sheet.size(panel)
        if sheet.figure.get_layout_engine() is not None:
            width = max(width - left, width / 3)
        scales = _paint(panel, grid, axes, parts, name, width / columns)
        turned = _longest(axes[parts[1][-1]]) > width / columns - 0.06
        _labels(panel, axes, parts, first=True, turned=turned, block=width / len(axes[parts[1][0]]))
        text = wrapped(metric_of(name).name, width, 11, "bold")
        above = 6 + 72 * 0.26 * (len(parts[1]) - 1)
        panel.set_title(text, fontsize=11, fontweight="bold", color=INK, pad=above)
        if len(scales) > 1:
            hues = [GROUP_HUES[k % len(GROUP_HUES)].lower().removesuffix("s") for k in range(len(scales))]
            words = "\n".join(f"{hue}: {scale}" for hue, scale in zip(hues, scales, strict=True))
            panel.set_xlabel(wrapped(words, width, SMALL), fontsize=SMALL, color=INK)
    return sheet.figure


def _bar_labels(scales: Mapping[str, Any]) -> list[str]:
    """The measure of each of several scales, broken to the width of its bar."""
    return [wrapped(scale, BAR, SMALL) if len(scales) > 1 else "" for scale in scales]


def arrange(grid: Mapping[Key, Cell], axes: Mapping[str, Sequence[str]]) -> tuple[Key, Key]:
    """The axes of the rows and those of the columns, outer ones first.

    An axis that determines the group is the first of the rows; otherwise numbers of rows and columns are balanced.
    """
    names = list(axes)
    groups = {group_of(cell) for cell in grid.values() if cell["status"] == "done"}
    decisive = [name for k, name in enumerate(names) if len(groups) > 1 and _decides(grid, k)]

    def cost(part: Key) -> tuple[bool, float]:
        count = [math.prod(len(axes[name]) for name in names if (name in part) == inside) for inside in (True, False)]
        outside = bool(decisive) and decisive[0] not in part
        return outside, abs(count[0] - count[1]) + 10.0 * max(0, count[1] - COLUMNS)

    sizes = {2: (1,), 3: (1, 2), 4: (2,)}[len(names)]
    parts = [part for size in sizes for part in itertools.combinations(names, size)]
    rows = min(parts, key=cost)
    return tuple(sorted(rows, key=lambda name: name not in decisive[:1])), tuple(n for n in names if n not in rows)


def _decides(grid: Mapping[Key, Cell], axis: int) -> bool:
    groups_of: dict[str, set[str]] = {}
    for key, cell in grid.items():
        if cell["status"] == "done":
            groups_of.setdefault(key[axis], set()).add(group_of(cell))
    return all(len(groups) == 1 for groups in groups_of.values())


def _scales(grid: Mapping[Key, Cell], metric: Metric) -> dict[str, list[Key]]:
    """The finished cells of each scale, by the name of the scale."""
    scales: dict[str, list[Key]] = {}
    for key, cell in grid.items():
        if cell["status"] == "done":
            scales.setdefault(group_of(cell) if metric.grouped else "", []).append(key)
    return scales


def _paint(
    panel: Axes,
    grid: Mapping[Key, Cell],
    axes: Mapping[str, Sequence[str]],
    parts: tuple[Key, Key],
    name: str,
    width: float,
) -> dict[str, tuple[Colormap, Normalize, str]]:
    """Colour and number every cell; returns the colours, range and open ends of each scale."""
    metric, names = metric_of(name), list(axes)
    rows, columns = (list(itertools.product(*(axes[axis] for axis in part))) for part in parts)
    place = {
        tuple(dict(zip((*parts[0], *parts[1]), (*row, *column), strict=True))[axis] for axis in names): (i, j)
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns))
    }
    scales = {}
    canvas = np.ones((len(rows), len(columns), 3))
    size, seeds = 9.5 if width >= 0.5 else 8.5, over_seeds(grid, name)
    room = int((72 * width - 4) / (0.6 * size))
    decimals = _decimals([figure_of(grid[key], name) for key in grid], metric.decimals, room)
    for k, (scale, members) in enumerate(_scales(grid, metric).items()):
        hue = GROUP_HUES[k % len(GROUP_HUES)] if metric.grouped else COMMON_HUE if metric.better else NEUTRAL_HUE
        colours = _colours(hue, metric.better)
        norm, extend = _range(np.array([figure_of(grid[key], name) for key in members]))
        scales[scale] = (colours, norm, extend)
        for key in members:
            value = figure_of(grid[key], name)
            if math.isfinite(value):
                canvas[place[key]] = colours(float(norm(value)))[:3]
            text = _short(value, decimals, room) if math.isfinite(value) else "–"
            colour = PAPER if float(canvas[place[key]] @ (0.299, 0.587, 0.114)) < 0.55 else INK
            error = _error(grid[key], name, decimals, room) if seeds else ""
            i, j = place[key]
            _write(panel, (i - 0.2 * bool(error), j), text if len(text) <= room else "", colour, size)
            _write(panel, (i + 0.25, j), error, colour, size - 1.5)
    panel.imshow(canvas, aspect="auto", interpolation="nearest")
    for key, cell in grid.items():
        i, j = place[key]
        if cell["status"] == "refused":
            panel.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=REFUSED, edgecolor=HATCH, hatch="////", linewidth=0)
            )
        elif cell["status"] == "failed":
            _write(panel, (i, j), "×", FAILED, 13.0)
    _rule(panel, [len(axes[part[-1]]) if len(part) > 1 else 0 for part in parts], (len(rows), len(columns)))
    for key in best_cells(grid, name):
        i, j = place[key]
        frame = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor=INK, linewidth=2.4, zorder=4)
        frame.set_clip_on(False)
        panel.add_patch(frame)
    return scales


def _error(cell: Cell, name: str, decimals: int, room: int) -> str:
    """Half the interval of a cell in words, or that it has one seed; empty if there is no room for it."""
    interval = interval_of(cell, name)
    if interval is None:
        text = "1 seed" if values_of(cell, name) else ""
    else:
        text = f"±{_short((interval[1] - interval[0]) / 2, decimals, room - 1)}"
    return text if len(text) <= room + 1 else ""


def _write(panel: Axes, place: tuple[float, float], text: str, colour: str, size: float) -> None:
    if text:
        panel.text(place[1], place[0], text, ha="center", va="center", fontsize=size, color=colour, zorder=3)


def _rule(panel: Axes, blocks: Sequence[int], shape: tuple[int, int]) -> None:
    """Draw white lines between cells, wider ones between blocks, and an outline."""
    for axis, block in enumerate(blocks):
        draw = panel.axvline if axis else panel.axhline
        for line in range(1, shape[axis]):
            draw(line - 0.5, color=PAPER, linewidth=4.5 if block and line % block == 0 else 1.0, zorder=2)
    panel.spines[:].set_color(GREY)


def _labels(
    panel: Axes,
    axes: Mapping[str, Sequence[str]],
    parts: tuple[Key, Key],
    *,
    first: bool,
    turned: bool,
    block: float = math.inf,
) -> None:
    """Write the labels of the inner axes beside the cells, those of the outer axes outside, and the axes' names.

    Labels of outer columns are elided to `block` inches.
    """
    rows, columns = ([[shortened(label) for label in axes[name]] for name in part] for part in parts)
    blocks = [len(part[0]) if len(part) > 1 else 1 for part in (rows, columns)]
    panel.tick_params(length=0, labelsize=SMALL, labelcolor=INK, pad=4, top=True, labeltop=True, labelbottom=False)
    panel.set_xticks(range(len(columns[-1]) * blocks[1]), columns[-1] * blocks[1], rotation=90 if turned else 0)
    panel.set_yticks(range(len(rows[-1]) * blocks[0]), rows[-1] * blocks[0] if first else [])
    if len(columns) > 1:
        beyond = 72 * (_longest(columns[-1]) if turned else 0.16) + 10
        for k, label in enumerate(columns[0]):
            text = fitted(label, block, 1, SMALL, "bold")
            name = panel.annotate(text, ((k + 0.5) / blocks[1], 1.0), (0, beyond), **ABOVE)
            name.set(fontsize=SMALL, fontweight="bold", color=INK, ha="center", va="bottom")
    if not first:
        panel.set_yticks([])
        return
    if len(rows) > 1:
        beyond = 72 * (_longest(rows[-1]) + 0.16)
        for k, label in enumerate(rows[0]):
            name = panel.annotate(label, (0.0, 1.0 - (k + 0.5) / blocks[0]), (-beyond, 0), **ABOVE)
            name.set(fontsize=SMALL, fontweight="bold", color=INK, ha="right", va="center")
    names = panel.annotate("\n".join(_corner(parts)), (0.0, 1.0), (-6, 6), **ABOVE)
    names.set(fontsize=SMALL, color=MUTED, ha="right", va="bottom")


def _corner(parts: tuple[Key, Key]) -> list[str]:
    return [f"{side}: {', '.join(part)}" for side, part in zip(("rows", "columns"), parts, strict=True)]


def _bar(figure: Figure, axes: Axes, colours: Colormap, norm: Normalize, extend: str, *, label: str) -> None:
    """Draw a colour bar, whose colours stay in dark variants as those of the cells do."""
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend=extend)
    bar.set_ticks(inner_ticks(float(norm.vmin or 0.0), float(norm.vmax or 0.0), 3))
    bar.ax.tick_params(labelsize=9.5, length=2, labelcolor=INK)
    bar.outline.set_visible(False)
    axes.set_gid(LIGHT)
    bar.set_label(label, fontsize=SMALL, color=INK)


def _colours(hue: str, better: int) -> Colormap:
    """A colour map of one hue, darker for better values."""
    shades = colormaps[hue](np.linspace(0.08, 0.88, 256))
    return ListedColormap(shades[::-1] if better < 0 else shades)


def _range(values: Any) -> tuple[Normalize, str]:
    """A colour range in which outliers take the colours of its ends, and the open ends."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Normalize(0.0, 1.0), "neither"
    low, high = np.quantile(finite, [0.1, 0.9])
    reach = high - low if high > low else np.inf
    bottom = float(finite[finite >= low - reach].min())
    top = float(finite[finite <= high + reach].max())
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = ends[bool(finite.min() < bottom), bool(finite.max() > top)]
    if top - bottom <= 1e-9 * max(abs(top), 1e-9):
        bottom, top = bottom - 0.5 * max(abs(bottom), 1e-3), top + 0.5 * max(abs(top), 1e-3)
    return Normalize(bottom, top, clip=True), extend


def _decimals(values: Sequence[float], most: int, room: int) -> int:
    """The most decimals that nine in ten numbers have room for."""
    finite = [value for value in values if math.isfinite(value)]
    for decimals in range(most, 0, -1):
        if finite and np.mean([len(number(value, decimals)) <= room for value in finite]) >= 0.9:
            return decimals
    return 0


def _short(value: float, decimals: int, room: int) -> str:
    """A number, shortened to fit if necessary."""
    text = number(value, decimals)
    if len(text) > room:
        text = number(value, 0)
    if len(text) > room:
        power = math.floor(math.log10(abs(value)) / 3)
        text = f"{value / 1000**power:.0f}{('', 'k', 'M', 'G', 'T')[min(power, 4)]}".replace("-", "−")
    return text


def inner_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers inside a scale, far enough from its ends for their labels."""
    margin = 0.07 * (high - low)
    ticks = [float(tick) for tick in MaxNLocator(count).tick_values(low, high)]
    return [tick for tick in ticks if low + margin <= tick <= high - margin]


def number(value: float, decimals: int) -> str:
    """A number with a typographic minus."""
    return f"{value:.{decimals}f}".replace("-", "−")


def _longest(labels: Sequence[str]) -> float:
    """Length of the longest label, in inches."""
    return max(text_width(shortened(label), SMALL) for label in labels)
