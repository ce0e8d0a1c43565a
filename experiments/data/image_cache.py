"""Image files decoded once into a memory-mapped file of bytes, with a list of those that cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import batched
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from latentmix.experiments.reading.limits import MAX_PIXELS
from latentmix.models.process_state import kept_warnings
from latentmix.models.reading import open_regular

try:
    import fcntl
except ImportError:  # on Windows processes are not told apart from their remains
    fcntl = None  # type: ignore[assignment]

__all__ = ["CachedImages", "cache_folder", "cached_images", "decode", "picture_limit", "some"]

FORMAT = 3  # of the cache and of `decode`; increase it when either changes
BATCH = 256
NAMED = 3
# Pillow reads more, some by running another program.
PILLOW_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)


class CachedImages(NamedTuple):
    """Decoded images of a folder.

    Attributes:
        pixels: An `N x 3 x size x size` uint8 tensor over a memory-mapped file; pages are read on use, and writes
            remain in memory.
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
        path: A regular file of one of `PILLOW_FORMATS`.
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
        >>> from latentmix.experiments.data.image_cache import decode
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (80, 60), "red").save(f"{folder}/red.png")
        ...     pixels = decode(Path(folder) / "red.png", 16)
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        ((3, 16, 16), [255, 0, 0])
    """
    height, width = (size, size) if isinstance(size, int) else size
    with open_regular(path) as stored, _pillow(stored, max_pixels, option) as file:
        if file.format not in PILLOW_FORMATS:
            raise ValueError(f"Expected a picture in one of {', '.join(PILLOW_FORMATS)}; got {file.format}")
        if file.width * file.height > max_pixels:
            raise ValueError(
                f"Expected a picture of at most {max_pixels:,} pixels; got {file.width:,} x {file.height:,}: allow "
                f"more by {option}"
            )
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


def _pillow(stored: BinaryIO, max_pixels: int, option: str) -> Image.Image:
    try:
        return Image.open(stored)
    except PIL.UnidentifiedImageError as error:
        raise ValueError("Expected a picture; got other content") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"Expected a picture of at most {max_pixels:,} pixels; got more: allow more by {option}"
        ) from (error)


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
    size: int,
    cache: str | None = None,
    max_corrupt: int = 10,
    max_pixels: int = MAX_PIXELS,
) -> CachedImages:
    """Images of a folder from the cache, decoded into it on first use.

    The key of a cache is the resolved folder; the names, sizes, inodes, and times of modification and of change of the
    files; the size of the images, `max_pixels` and the version of the decoder. Decoding shows a progress bar on a
    terminal. A cache is moved into place when it is complete, is decoded again when it is damaged, and may be deleted
    at any time. One process at a time decodes into a folder; it removes what killed ones have left there. Files that
    are missing or cannot be decoded are skipped, with one warning that names the first of them.

    Args:
        folder: Folder of the files.
        names: Names of the files, relative to the folder.
        size: Side of the images, in pixels.
        cache: Folder of the cache, see `cache_folder`.
        max_corrupt: Most unreadable files.
        max_pixels: Most pixels of a picture before it is resized, and of the images.

    Raises:
        ValueError: If more than `max_corrupt` files, or all of them, cannot be read, the images are to have more than
            `max_pixels`, or the cache cannot be written.

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
    if size * size > max_pixels:
        raise ValueError(
            f"Expected images of at most {max_pixels:,} pixels; got {size:,} x {size:,}: allow more by "
            "--data.max_pixels."
        )
    folder = folder.resolve()
    place = cache_folder(cache) / _digest(folder, names, size, max_pixels)
    stored = _stored(place, names, size)
    if stored is None:
        try:
            stored = _write(place, folder, names, size, max_corrupt, max_pixels)
        except OSError as error:
            raise ValueError(
                f"Expected to keep the decoded images of {str(folder)!r} in {str(place.parent)!r}; got {error}: name "
                "another folder by --data.cache DIR or LATENTMIX_CACHE."
            ) from error
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


