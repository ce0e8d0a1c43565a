"""Images in rows and columns, as one image of axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.experiments.figures import style
from latentmix.experiments.figures.style import MUTED, Array

__all__ = ["Exact", "Tiling", "exact", "gap_of", "scale_of", "tile"]


class Tiling(NamedTuple):
    """Places of tiles in the coordinates of the axes: whole numbers are the centres of pixels.

    Attributes:
        width: Width of a tile.
        columns: Centres of the columns.
        rows: Centres of the rows.
        bottoms: Lower edges of the rows.
    """

    width: int
    columns: list[float]
    rows: list[float]
    bottoms: list[float]


def tile(
    axes: Axes,
    cells: Array,
    *,
    apart: int = 0,
    row_gap: int | None = None,
    column_gap: int | None = None,
    few_levels: bool = False,
    smooth: bool = True,
) -> Tiling:
    """Show images in rows and columns; what lies between them is transparent.

    Args:
        axes: The axes.
        cells: `R x M x H x W x 3` pixels in [0, 1]; images that are NaN are left out.
        apart: Number of first columns that are set off from the others.
        row_gap: Pixels between rows; by default a fourteenth of the height.
        column_gap: Pixels between columns; likewise.
        few_levels: Whether to show 64 levels of each colour, so that files of many images stay small.
        smooth: Whether to interpolate between pixels where their edges would be of different widths.
    """
    rows, columns, height, width, _ = cells.shape
    gap = gap_of(height)
    row_gap = gap if row_gap is None else row_gap
    cells = np.rint(63 * cells) / 63 if few_levels else cells
    gap = gap if column_gap is None else column_gap
    left_ends = [column * (width + gap) + (2 * gap if column >= apart > 0 else 0) for column in range(columns)]
    tops = [row * (height + row_gap) for row in range(rows)]
    canvas = np.ones((tops[-1] + height, left_ends[-1] + width, 4))
    canvas[..., 3] = 0.0
    for row, top in enumerate(tops):
        for column, left in enumerate(left_ends):
            if not np.isnan(cells[row, column]).all():
                canvas[top : top + height, left : left + width] = np.insert(cells[row, column], 3, 1.0, axis=2)
    axes.imshow(canvas, vmin=0.0, vmax=1.0, interpolation="antialiased" if smooth else "nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=MUTED)
    return Tiling(
        width,
        [left + width / 2 - 0.5 for left in left_ends],
        [top + height / 2 - 0.5 for top in tops],
        [top + height - 0.5 for top in tops],
    )


def gap_of(height: int) -> int:
    """Pixels between images of that height."""
    return max(1, round(height / 14))


def scale_of(room: float, columns: int, height: int, width: int) -> float:
    """Pixels of a picture for each pixel of an image, of which `columns` fill a width in inches.

    It is a whole number if it is 1 or more: then all pixels have sharp edges, and files are small.
    """
    pixels = room * style.DPI / (columns * (width + gap_of(height)) - gap_of(height))
    return float(int(pixels)) if pixels >= 1 else pixels


class Exact(NamedTuple):
    """The size of a new figure with panels of a given size in pixels, and the function that makes the panels.

    Attributes:
        width: Width of the figure, in inches.
        height: Its height.
        make: Makes the panels, of fixed place.
    """

    width: float
    height: float
    make: Callable[[Figure], list[Axes]]


def exact(
    size: tuple[float, float],
    count: int = 1,
    *,
    left: float,
    right: float,
    above: float,
    below: float,
    apart: float = 0.2,
) -> Exact:
    """Panels side by side that are not laid out.

    Args:
        size: Width and height of each panel, in pixels of the picture.
        count: Number of panels.
        left: Room to their left, in inches.
        right: Room to their right.
        above: Room above them.
        below: Room below them.
        apart: Room between them.
    """
    between = round(apart * style.DPI)
    across, up = count * round(size[0]) + (count - 1) * between, round(size[1])
    margins = [round(part * style.DPI) for part in (left, right, above, below)]
    width, height = max(margins[0] + across + margins[1], round(5.0 * style.DPI)), margins[2] + up + margins[3]
    start = margins[0] + (width - margins[0] - across - margins[1]) // 2

    def make(figure: Figure) -> list[Axes]:
        figure.set_layout_engine("none")
        places = [start + place * (round(size[0]) + between) for place in range(count)]
        return [
            figure.add_axes((place / width, margins[3] / height, round(size[0]) / width, up / height))
            for place in places
        ]

    return Exact(width / style.DPI, height / style.DPI, make)
