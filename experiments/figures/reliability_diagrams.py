"""Reliability diagrams: accuracy by confidence, of plug-in and of averaged class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    GREY,
    MUTED,
    PURPLE,
    WIDTH,
    check_same_length,
    clean,
    titled,
)

__all__ = ["reliability"]

ABREAST = 2
STYLES = (("plug_in", "at the mean of q (plug-in)", GREY, "s"), ("draws", "mean over {n} draws of q", PURPLE, "o"))


def reliability(
    fits: Mapping[str, Mapping[str, Any]],
    *,
    heading: str = "Accuracy by confidence",
    thing: str = "image",
    abreast: int = ABREAST,
    ax: Ax | None = None,
) -> Figure:
    """Draw the accuracy of the data in each bin of confidence, plug-in beside averaged, and how many they are.

    A curve under the diagonal means overconfidence. Bins without data are left out; areas of markers grow with the
    share of the data in the bin, and bars below give that share.

    Args:
        fits: By the name of the fit, as `plug_in` and `draws` the figures of `calibration`, and perhaps `n_draws`.
        heading: Title of the figure.
        thing: Word for a datum.
        abreast: Fits in a row.
        ax: Two axes of the caller's figure to draw into for each fit: for its curves and, next, for the bars.

    Raises:
        ValueError: If there is no fit, the bins of one have different lengths, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import reliability
        >>> bins = {"count": [2, 8], "confidence": [0.4, 0.9], "accuracy": [0.5, 0.8]}
        >>> curve = {"bins": bins, "ece": 0.1}
        >>> len(reliability({"EM": {"n_draws": 100, "plug_in": curve, "draws": curve}}).axes)
        2
    """
    if not fits:
        raise ValueError("Expected fits with figures of calibration; got none.")
    across = min(len(fits), abreast)
    down = -(-len(fits) // across)
    room, lines = (WIDTH - 0.8) / across - 0.65, 3 if across < 3 else 2
    texts = {
        name: titled(name, "ECE {:.3f} → {:.3f}".format(*_errors(figures)), room, lines)
        for name, figures in fits.items()
    }
    above = 0.18 * max(text.count("\n") for text in texts.values())

    def make(figure: Figure) -> list[Axes]:
        grid = figure.subplots(2 * down, across, squeeze=False, sharex=True, height_ratios=[3.2, 1.0] * down)
        pairs = [grid[2 * row : 2 * row + 2, column] for row in range(down) for column in range(across)]
        for axes in np.ravel(pairs[len(fits) :]):
            axes.set_axis_off()
        return list(np.ravel(pairs[: len(fits)]))

    sheet = Sheet(ax, WIDTH, (3.55 + above) * down + 0.95)
    what = ", ".join(f"{part} of {name}" for name in fits for part in ("curves", "bars"))
    panels = sheet.panels(2 * len(fits), make, what=what)
    for index, (name, figures) in enumerate(fits.items()):
        upper, lower = panels[2 * index : 2 * index + 2]
        _panel(upper, lower, figures)
        upper.set_title(texts[name])
        if index % across == 0 or not sheet.own:
            upper.set_ylabel("accuracy")
            lower.set_ylabel(f"share of\n{thing}s".replace("datums", "data"))
        lower.set_xlabel("confidence")
        lower.xaxis.set_tick_params(labelbottom=True)
    sheet.title(heading)
    sheet.note("Under the diagonal: overconfident. ECE: mean distance from it, weighted by the share of each bin.")
    draws = next(iter(fits.values())).get("n_draws", "")
    handles = [
        Line2D([], [], color=colour, marker=marker, label=label.format(n=draws).replace("  ", " "))
        for _, label, colour, marker in STYLES
    ]
    sheet.legend([*handles, Line2D([], [], color=MUTED, linestyle="--", linewidth=1.0, label="calibrated")])
    return sheet.figure


def _errors(figures: Mapping[str, Any]) -> list[float]:
    return [figures[key]["ece"] for key, *_ in STYLES]


def _panel(upper: Axes, lower: Axes, figures: Mapping[str, Any]) -> None:
    upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.0, zorder=1)
    for shift, (key, _, colour, marker) in zip((-1, 1), STYLES, strict=True):
        bins = {part: np.asarray(values, dtype=float) for part, values in figures[key]["bins"].items()}
        check_same_length(**bins)
        share = bins["count"] / max(bins["count"].sum(), 1.0)
        held = share > 0
        x, y = bins["confidence"][held], bins["accuracy"][held]
        upper.plot(x, y, color=colour, linewidth=1.4, zorder=2)
        upper.scatter(x, y, s=14 + 160 * share[held], color=colour, marker=marker, linewidth=0, zorder=3)
        width = 1 / len(share)
        places = (np.arange(len(share)) + 0.5) * width
        lower.bar(places + shift * 0.2 * width, share, 0.4 * width, color=colour)
    clean([upper, lower])
    upper.set_xlim(-0.02, 1.04)
    lower.set_xlim(-0.02, 1.04)
    upper.set_ylim(-0.03, 1.05)
    lower.set_ylim(0, 1.05)
    lower.set_yticks([0.0, 0.5, 1.0], ["0%", "50%", "100%"])
