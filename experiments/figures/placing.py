"""Texts beside the places that they name, kept apart from one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.style import INK, MUTED, Array, settle, text_width

__all__ = ["write_apart"]

Box = tuple[float, float, float, float]
WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1), (-1, 2), (1, 2), (2, 1), (-2, 1))
REACHES = (9.0, 18.0, 30.0, 45.0, 60.0, 80.0, 105.0)


def write_apart(
    figure: Figure | None,
    axes: Axes,
    places: Array,
    texts: Sequence[str],
    *,
    size: float = 10.0,
    boxes: Sequence[dict[str, Any]] | None = None,
    pad: float = 0.0,
) -> None:
    """Write a text at each place, overlapping other texts, places and edges as little as possible.

    A text that is moved away from its place is joined to it by a line. Call it last: it lays the figure out.

    Args:
        figure: The figure to lay out; `None` to take the axes as they now lie.
        axes: Its axes, with their limits set.
        places: An `n x 2` array in the coordinates of the data.
        texts: n texts of one line.
        size: Their font size, in points.
        boxes: The box around each text; texts with boxes may cover their own place, others stand beside it.
        pad: Room of a box around its text, in points.
    """
    if figure is None:
        axes.apply_aspect()
    else:
        settle(figure)
    unit = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    dots = axes.transData.transform(places)
    window = tuple(float(end) for end in axes.get_window_extent().extents)
    taken: list[Box] = [] if boxes else [(x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit) for x, y in dots]
    for k, (text, dot) in enumerate(zip(texts, dots, strict=True)):
        extent = np.array([max(72 * text_width(text, size), size), 1.15 * size]) / 2 + pad
        choices = [(0.0, (0, 0))] if boxes else []
        choices += [(reach, way) for reach in REACHES for way in WAYS]

        def cost(choice: tuple[float, tuple[int, int]], dot: Array = dot, extent: Array = extent, k: int = k) -> float:
            box = _box(dot, choice, extent, unit)
            area = (box[2] - box[0]) * (box[3] - box[1])
            overlaps = sum(_overlap(box, other) for other in taken)
            away = 0.0 if boxes else 400.0 * _nearer_another(box, dots, k)
            return 10.0 * (overlaps + area - _overlap(box, window)) + away + 0.5 * choice[0]

        best = min(choices, key=cost)
        taken.append(_box(dot, best, extent, unit))
        middle = (np.array(taken[-1][:2]) + taken[-1][2:]) / 2
        moved = best[0] > (0.0 if boxes else REACHES[0])
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2}
        written = axes.annotate(
            text,
            (places[k][0], places[k][1]),
            xytext=tuple((middle - dot) / unit),
            textcoords="offset points",
            arrowprops=line if moved else None,
            bbox=boxes[k] if boxes else None,
        )
        written.set(fontsize=size, color=INK, ha="center", va="center_baseline", zorder=5)
        written.set_in_layout(False)


def _box(dot: Array, choice: tuple[float, tuple[int, int]], extent: Array, unit: float) -> Box:
    """The box of a text at an offset from its dot, in pixels."""
    reach, way = choice
    side = np.clip(way, -1, 1)
    x, y = dot + (reach * np.array(way) + side * extent) * unit
    across, up = extent * unit
    return float(x - across), float(y - up), float(x + across), float(y + up)


def _nearer_another(box: Box, dots: Array, own: int) -> bool:
    """Whether another dot is nearer to a box (left, bottom, right, top) than its own."""
    nearest = dots.clip(box[:2], box[2:])
    distances = np.hypot(*(dots - nearest).T)
    return bool(distances.argmin() != own)


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Area of the intersection of two boxes (left, bottom, right, top)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
