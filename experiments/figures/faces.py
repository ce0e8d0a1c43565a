"""Walks through the latents of images: between two of them, and along the vector of an attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    INK,
    SMALL,
    VERMILION,
    WIDTH,
    as_array,
    as_pixels,
    check_same_length,
)
from latentmix.experiments.figures.tiles import tile

__all__ = ["attribute_vectors", "interpolations"]

FRAME = VERMILION


def interpolations(
    endpoints: ArrayLike | Tensor,
    straight: ArrayLike | Tensor,
    spherical: ArrayLike | Tensor,
    *,
    ax: Ax | None = None,
) -> Figure:
    """Show interpolations of two images: decoded latents along a straight line and along a great arc.

    Args:
        endpoints: A `2 x C x H x W` array in [0, 1], with C of 1 or 3: the two originals.
        straight: An `n x C x H x W` array, decoded at n evenly spaced latents on the line; 8 to 10 fill it.
        spherical: An `n x C x H x W` array, decoded at n evenly spaced latents on the arc.
        ax: Four axes of the caller's figure to draw into: for both originals, the line and the arc.

    Raises:
        ValueError: If there are no two originals, line and arc differ in length, or the axes are not four.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import interpolations
        >>> images = np.random.default_rng(0).uniform(size=(8, 3, 4, 4))
        >>> len(interpolations(images[:2], images, images).axes)
        4
    """
    ends, line, arc = (as_pixels(part) for part in (endpoints, straight, spherical))
    if len(ends) != 2 or len(line) < 2:
        raise ValueError(f"Expected 2 endpoints and at least 2 images between; got {len(ends)} and {len(line)}.")
    check_same_length(straight=line, spherical=arc)
    count = len(line)
    cell = min(1.0, (WIDTH - 0.9) / (count + 2))

    def make(figure: Figure) -> list[Axes]:
        grid = figure.add_gridspec(2, 3, width_ratios=[1, count, 1])
        places = [grid[:, 0], grid[:, 2], grid[0, 1], grid[1, 1]]
        return [figure.add_subplot(place) for place in places]

    sheet = Sheet(ax, cell * (count + 2) + 0.9, 2 * cell + 1.35)
    panels = sheet.panels(4, make, what="first original, second original, line, arc")
    for axes, image in zip(panels[:2], ends, strict=True):
        tile(axes, image[None, None])
        axes.set_title("original", fontsize=SMALL, color=INK)
    ways = {"Straight: along the line between the latents": line, "Spherical: along the great arc": arc}
    for row, (name, images) in enumerate(ways.items()):
        axes = panels[2 + row]
        centres = tile(axes, images[None]).columns
        axes.set_title(name, fontsize=11, color=INK)
        if row:
            axes.set_xticks(centres, [f"{fraction:.0%}" for fraction in np.linspace(0.0, 1.0, count)])
            axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    sheet.title("From one image to another through the latents")
    sheet.note("Mean images; below them, the share of the way. The first and the last are the reconstructions")
    return sheet.figure


def attribute_vectors(
    originals: ArrayLike | Tensor,
    rows: Mapping[str, ArrayLike | Tensor],
    steps: Sequence[float],
    *,
    ax: Ax | None = None,
) -> Figure:
    """Show images with an attribute's vector added to their latents at increasing weights.

    Args:
        originals: An `n x C x H x W` array in [0, 1], with C of 1 or 3.
        rows: By attribute, an `n x m x C x H x W` array: image i decoded at `z_i + steps[j] * vector`.
        steps: m ascending weights; weight 0, the reconstruction, is framed.
        ax: Axes of the caller's figure to draw into, one for each attribute.

    Raises:
        ValueError: If there is no attribute, the arrays have other shapes, or the axes are not as many.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import attribute_vectors
        >>> images = np.random.default_rng(0).uniform(size=(3, 5, 3, 4, 4))
        >>> figure = attribute_vectors(images[:, 2], {"Blond_Hair": images}, [-2, -1, 0, 1, 2])
        >>> figure.axes[0].get_title()
        'Blond Hair'
    """
    first = as_pixels(originals)
    if not rows:
        raise ValueError("Expected the images of at least one attribute; got none.")
    cells = {}
    for name, values in rows.items():
        images = as_array(values)
        if images.ndim != 5 or images.shape[:2] != (len(first), len(steps)):
            raise ValueError(
                f"Expected images of shape {len(first)} x {len(steps)} x C x H x W for {name}; got {images.shape}."
            )
        flat = as_pixels(images.reshape(-1, *images.shape[2:]))
        if flat.shape[1:] != first.shape[1:]:
            raise ValueError(f"Expected images of one size for {name}; got {flat.shape[1:]} and {first.shape[1:]}.")
        cells[name] = flat.reshape(len(first), len(steps), *flat.shape[1:])

    columns = len(steps) + 1
    cell = min(0.95, (WIDTH - 0.7) / columns)
    sheet = Sheet(ax, max(5.0, cell * columns + 0.7), len(cells) * (cell * len(first) + 0.75) + 0.85)
    if sheet.own:
        sheet.figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr, call-arg]

    def make(figure: Figure) -> Any:
        return figure.subplots(len(cells), 1, squeeze=False)

    panels = sheet.panels(len(cells), make, what=", ".join(cells))
    for axes, (name, images) in zip(panels, cells.items(), strict=True):
        side, centres, *_ = tile(axes, np.concatenate([first[:, None], images], axis=1), apart=1)
        axes.set_title(name.replace("_", " "), fontsize=11, fontweight="bold", color=INK)
        axes.set_xticks(centres, ["original", *(_signed(step) for step in steps)])
        axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK, pad=5)
        bottom, top = axes.get_ylim()
        for centre, step in zip(centres[1:], steps, strict=True):
            if step == 0:
                corner = (centre - side / 2 - 0.5, top)
                frame = Rectangle(corner, side + 1, bottom - top, facecolor="none", edgecolor=FRAME, linewidth=2.5)
                frame.set_clip_on(False)
                axes.add_patch(frame)
    vectors = "vector of an attribute" if len(cells) == 1 else "vectors of attributes"
    sheet.title(f"Adding the {vectors} to the latents")
    framed = ". Framed: weight 0, the reconstruction" if 0 in list(steps) else ""
    sheet.note(f"Mean images; below them, the weight of the vector{framed}")
    return sheet.figure


def _signed(step: float) -> str:
    return "0" if step == 0 else f"{step:+g}".replace("-", "−")
