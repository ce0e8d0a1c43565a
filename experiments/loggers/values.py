"""Values of logs: flat names, names that are safe as paths, pictures as pixels, thumbnails in one image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Drawn",
    "Pixels",
    "as_bytes",
    "as_pixels",
    "flattened",
    "numbers",
    "safe_name",
    "sprite",
    "table",
    "thumbnails",
]

Pixels = NDArray[np.uint8]  # H x W x 3

MAX_SIDE = 8192  # pixels of a sprite, which WebGL takes everywhere


def safe_name(name: str) -> str:
    """A name of letters, digits and `_.-`, with `/` between parts that lead to no folder above.

    Example:
        >>> from latentmix.experiments.loggers.values import safe_name
        >>> safe_name("../figures/a b?.png")
        'figures/a_b_.png'
    """
    parts = (re.sub(r"[^\w.-]", "_", part, flags=re.ASCII).lstrip(".") for part in name.split("/"))
    return "/".join(part[:80] for part in parts if part)[:200] or "_"


def flattened(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists of mappings, each after its path such as `data/source`.

    Example:
        >>> from latentmix.experiments.loggers.values import flattened
        >>> dict(flattened({"data": {"source": "digits", "classes": [0, 1]}, "seed": 0}))
        {'data/source': 'digits', 'data/classes': [0, 1], 'seed': 0}
    """
    if isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping):
        yield prefix, values
        return
    for name, value in values.items():
        yield from flattened(value, f"{prefix}/{name}" if prefix else str(name))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested figures, by their path."""
    return {
        safe_name(name): float(value)
        for name, value in flattened(values)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class Drawn(Protocol):
    """A Matplotlib figure; its type would import Matplotlib where options are parsed."""

    def savefig(self, fname: Any, *, format: str) -> None:
        """Write the figure."""


def as_bytes(picture: Drawn | Path) -> Pixels:
    """A figure, or the PNG file of one, as an `H x W x 3` array of bytes."""
    from PIL import Image

    if isinstance(picture, Path):
        with Image.open(picture, formats=["PNG"]) as opened:
            return np.asarray(opened.convert("RGB"))
    data = BytesIO()
    picture.savefig(data, format="png")
    return np.asarray(Image.open(data, formats=["PNG"]).convert("RGB"))


def as_pixels(images: ArrayLike) -> NDArray[np.float32]:
    """`N x C x H x W` images of bytes, or of floats in [0, 1], as floats of three channels.

    Raises:
        ValueError: If they have another shape, or neither one nor three channels.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"Expected N x C x H x W images of 1 or 3 channels; got an array of shape {array.shape}.")
    pixels = array.astype(np.float32) / (255.0 if array.dtype == np.uint8 else 1.0)
    pixels = np.nan_to_num(pixels).clip(0.0, 1.0)
    return pixels if pixels.shape[1] == 3 else pixels.repeat(3, axis=1)


def sprite(pixels: NDArray[np.float32]) -> Pixels:
    """Thumbnails row by row in a square grid, as projectors take them.

    Args:
        pixels: `N x 3 x H x W` images in [0, 1].
    """
    n, _, height, width = pixels.shape
    side = math.ceil(math.sqrt(n))
    grid = np.zeros((side * side, 3, height, width), np.float32)
    grid[:n] = pixels
    tiles = grid.reshape(side, side, 3, height, width).transpose(0, 3, 1, 4, 2)
    whole: Pixels = (tiles.reshape(side * height, side * width, 3) * 255).round().astype(np.uint8)
    return whole


def thumbnails(pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Images that fit into a sprite, every second pixel left out as often as needed; None if they do not fit."""
    side = math.ceil(math.sqrt(len(pixels)))
    while side * max(pixels.shape[2:]) > MAX_SIDE:
        if min(pixels.shape[2:]) < 8:
            return None
        pixels = pixels[:, :, ::2, ::2]
    return pixels


def table(points: NDArray[np.float64], columns: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of a table of points: their number, their columns in words, and their coordinates."""
    words = {name: [" ".join(str(value).split()) for value in values] for name, values in columns.items()}
    names = ["row", *words]
    rows = [[str(index), *row] for index, row in enumerate(zip(*words.values(), strict=True))] if words else []
    return names, rows or [[str(index)] for index in range(len(points))]
