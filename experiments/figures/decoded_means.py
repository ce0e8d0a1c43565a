"""Decoded means of a mixture's components: the image that each component stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    DPI,
    INK,
    MUTED,
    SMALL,
    WIDTH,
    Array,
    as_array,
    as_pixels,
    check_finite,
    check_same_length,
    plain,
    shortened,
    text_width,
    wrapped,
)
from latentmix.experiments.figures.tiles import exact, gap_of, scale_of, tile
from latentmix.models.words import plural

__all__ = ["decoded_components"]

MOST = 40
LINE = 0.19  # inches, of a line of small text


def decoded_components(
    images: ArrayLike | Tensor | Mapping[str, ArrayLike | Tensor],
    weights: ArrayLike | Tensor | Mapping[str, ArrayLike | Tensor],
    *,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    kind: str = "class",
    ax: Ax | None = None,
) -> Figure:
    """Show the decoded mean of each component with its weight and name, for one fit or for several aligned fits.

    Args:
        images: A `K x C x H x W` array in [0, 1], with C of 1 or 3: the image at the mean of each component; or such
            arrays by the name of the fit, the k-th of all of them aligned.
        weights: K weights, or K by the name of the fit.
        names: Names of the K components, such as the class that each stands for; by default their numbers from 1. By
            the name of the fit where they differ.
        kind: Word for what the names name, for the caption.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If there is no fit, or the arrays differ in shape or are not finite.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import decoded_components
        >>> images = np.random.default_rng(0).uniform(size=(3, 1, 8, 8))
        >>> figure = decoded_components({"EM": images, "SVI": images}, {"EM": [0.5, 0.3, 0.2], "SVI": [0.4, 0.4, 0.2]})
        >>> figure.get_suptitle()
        'What the 3 components stand for'
    """
    named = images if isinstance(images, Mapping) else {"": images}
    shares = weights if isinstance(weights, Mapping) else dict.fromkeys(named, weights)
    if isinstance(weights, Mapping) and not isinstance(images, Mapping):
        raise ValueError("Expected weights as an array, as the images are; got a mapping.")
    if not named or set(named) != set(shares):
        raise ValueError(f"Expected images and weights of the same fits; got {[*named]} and {[*shares]}.")
    pictures = {fit: as_pixels(values) for fit, values in named.items()}
    parts = {fit: as_array(shares[fit]).ravel() for fit in named}
    count, size = len(next(iter(pictures.values()))), next(iter(pictures.values())).shape[1:3]
    labels = {fit: _names(names, fit, count) for fit in named}
    for fit, pixels in pictures.items():
        if pixels.shape[1:3] != size or len(pixels) != count:
            raise ValueError(
                f"Expected {plural(count, 'image')} of {size} pixels for each fit; got {pixels.shape[:3]} for {fit}."
            )
        check_same_length(images=pixels, weights=parts[fit], names=labels[fit])
        check_finite(weights=parts[fit])
    heaviest = np.argsort(-np.mean(list(parts.values()), axis=0), kind="stable")[:MOST]
    chosen = sorted(int(k) for k in heaviest)

    left = max(text_width(fit, SMALL) for fit in named) + 0.2
    longest = max(text_width(shortened(labels[fit][k], 14), SMALL) for fit in named for k in chosen)
    most = max(1, min(len(chosen), 10, int((WIDTH - left - 0.2) / max(0.62, longest + 0.08))))
    bands = -(-len(chosen) // most)
    columns = -(-len(chosen) // bands)
    (height, width), rows = size, bands * len(named)
    gap, words_height = gap_of(height), 2 * LINE + 0.1
    scale = scale_of(min(WIDTH - left - 0.2, columns), columns, height, width)
    between = max(gap, round(words_height * DPI / scale))
    apart = max(gap, math.ceil((longest + 0.08) * DPI / scale) - width)
    across, up = columns * (width + apart) - apart, rows * (height + between) - between
    of = "number" if names is None else kind
    part = f"; the {MOST} heaviest of {count}" if count > MOST else ""
    text = f"Mean images at the means of the components; below each, its {of} and its weight{part}"
    lines = wrapped(text, max(left + scale * across / DPI + 0.2, 5.0) - 0.3, SMALL).count("\n") + 1
    made = exact(
        (scale * across, scale * up), left=left, right=0.2, above=0.5, below=words_height + 0.15 + 0.17 * lines
    )
    sheet = Sheet(ax, made.width, made.height)
    (axes,) = sheet.panels(1, made.make)
    if not sheet.own:
        pixels_per_inch = max(across / sheet.size(axes)[0], up / sheet.size(axes)[1])
        between = max(gap, round(words_height * pixels_per_inch))
    cells: Array = np.full((rows, columns, height, width, 3), np.nan)
    for place, k in enumerate(chosen):
        for row, pixels in enumerate(pictures.values()):
            cells[place // columns * len(named) + row, place % columns] = pixels[k]
    tiling = tile(
        axes, cells, row_gap=between, column_gap=apart, few_levels=True, smooth=not (sheet.own and scale.is_integer())
    )
    for place, k in enumerate(chosen):
        for row, fit in enumerate(named):
            line = place // columns * len(named) + row
            below = f"{shortened(labels[fit][k], 14)}\n{parts[fit][k]:.1%}"
            words = axes.annotate(below, (tiling.columns[place % columns], tiling.bottoms[line]), (0, -2))
            words.anncoords = "offset points"
            words.set(fontsize=SMALL, color=INK, ha="center", va="top", annotation_clip=False)
    axes.set_yticks(tiling.rows, [fit for _ in range(bands) for fit in named])
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED)
    sheet.title(f"What the {count} components stand for" if count > 1 else "What the component stands for")
    sheet.note(text)
    return sheet.figure


def _names(names: Sequence[str] | Mapping[str, Sequence[str]] | None, fit: str, count: int) -> Sequence[str]:
    if isinstance(names, Mapping):
        if fit not in names:
            raise ValueError(f"Expected names for each fit; got none for {fit}.")
        names = names[fit]
    return [str(k + 1) for k in range(count)] if names is None else [plain(str(name)) for name in names]
