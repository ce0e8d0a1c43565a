"""Rate against distortion of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from latentmix.experiments.figures.style import (
    INK,
    MUTED,
    Array,
    as_array,
    class_styles,
    clean,
    new_figure,
    note,
    title,
)

__all__ = ["rate_distortion"]

Box = tuple[float, float, float, float]


def rate_distortion(points: Mapping[str, tuple[float, float]], *, measure: str | None = None) -> Figure:
    """Draw models by the rate and the distortion of their bound, with grey lines of equal ELBO.

    The plane is that of Alemi et al. (*Fixing a broken ELBO*, 2018): rate plus distortion is the negative ELBO.

    Args:
        points: By model, its rate, KL(q(z | x) || p(z)), and its distortion, -E log p(x | z), in nats per datum and
            against the same measure.
        measure: The measure, for the caption.

    Example:
        >>> from latentmix.experiments.figures import rate_distortion
        >>> figure = rate_distortion({"Bernoulli": (25.0, 80.0), "beta 4": (12.0, 99.0)}, measure="mass on {0, 1}")
        >>> figure.axes[0].get_xlabel()
        'rate: KL(q(z | x) || p(z)), nats'
    """
    places = np.array([as_array(point) for point in points.values()])
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"Expected a finite rate and distortion for at least one model; got {dict(points)}.")
    figure = new_figure(7.2, 5.2)
    axes = figure.add_subplot()
    clean(axes, grid=False)
    low, high = places.min(axis=0), places.max(axis=0)
    pad = np.maximum(0.14 * (high - low), 0.05 * (high - low).max() or 1.0)
    axes.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
    _bounds(axes)
    for (colour, marker), (rate, distortion) in zip(class_styles(len(places)), places, strict=True):
        axes.plot(rate, distortion, marker, color=colour, markersize=9, markeredgecolor="white", zorder=3)
    axes.set(xlabel="rate: KL(q(z | x) || p(z)), nats", ylabel="distortion: −E log p(x | z), nats")
    title(figure, "Rate against distortion")
    against = f"\nMeasure of the likelihood: {measure}" if measure else ""
    note(figure, f"Along a grey line their sum, −ELBO, is the same: lower left is better{against}")
    _label(figure, axes, places, list(points))
    return figure


def _bounds(axes: Axes) -> None:
    """Draw and label lines of equal ELBO over the window."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reach = right + top - left - bottom
    decade = 10.0 ** np.floor(np.log10(reach))
    step = decade * next(part for part in (0.1, 0.2, 0.5, 1.0, 2.0) if reach <= 9 * part * decade)
    for total in np.arange(np.ceil((left + bottom) / step), (right + top) / step) * step:
        axes.plot([left, right], [total - left, total - right], color="#d4d4d4", linewidth=1.0, zorder=1)
        if bottom < total - right < top:
            where = (right, total - right)
            text = f"{total:g}".replace("-", "−")
            axes.annotate(text, where, xytext=(3, 0), textcoords="offset points", fontsize=9, color=MUTED, va="center")
    axes.annotate("−ELBO", (right, top), xytext=(3, 4), textcoords="offset points", fontsize=9, color=MUTED)


def _label(figure: Figure, axes: Axes, places: Array, names: Sequence[str]) -> None:
    """Write a name beside each place, overlapping other names, places and edges as little as possible."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    dots = axes.transData.transform(places)
    window = axes.get_window_extent()
    taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in dots]
    for k, (name, place) in enumerate(zip(names, places, strict=True)):
        best: tuple[float, Annotation, Box] | None = None
        for reach in (9, 18, 30, 45, 60):
            for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1), (-1, 2), (1, 2)):
                line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 3}
                text = axes.annotate(
                    name,
                    place,
                    xytext=(reach * across, reach * up),
                    textcoords="offset points",
                    arrowprops=line if reach > 9 else None,
                )
                text.set(fontsize=10, color=INK, zorder=4)
                text.set(ha=("right", "center", "left")[across + 1], va=("top", "center", "bottom")[min(up, 1) + 1])
                text.get_window_extent(renderer)  # places the text; its result includes the line
                x0, y0, x1, y1 = (float(end) for end in Text.get_window_extent(text, renderer).extents)
                cost = 10.0 * sum(_overlap((x0, y0, x1, y1), other) for other in taken)
                cost += (x1 - x0) * (y1 - y0) - _overlap((x0, y0, x1, y1), tuple(window.extents))
                cost += 400.0 * _nearer_another((x0, y0, x1, y1), dots, k)
                if best is None or cost < best[0] - 1e-6:
                    if best is not None:
                        best[1].remove()
                    best = (cost, text, (x0, y0, x1, y1))
                else:
                    text.remove()
        if best is not None:
            taken.append(best[2])


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
