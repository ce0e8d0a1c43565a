"""Dark variants of pictures, for pages in dark mode."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["dark_colours", "dark_overlay", "dark_picture", "with_boxes"]

Box = Sequence[float]

PAGE, INK = (0x15, 0x18, 0x1C), (0xE8, 0xE8, 0xE8)
KEY = "Images"
SEAM = 4  # pixels of an image that both layers show, so that scaling mixes in no paper
COLOURS = 255  # of a layer, beside the transparent one: WebP codes so few by their places in a table
HEADER = 33  # bytes of a PNG file's signature and first chunk


def with_boxes(png: bytes, boxes: Sequence[Box]) -> bytes:
    """A PNG file with a text chunk that holds the boxes of its images.

    Args:
        png: The file.
        boxes: Left, top, right and bottom of each image, as fractions of the picture; `dark_picture` keeps their
            colours.
    """
    values = [[round(value, 5) for value in box] for box in boxes]
    body = b"tEXt" + f"{KEY}\0{json.dumps(values)}".encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:HEADER] + chunk + png[HEADER:]


def dark_picture(picture: Image.Image) -> Image.Image | None:
    """A picture on white, redrawn for a dark page: white and black change places, hues and images stay.

    A colour is hue, whiteness (its least channel) and blackness (what its greatest channel lacks). The last two are
    exchanged, which is linear in mixtures of a colour with greys, so that edges and transparent marks stay smooth.

    Args:
        picture: A picture that `save` wrote.

    Returns:
        The dark variant; `None` for a picture of unknown origin, which may show images anywhere.

    Example:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> from latentmix.experiments.figures.dark import dark_picture, with_boxes
        >>> buffer = BytesIO()
        >>> Image.new("RGB", (4, 4), "white").save(buffer, "PNG")
        >>> dark_picture(Image.open(BytesIO(with_boxes(buffer.getvalue(), [])))).getpixel((0, 0))
        (21, 24, 28)
    """
    boxes = _boxes(picture)
    if boxes is None:
        return None
    light = np.asarray(picture.convert("RGB"))
    dark = dark_colours(light)
    for place in _places(boxes, light.shape):
        dark[place] = light[place]
    return Image.fromarray(dark)


def dark_overlay(picture: Image.Image) -> Image.Image | None:
    """The dark variant as a layer over the picture itself: transparent where it shows images, which stay.

    The layer has 255 colours, so that files are small: frequent colours are exact, rare ones, as those where marks
    that let others through lie over one another, are the nearest of them.

    Args:
        picture: A picture that `save` wrote.

    Returns:
        A picture that, over the given one, looks as `dark_picture` does; `None` where that is `None`.
    """
    boxes = _boxes(picture)
    if boxes is None:
        return None
    few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    light, places = np.array(few.getpalette("RGB"), np.uint8).reshape(-1, 3), np.asarray(few)
    layer = np.insert(dark_colours(light), 3, 255, axis=1)[places]
    for place in _places(boxes, layer.shape):
        layer[*place, :3] = light[places[place]]
    for rows, columns in _places(boxes, layer.shape, inset=SEAM):
        layer[rows, columns] = 0
    return Image.fromarray(layer)


def _places(boxes: Sequence[Box], shape: Sequence[int], inset: int = 0) -> list[tuple[slice, slice]]:
    """Rows and columns of boxes, without `inset` pixels at each side."""
    ends = [
        (round(top * shape[0]), round(bottom * shape[0]), round(left * shape[1]), round(right * shape[1]))
        for left, top, right, bottom in boxes
    ]
    return [
        (slice(top + inset, max(top + inset, bottom - inset)), slice(left + inset, max(left + inset, right - inset)))
        for top, bottom, left, right in ends
    ]


def dark_colours(light: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours on white as they are on a dark page; see `dark_picture`.

    Args:
        light: A `... x 3` array of red, green and blue.

    Returns:
        An array of that shape.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures.dark import dark_colours
        >>> dark_colours(np.array([[255, 255, 255], [0, 0, 0]], np.uint8)).tolist()
        [[21, 24, 28], [232, 232, 232]]
    """
    red, green, blue = np.moveaxis(light, -1, 0)
    whiteness = np.minimum(np.minimum(red, green), blue)
    blackness = 255 - np.maximum(np.maximum(red, green), blue)
    dark = np.empty_like(light)
    for channel, (page, ink) in enumerate(zip(PAGE, INK, strict=True)):
        greys = (np.arange(256) * page / 255, np.arange(256) * ink / 255)
        grey = greys[0].astype(np.float32)[whiteness] + greys[1].astype(np.float32)[blackness]
        dark[..., channel] = light[..., channel] - whiteness + np.rint(grey).astype(np.uint8)
    return dark


def _boxes(picture: Image.Image) -> list[Box] | None:
    try:
        boxes = json.loads(picture.info[KEY])
        good = all(len(box) == 4 and all(0 <= float(value) <= 1 for value in box) for box in boxes)
    except (KeyError, ValueError, TypeError):
        return None
    return list(boxes) if good else None