def _digest(folder: Path, names: Sequence[str], size: int, max_pixels: int) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, PIL.__version__, str(folder), size, max_pixels]).encode())
    for name in names:
        try:
            state = os.stat(folder / name)
            times = (state.st_mtime_ns, state.st_ctime_ns)  # only the second changes whatever `touch` and `cp -p` do
            digest.update(json.dumps([name, state.st_size, state.st_ino, *times]).encode())
        except OSError:
            digest.update(json.dumps([name]).encode())
    return digest.hexdigest()[:32]


def _stored(place: Path, names: Sequence[str], size: int) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
    """The index and the pixels of a cache; `None` if it is absent, incomplete or damaged."""
    file = place / "pixels.bin"
    try:
        index = json.loads((place / "index.json").read_text())
        corrupt = index["corrupt"]
        shape = (sum(name not in corrupt for name in names), 3, size, size)
        expected = _index(index["folder"], shape, corrupt, file)
        if index != expected or not all(isinstance(cause, str) for cause in corrupt.values()):
            return None
        if not shape[0]:
            return index, np.empty(shape, np.uint8)
        # "c": private pages, writable for torch without changing the file
        return index, np.memmap(file, np.uint8, mode="c", shape=shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _index(folder: str, shape: tuple[int, ...], corrupt: dict[str, str], file: Path) -> dict[str, Any]:
    """The content of `index.json`: the file of pixels is known by its size and times, and the index by a digest."""
    state = os.stat(file)
    index: dict[str, Any] = {
        "folder": folder,
        "shape": list(shape),
        "corrupt": corrupt,
        "pixels": [state.st_size, state.st_mtime_ns, state.st_ctime_ns],
    }
    index["digest"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    return index


def _write(
    place: Path, folder: Path, names: Sequence[str], size: int, max_corrupt: int, max_pixels: int
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(place.parent):
        stored = _stored(place, names, size)
        if stored is not None:  # another process was faster
            return stored
        with tempfile.TemporaryDirectory(prefix="writing-", dir=place.parent) as writing:
            complete, corrupt = Path(writing) / "complete", dict[str, str]()
            complete.mkdir()
            decoded_images = _decoded(folder, names, size, max_pixels)
            with open(complete / "pixels.bin", "wb") as file, closing(decoded_images) as images:
                for name, decoded in images:
                    if isinstance(decoded, Exception):
                        text = " ".join(str(decoded).replace(f"{folder}/", "").split())
                        corrupt[name] = text or type(decoded).__name__
                        _refuse_corrupt(folder, corrupt, max_corrupt)
                    else:
                        file.write(decoded.tobytes())
            shape = (sum(name not in corrupt for name in names), 3, size, size)
            index = _index(str(folder), shape, corrupt, complete / "pixels.bin")
            (complete / "index.json").write_text(json.dumps(index))
            shutil.rmtree(place, ignore_errors=True)
            complete.rename(place)
        stored = _stored(place, names, size)
    if stored is None:
        raise ValueError(f"Expected the decoded images in {str(place)!r} to stay; got them removed or changed: retry.")
    return stored


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A block for one process at a time, which first removes what killed ones have left in the folder."""
    handle = None
    try:
        if fcntl is not None:
            try:
                handle = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    warnings.warn(
                        f"Waiting for another process that decodes images into {str(folder)!r}.", stacklevel=5
                    )
                    fcntl.flock(handle, fcntl.LOCK_EX)
                for left in folder.glob("writing-*"):
                    shutil.rmtree(left, ignore_errors=True)
            except OSError:  # a file system without locks: nothing is removed
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _decoded(
    folder: Path, names: Sequence[str], size: int, max_pixels: int
) -> Generator[tuple[str, NDArray[np.uint8] | Exception]]:
    def attempt(name: str) -> NDArray[np.uint8] | Exception:
        try:
            return decode(folder / name, size, max_pixels=max_pixels)
        except Exception as error:  # Pillow's decoders raise exceptions of many kinds on what is no image
            return error

    Image.init()  # its plugins, before threads ask for them
    bar = tqdm(total=len(names), desc="decoding images", unit=" images", disable=None, dynamic_ncols=True)
    with bar, picture_limit(max_pixels), ThreadPoolExecutor() as threads:
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
