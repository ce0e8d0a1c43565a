"""The images that are reconstructed worst, beside typical ones."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    DPI,
    INK,
    SMALL,
    VERMILION,
    WIDTH,
    as_array,
    as_pixels,
    check_finite,
    check_same_length,
    text_width,
)
from latentmix.experiments.figures.tiles import exact, gap_of, scale_of, tile

__all__ = ["worst_reconstructions"]

ROWS = ("original", "reconstruction", "difference")


def worst_reconstructions(
    originals: ArrayLike | Tensor,
    means: ArrayLike | Tensor,
    errors: ArrayLike | Tensor | None = None,
    *,
    measure: str = "mean squared error",
    count: int = 4,
    total: int | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Show the images of greatest reconstruction error beside those whose errors are nearest to the median.

    Under each image and its reconstruction is the absolute difference of their pixels, as depth of colour.

    Args:
        originals: An `N x C x H x W` array in [0, 1], with C of 1 or 3.
        means: An `N x C x H x W` array, the likelihood's mean for each of them.
        errors: N errors, such as -log p(x|z); by default mean squared errors of the pixels.
        measure: Name of the errors, for the caption.
        count: Most images on each side.
        total: Number of images among which the N were chosen, if errors of all were compared; by default N.
        ax: Two axes of the caller's figure to draw into: for the worst images, and for typical ones.

    Raises:
        ValueError: If the arrays are no images, differ in shape or are not finite, or the axes are not two.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import worst_reconstructions
        >>> images = np.random.default_rng(0).uniform(size=(20, 1, 8, 8))
        >>> figure = worst_reconstructions(images, images * np.linspace(0, 1, 20)[:, None, None, None], count=3)
        >>> [axes.get_title() for axes in figure.axes]
        ['Greatest errors', 'Errors at the median']
    """
    above, below = as_pixels(originals), as_pixels(means)
    if above.shape != below.shape:
        shapes = as_array(originals).shape, as_array(means).shape
        raise ValueError(f"Expected reconstructions of shape {shapes[0]}, as the images; got {shapes[1]}.")
    values = ((above - below) ** 2).mean(axis=(1, 2, 3)) if errors is None else as_array(errors).ravel()
    check_same_length(originals=above, errors=values)
    check_finite(errors=values)
    if count < 1:
        raise ValueError(f"Expected at least 1 image on each side; got {count}.")
    order = np.argsort(-values, kind="stable")
    columns = min(count, max(1, len(order) // 2))
    start = max(columns, len(order) // 2 - columns // 2) if len(order) > 1 else 0
    sides = {"Greatest errors": order[:columns], "Errors at the median": order[start : start + columns]}
    differences = {name: np.abs(above[rows] - below[rows]).mean(axis=3) for name, rows in sides.items()}
    most = max(float(difference.max()) for difference in differences.values()) or 1.0

    height, width = above.shape[1:3]
    gap = gap_of(height)
    left = max(text_width(name, SMALL) for name in ROWS) + 0.2
    scale = scale_of(min((WIDTH - left - 0.45) / 2, columns), columns, height, width)
    longest = max(text_width(_short(values[row]), SMALL) for rows in sides.values() for row in rows)
    apart = max(gap, math.ceil((longest + 0.08) * DPI / scale) - width)
    size = (scale * (columns * (width + apart) - apart), scale * (3 * (height + gap) - gap))
    compared = max(len(values), total or 0)
    text = (
        f"Below each: its {measure}, greatest and median of {compared:,} images. Differences of pixels: white is none, "
        f"the deepest colour {most:.2f}"
    )
    between = max(0.2, max(text_width(name, 11, "bold") for name in sides) + 0.15 - size[0] / DPI)
    made = exact(size, 2, left=left, right=0.25 + between / 2, above=0.8, below=0.75, apart=between)
    sheet = Sheet(ax, made.width, made.height)
    panels = sheet.panels(2, made.make, what="worst images, typical images")
    for axes, (name, rows) in zip(panels, sides.items(), strict=True):
        depth = (differences[name] / most)[..., None]
        tiling = tile(
            axes,
            np.stack([above[rows], below[rows], 1.0 - depth * (1.0 - np.array(to_rgb(VERMILION)))]),
            column_gap=apart,
            few_levels=True,
            smooth=not (sheet.own and scale.is_integer()),
        )
        axes.set_xticks(tiling.columns, [_short(values[row]) for row in rows])
        axes.set_yticks(tiling.rows, ROWS if axes is panels[0] or not sheet.own else [])
        axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
        axes.set_title(name, fontsize=11, fontweight="bold", color=INK)
    sheet.title("The worst reconstructions beside typical ones")
    sheet.note(text)
    return sheet.figure


def _short(value: float) -> str:
    """A number of about three digits."""
    size = abs(value)
    decimals = 0 if size >= 99.5 else 1 if size >= 9.95 else 2 if size >= 0.995 else 3 if size >= 0.0995 else 4
    return f"{value:,.{decimals}f}".replace("-", "−")
