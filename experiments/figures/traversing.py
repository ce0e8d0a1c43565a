"""Traversals: mean images as one latent changes and all others stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    DPI,
    INK,
    SMALL,
    WIDTH,
    as_array,
    as_pixels,
    check_finite,
    check_same_length,
    text_width,
    wrapped,
)
from latentmix.experiments.figures.tiles import exact, gap_of, scale_of, tile
from latentmix.models.words import plural

__all__ = ["traversals"]

LEAST = 0.2  # inches of a row, in which its name has room
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def traversals(
    images: ArrayLike | Tensor,
    values: ArrayLike | Tensor,
    *,
    dimensions: Sequence[int] | None = None,
    kl: ArrayLike | Tensor | None = None,
    total: int | None = None,
    caption: str | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Show mean images as one latent changes and all others stay, in a row for each latent.

    Args:
        images: An `R x M x C x H x W` array in [0, 1], with C of 1 or 3: image `[r, m]` is decoded where latent
            `dimensions[r]` is `values[r, m]`.
        values: An `R x M` array, ascending in each row; or M values that all rows share.
        dimensions: The R latents, numbered from 0; by default the first R.
        kl: KL divergence of q from the prior in each of the R latents, nats, for the names of the rows.
        total: Number of latents of which R are shown.
        caption: Text below the figure, such as where the other latents stay.
        ax: Axes of the caller's figure to draw into.

    Raises:
        ValueError: If the images are none, or other arrays do not fit them or are not finite.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import traversals
        >>> images = np.random.default_rng(0).uniform(size=(2, 5, 1, 8, 8))
        >>> figure = traversals(images, [-2, -1, 0, 1, 2], dimensions=[3, 0], kl=[2.5, 0.1])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['z₄  2.50 nats', 'z₁  0.10 nats']
    """
    frames, steps = as_array(images), as_array(values)
    if frames.ndim != 5 or not frames.size:
        raise ValueError(f"Expected images of shape R x M x C x H x W; got {frames.shape}.")
    rows, columns = frames.shape[:2]
    if steps.shape not in ((columns,), (rows, columns)):
        raise ValueError(
            f"Expected values of shape {rows} x {columns}, or {plural(columns, 'value')}; got {steps.shape}."
        )
    shown = range(rows) if dimensions is None else dimensions
    divergences = None if kl is None else as_array(kl).ravel()
    check_same_length(rows=frames, dimensions=shown, **({} if divergences is None else {"kl": divergences}))
    check_finite(values=steps, kl=np.zeros(1) if divergences is None else divergences)
    pixels = as_pixels(frames.reshape(-1, *frames.shape[2:]))
    height, width = pixels.shape[1:3]

    names = [f"z{str(dimension + 1).translate(SUBSCRIPTS)}" for dimension in shown]
    if divergences is not None:
        names = [f"{name}  {divergence:.2f} nats" for name, divergence in zip(names, divergences, strict=True)]
    names = [name.replace("-", "−") for name in names]
    ends = [
        f"{low:.2f} to {high:.2f}".replace("-", "−")
        for low, high in np.broadcast_to(steps, (rows, columns))[:, [0, -1]]
    ]
    words = ["On the right: the values of the latent, from the left to the right image"]
    words += ["on the left: its KL divergence from the prior"] if divergences is not None else []
    text = "; ".join([*words, *([caption] if caption else [])])

    left, right = (max(text_width(part, SMALL) for part in parts) + 0.2 for parts in (names, ends))
    gap, room = gap_of(height), min(WIDTH - left - right, 0.8 * columns)
    scale = min(scale_of(room, columns, height, width), scale_of(max(7.5, LEAST * rows), rows, height, height))
    size = (scale * (columns * (width + gap) - gap), scale * (rows * (height + gap) - gap))
    lines = wrapped(text, max(left + size[0] / DPI + right, 5.0) - 0.3, SMALL).count("\n") + 1
    made = exact(size, left=left, right=right, above=0.5, below=0.2 + 0.17 * lines)
    sheet = Sheet(ax, made.width, made.height)
    (axes,) = sheet.panels(1, made.make)
    tiling = tile(
        axes,
        pixels.reshape(rows, columns, *pixels.shape[1:]),
        few_levels=True,
        smooth=not (sheet.own and scale.is_integer()),
    )
    axes.set_yticks(tiling.rows, names)
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    for place, words_of_row in zip(tiling.rows, ends, strict=True):
        note_of_row = axes.annotate(words_of_row, (1.0, place), (6, 0))
        note_of_row.xycoords, note_of_row.anncoords = axes.get_yaxis_transform(), "offset points"
        note_of_row.set(fontsize=SMALL, color=INK, va="center", ha="left", annotation_clip=False)
    part = f" ({rows} of {total})" if total is not None and total > rows else ""
    sheet.title(f"One latent changes, the others stay{part}")
    sheet.note(text)
    return sheet.figure
