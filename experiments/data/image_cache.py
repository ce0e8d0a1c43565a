"""Image files decoded once into a memory-mapped file of bytes, with a list of those that cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import batched
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.models.files import write_atomically

__all__ = ["CachedImages", "Channels", "cache_folder", "cached_images", "decode", "some"]

Channels = Literal["auto", 1, 3]

FORMAT = 2  # of the cache and of `decode`; increase it when either changes
BATCH = 256
GREYS = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
NAMED = 3


class CachedImages(NamedTuple):
    """Decoded images of a folder.

    Attributes:
        pixels: An `N x channels x height x width` uint8 tensor over a memory-mapped file; pages are read on use, and
            writes remain in memory.
        rows: Positions in the list of files of the N readable ones, ascending.
    """

    pixels: Tensor
    rows: Tensor


def cache_folder(cache: str | None = None) -> Path:
    """The folder of decoded images: `cache`, or LATENTMIX_CACHE, or `latentmix` in the XDG cache folder.

    Example:
        >>> from latentmix.experiments.data.image_cache import cache_folder
        >>> cache_folder("images").is_absolute()
        True
    """
    named = cache or os.environ.get("LATENTMIX_CACHE")
    if named:
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "latentmix"


def decode(path: Path, size: int | tuple[int, int], *, channels: int = 3) -> NDArray[np.uint8]:
    """The centre of an image in the aspect ratio of `size`, oriented by its EXIF data and resized bicubically.

    The filter is antialiased, and the pixels of an image of that size are unchanged. The first of several frames is
    read; transparent pixels are composited on white; 16-bit greys lose their lower byte.

    Args:
        path: A file of any format that Pillow knows.
        size: The height and width of the result, or its side where it is square, in pixels.
        channels: 3 for RGB, 1 for grey (the luma of ITU-R 601-2).

    Returns:
        A `channels x height x width` array of bytes.

    Raises:
        ValueError: If the range of the pixels is unknown, as with 32 bits.
        Exception: Any that Pillow raises on a file that is truncated or no image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from latentmix.experiments.data.image_cache import decode
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (80, 60), "red").save(f"{folder}/red.png")
        ...     pixels = decode(Path(folder) / "red.png", 16)
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        ((3, 16, 16), [255, 0, 0])
    """
    height, width = (size, size) if isinstance(size, int) else size
    with Image.open(path) as file:
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


def _upper_bytes(image: Image.Image) -> Image.Image:
    """A 16-bit grey image in 8 bits, with an alpha channel if one of its greys is transparent."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))))


def cached_images(
    folder: Path,
    names: Sequence[str],
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    cache: str | None = None,
    max_corrupt: int = 10,
) -> CachedImages:
    """Images of a folder from the cache, decoded into it on first use.

    The key of a cache is the resolved folder, the names, sizes and modification times of the files, the size of the
    images and the version of the decoder. Decoding shows a progress bar on a terminal. A cache is moved into place when
    it is complete, and may be deleted at any time. Files that are missing or cannot be decoded are skipped, with one
    warning that names the first of them.

    Args:
        folder: Folder of the files.
        names: Names of the files, relative to the folder.
        size: Side of the images, or height and width, in pixels.
        channels: 3 for RGB, 1 for grey; `auto` is 1 if all images are grey.
        cache: Folder of the cache, see `cache_folder`.
        max_corrupt: Most unreadable files.

    Raises:
        ValueError: If more than `max_corrupt` files, or all of them, cannot be read, or the cache cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from latentmix.experiments.data.image_cache import cached_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (80, 60), "red").save(f"{folder}/red.png")
        ...     images = cached_images(Path(folder), ["red.png"], size=16, cache=f"{folder}/cache")
        >>> images.pixels.shape, images.rows
        (torch.Size([1, 3, 16, 16]), tensor([0]))
    """
    folder = folder.resolve()
    place = cache_folder(cache) / _digest(folder, names, size, channels)
    stored = _stored(place)
    if stored is None:
        try:
            _write(place, folder, names, size, channels, max_corrupt)
        except OSError as error:
            raise ValueError(
                f"Expected to keep the decoded images of {str(folder)!r} in {str(place.parent)!r}; got {error}: name "
                "another folder by --data.cache DIR or LATENTMIX_CACHE."
            ) from error
        stored = _stored(place)
        assert stored is not None
    index, pixels = stored
    corrupt: dict[str, str] = index["corrupt"]
    _refuse_corrupt(folder, corrupt, max_corrupt)
    if len(corrupt) == len(names):
        raise ValueError(f"Expected images in {str(folder)!r}; got none that can be read: {_causes(corrupt)}.")
    if corrupt:
        warnings.warn(
            f"{len(corrupt)} of {len(names):,} files in {str(folder)!r} cannot be read and are left out: "
            f"{_causes(corrupt)}.",
            stacklevel=2,
        )
    rows = torch.tensor([row for row, name in enumerate(names) if name not in corrupt])
    return CachedImages(torch.from_numpy(pixels), rows)


