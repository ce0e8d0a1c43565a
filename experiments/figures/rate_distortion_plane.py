"""Rate against distortion of models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures.placing import write_apart
from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    GREY,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    as_array,
    class_styles,
    clean,
)

__all__ = ["rate_distortion"]


def rate_distortion(
    points: Mapping[str, tuple[float, float]], *, measure: str | None = None, ax: Ax | None = None
) -> Figure:
    """Draw models by the rate and the distortion of their bound, with grey lines of equal ELBO.

    The plane is that of Alemi et al. (*Fixing a broken ELBO*, 2018): rate plus distortion is the negative ELBO.

    Args:
        points: By model, its rate, KL(q(z | x) || p(z)), and its distortion, -E_q log p(x|z), in nats per datum and
            against the same measure.
        measure: The measure, for the caption.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If there is no model, or a rate or distortion is not finite.

    Example:
        >>> from latentmix.experiments.figures import rate_distortion
        >>> figure = rate_distortion({"Bernoulli": (25.0, 80.0), "beta 4": (12.0, 99.0)}, measure="mass on {0, 1}")
        >>> figure.axes[0].get_xlabel()
        'rate: KL(q(z | x) || p(z)), nats'
    """
    places = np.array([as_array(point) for point in points.values()])
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"Expected a finite rate and distortion for at least one model; got {dict(points)}.")
    sheet = Sheet(ax, WIDTH, 5.4)
    (axes,) = sheet.panels(1)
    clean(axes, grid=False)
    low, high = places.min(axis=0), places.max(axis=0)
    pad = np.maximum(0.14 * (high - low), 0.05 * (high - low).max() or 1.0)
    axes.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
    _bounds(axes)
    for (colour, marker), (rate, distortion) in zip(class_styles(len(places)), places, strict=True):
        axes.plot(rate, distortion, marker, color=colour, markersize=9, markeredgecolor=PAPER, zorder=3)
    axes.set(xlabel="rate: KL(q(z | x) || p(z)), nats", ylabel="distortion: −E$_q$ log p(x|z), nats")
    sheet.title("Rate against distortion")
    against = f"\nMeasure of the likelihood: {measure}" if measure else ""
    sheet.note(f"Along a grey line their sum, −ELBO, is the same: lower left is better{against}")
    write_apart(sheet.figure if sheet.own else None, axes, places, list(points))
    return sheet.figure


def _bounds(axes: Axes) -> None:
    """Draw and label lines of equal ELBO over the window."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reach = right + top - left - bottom
    decade = 10.0 ** np.floor(np.log10(reach))
    step = decade * next(part for part in (0.1, 0.2, 0.5, 1.0, 2.0) if reach <= 9 * part * decade)
    for total in np.arange(np.ceil((left + bottom) / step), (right + top) / step) * step:
        axes.plot([left, right], [total - left, total - right], color=GREY, linewidth=0.6, zorder=1)
        if bottom < total - right < top:
            where = (right, total - right)
            text = f"{total:g}".replace("-", "−")
            axes.annotate(
                text, where, xytext=(3, 0), textcoords="offset points", fontsize=SMALL, color=MUTED, va="center"
            )
    axes.annotate("−ELBO", (right, top), xytext=(3, 4), textcoords="offset points", fontsize=SMALL, color=MUTED)
