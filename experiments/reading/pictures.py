"""Pictures of files: their format and size are checked by the header, before pixels are decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from latentmix.experiments.reading.limits import MAX_PIXELS
from latentmix.models.process_state import kept_warnings
from latentmix.models.reading import open_regular

__all__ = ["FORMATS", "decode", "is_grey", "picture_limit"]

# Pillow reads more, some by running another program.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)
GREYS = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes


def decode(
    path: Path,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    option: str = "--data.max_pixels",
) -> NDArray[np.uint8]:
    """The centre of an image in the aspect ratio of `size`, oriented by its EXIF data and resized bicubically.

    The filter is antialiased, and the pixels of an image of that size are unchanged. The first of several frames is
    read; transparent pixels are composited on white; 16-bit greys lose their lower byte.

    Args:
        path: A regular file of one of `FORMATS`.
        size: The height and width of the result, or its side where it is square, in pixels.
        channels: 3 for RGB, 1 for grey (the luma of ITU-R 601-2).
        max_pixels: Most pixels of the picture in the file; Pillow's own limit applies outside `picture_limit`.
        option: The option that raises it, for the message.

    Returns:
        A `channels x height x width` array of bytes.

    Raises:
        ValueError: If the range of the pixels is unknown, as with 32 bits, there are more of them than `max_pixels`, or
            the path is that of a named pipe, a device or a folder.
        Exception: Any that Pillow raises on a file that is truncated or no image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from latentmix.experiments.reading.pictures import decode
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (80, 60), "red").save(f"{folder}/red.png")
        ...     pixels = decode(Path(folder) / "red.png", 16)
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        ((3, 16, 16), [255, 0, 0])
    """
    height, width = (size, size) if isinstance(size, int) else size
    with _opened(path, max_pixels, option) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):
        image = _upper_bytes(image)
    elif image.mode in ("I", "F"):
        raise ValueError("Expected pixels of 1, 8 or 16 bits; got 32 bits, of no known range")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def is_grey(path: Path, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether a picture is grey by its mode; files that `decode` refuses count as grey."""
    try:
        with _opened(path, max_pixels, "--data.max_pixels") as image:
            return image.mode in GREYS
    except Exception:  # as in decoding
        return True


@contextmanager
def picture_limit(max_pixels: int) -> Iterator[None]:
    """A block in which `decode` reads pictures of up to `max_pixels`, and Pillow's warnings are not shown.

    Pillow's limit belongs to the process: only one thread at a time is in such a block, which may start others.
    """
    with kept_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(1, max_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _opened(path: Path, max_pixels: int, option: str) -> Iterator[Image.Image]:
    """A picture of which the header alone has been read."""
    with open_regular(path) as stored:
        try:
            file = Image.open(stored)
        except PIL.UnidentifiedImageError as error:
            raise ValueError("Expected a picture; got other content") from error
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"Expected a picture of at most {max_pixels:,} pixels; got more: allow more by {option}"
            ) from error
        with file:
            if file.format not in FORMATS:
                raise ValueError(f"Expected a picture in one of {', '.join(FORMATS)}; got {file.format}")
            if file.width * file.height > max_pixels:
                raise ValueError(
                    f"Expected a picture of at most {max_pixels:,} pixels; got {file.width:,} x {file.height:,}: allow "
                    f"more by {option}"
                )
            yield file


def _upper_bytes(image: Image.Image) -> Image.Image:
    """A 16-bit grey image in 8 bits, with an alpha channel if one of its greys is transparent."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))))
