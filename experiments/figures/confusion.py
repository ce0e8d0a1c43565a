"""Confusion matrices, side by side or below one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    INK,
    MUTED,
    PAPER,
    SMALL,
    WIDTH,
    as_array,
    check_finite,
    class_names,
    text_width,
    titled,
)

__all__ = ["confusion_matrices"]

ABREAST = 5  # most classes of matrices that stand side by side


def confusion_matrices(
    matrices: Mapping[str, ArrayLike | Tensor],
    classes: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    kind: str = "class",
    titles: Mapping[str, str] | None = None,
    heading: str = "Test images by true class and by the class of their component",
    abreast: int | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw confusion matrices: counts as numbers, fractions of the true class as colour.

    Args:
        matrices: `K x K` counts by the name of the fit, true classes in rows.
        classes: The K classes.
        names: Their names; by default their numbers.
        kind: Word for a class.
        titles: Title of each panel by the name of the fit; by default the name and the accuracy.
        heading: Title of the figure.
        abreast: Matrices in a row; by default all of few classes, else one.
        ax: Axes of the caller's figure to draw into, one for each matrix; then the scale of colours has no bar.

    Raises:
        ValueError: If there is no matrix, one is not `K x K`, or the axes are not as many.

    Example:
        >>> from latentmix.experiments.figures import confusion_matrices
        >>> figure = confusion_matrices({"EM": [[9, 1], [0, 10]]}, [0, 1], names=["cat", "dog"])
        >>> figure.axes[0].get_title()
        'EM: accuracy 0.950'
    """
    count = len(classes)
    if not matrices or not count:
        raise ValueError("Expected at least one confusion matrix of one class or more; got none.")
    shown = list(class_names(classes, names).values())
    across = min(abreast or (len(matrices) if count <= ABREAST else 1), len(matrices))
    down = -(-len(matrices) // across)
    longest = max(text_width(name, SMALL) for name in shown)
    room = (WIDTH - 1.6 - longest) / across - 0.2
    cell = min(room / count, 1.0 if down == 1 else 0.5)
    turned = longest > cell - 0.08
    texts = {
        name: (titles or {}).get(name, titled(name, f"accuracy {_accuracy(values):.3f}", room, 3 if across < 3 else 2))
        for name, values in matrices.items()
    }
    above = 0.18 * max(text.count("\n") for text in texts.values())
    height = down * (cell * count + 0.75 + above + (longest if turned else 0.15)) + 0.8

    def make(figure: Figure) -> list[Axes]:
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[len(matrices) :]:
            axes.set_axis_off()
        return list(panels[: len(matrices)])

    sheet = Sheet(ax, WIDTH, height)
    panels = sheet.panels(len(matrices), make, what=f"of {', '.join(matrices)}")
    if not sheet.own:
        width, height = sheet.size(panels[0])
        cell = min(width, height) / count
        turned = longest > cell - 0.08
    for place, (axes, (name, values)) in enumerate(zip(panels, matrices.items(), strict=True)):
        matrix = as_array(values)
        if matrix.shape != (count, count):
            raise ValueError(f"Expected a {count} x {count} confusion matrix for {name}; got {matrix.shape}.")
        check_finite(**{f"counts of {name}": matrix})
        totals = matrix.sum(axis=1, keepdims=True)
        fractions = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
        image = axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=1.0)
        size = min(11.0, 72 * (cell - 0.04) / (0.64 * len(f"{matrix.max():.0f}")))
        for row, column in np.argwhere(matrix > 0) if size >= 6 else ():
            colour = PAPER if fractions[row, column] > 0.55 else INK
            number = axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
            number.set_fontsize(size)
        axes.set_title(texts[name], fontsize=11, color=INK)
        axes.set_xticks(range(count), shown, rotation=90 if turned else 0)
        outer = place % across == 0 or not sheet.own
        axes.set_yticks(range(count), shown if outer else [])
        axes.tick_params(labelsize=SMALL, length=0, labelcolor=INK)
        axes.set_xlabel(f"assigned {kind}", fontsize=SMALL, color=INK)
        axes.spines[:].set_color(MUTED)
        axes.set_ylabel(f"true {kind}" if outer else "", fontsize=SMALL, color=INK)
    if sheet.own:
        bar = sheet.figure.colorbar(image, ax=panels, ticks=[0.0, 0.5, 1.0], aspect=5 * height, fraction=0.05)
        bar.ax.set_yticklabels(["0%", "50%", "100%"], fontsize=SMALL, color=INK)
        bar.set_label(f"share of the true {kind}", fontsize=SMALL, color=INK)
        bar.outline.set_visible(False)
        sheet.title(heading)
    return sheet.figure


def _accuracy(values: ArrayLike | Tensor) -> float:
    """The share on the diagonal; 0 of no data."""
    matrix = as_array(values)
    return float(np.trace(matrix) / max(matrix.sum(), 1.0)) if matrix.ndim == 2 else 0.0
