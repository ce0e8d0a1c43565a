"""Texts of figures, and where they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from latentmix.experiments.figures.style import settle

__all__ = ["overlapping", "texts"]


def texts(figure: Figure) -> list[str]:
    """All visible texts of a figure."""
    settle(figure)
    return [text.get_text().strip() for text in figure.findobj(Text) if text.get_visible()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts that overlap one another, or leave the figure."""
    settle(figure)
    width, height = figure.bbox.size
    unseen = set(_labels_out_of_view(figure))
    boxes = [
        (text.get_text().strip(), Text.get_window_extent(text).padded(-1))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in unseen
    ]
    boxes = list({(labels, tuple(box.extents)): (labels, box) for labels, box in boxes}.values())
    outside = [(s, "edge") for s, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    corners = np.array([box.extents for _, box in boxes])
    met = np.minimum(corners[:, None, 2:], corners[None, :, 2:]) > np.maximum(
        corners[:, None, :2], corners[None, :, :2]
    )
    return outside + [(boxes[a][0], boxes[b][0]) for a, b in np.argwhere(met.all(axis=2)) if a < b]


def _labels_out_of_view(figure: Figure) -> Iterator[Text]:
    """Labels of ticks beyond the limits of their axis, which are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - margin <= tick.get_loc() <= high + margin:
                    yield from (tick.label1, tick.label2)