def _digest(folder: Path, names: Sequence[str], size: int | tuple[int, int], channels: Channels) -> str:
    key = [FORMAT, PIL.__version__, str(folder), size, *([] if channels == 3 else [channels])]
    digest = hashlib.sha256(json.dumps(key).encode())
    for name in names:
        try:
            state = os.stat(folder / name)
            digest.update(json.dumps([name, state.st_size, state.st_mtime_ns]).encode())
        except OSError:
            digest.update(json.dumps([name]).encode())
    return digest.hexdigest()[:32]


def _stored(place: Path) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
    """The index and the pixels of a cache; `None` if it is absent or incomplete."""
    try:
        index = json.loads((place / "index.json").read_text())
        shape = tuple(index["shape"])
        if not shape[0]:
            return index, np.empty(shape, np.uint8)
        if (place / "pixels.bin").stat().st_size != np.prod(shape):
            return None
        # "c": private pages, writable for torch without changing the file
        return index, np.memmap(place / "pixels.bin", np.uint8, mode="c", shape=shape)
    except (OSError, ValueError, KeyError):
        return None


def _write(
    place: Path,
    folder: Path,
    names: Sequence[str],
    size: int | tuple[int, int],
    channels: Channels,
    max_corrupt: int,
) -> None:
    depth = channels if isinstance(channels, int) else 1 if all(_is_grey(folder / name) for name in names) else 3
    height, width = (size, size) if isinstance(size, int) else size
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="writing-", dir=place.parent) as writing:
        complete, corrupt = Path(writing) / "complete", dict[str, str]()
        complete.mkdir()
        with open(complete / "pixels.bin", "wb") as file, closing(_decoded(folder, names, size, depth)) as images:
            for name, decoded in images:
                if isinstance(decoded, Exception):
                    corrupt[name] = " ".join(str(decoded).replace(f"{folder}/", "").split()) or type(decoded).__name__
                    _refuse_corrupt(folder, corrupt, max_corrupt)
                else:
                    file.write(decoded.tobytes())
            file.flush()
            os.fsync(file.fileno())
        shape = (len(names) - len(corrupt), depth, height, width)
        index = {"folder": str(folder), "shape": shape, "corrupt": corrupt}
        write_atomically(complete / "index.json", json.dumps(index).encode())
        if _stored(place) is None:  # else another process was faster
            shutil.rmtree(place, ignore_errors=True)
            complete.rename(place)


def _is_grey(path: Path) -> bool:
    """Whether an image is grey by its mode; files that cannot be read, which are skipped later, count as grey."""
    try:
        with Image.open(path) as image:
            return image.mode in GREYS
    except Exception:  # as in decoding
        return True


def _decoded(
    folder: Path, names: Sequence[str], size: int | tuple[int, int], channels: int
) -> Generator[tuple[str, NDArray[np.uint8] | Exception]]:
    def attempt(name: str) -> NDArray[np.uint8] | Exception:
        try:
            return decode(folder / name, size, channels=channels)
        except Exception as error:  # Pillow's decoders raise exceptions of many kinds on what is no image
            return error

    bar = tqdm(total=len(names), desc="decoding images", unit=" images", disable=None, dynamic_ncols=True)
    with bar, ThreadPoolExecutor() as threads:
        for batch in batched(names, BATCH):
            for name, decoded in zip(batch, threads.map(attempt, batch), strict=True):
                yield name, decoded
                bar.update()


def _refuse_corrupt(folder: Path, corrupt: dict[str, str], most: int) -> None:
    if len(corrupt) > most:
        raise ValueError(
            f"Expected at most {most} files in {str(folder)!r} that cannot be read; got {_causes(corrupt)}, and "
            "perhaps more: repair or remove them, or allow more by --data.max_corrupt."
        )


def some(names: Sequence[str]) -> str:
    """The first of some names, and the number of the others."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _causes(corrupt: dict[str, str]) -> str:
    return some([f"{name} ({cause})" for name, cause in corrupt.items()])
