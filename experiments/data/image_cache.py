"""Image files decoded once into a memory-mapped file of bytes, with a list of those that cannot be read."""

from __future__ import annotations

import errno
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
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.experiments.reading.limits import MAX_PIXELS
from latentmix.experiments.reading.paths import user_path
from latentmix.experiments.reading.pictures import decode, is_grey, picture_limit
from latentmix.models.files import write_atomically
from latentmix.models.reading import one_sentence, open_regular, read_json
from latentmix.models.words import plural

try:
    import fcntl
except ImportError:  # on Windows processes are not told apart from their remains
    fcntl = None  # type: ignore[assignment]

__all__ = ["CachedImages", "Channels", "cache_folder", "cached_images", "some"]

Channels = Literal["auto", 1, 3]

FORMAT = 3  # of the cache and of `decode`; increase it when either changes
BATCH = 256
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the process, or the system, has no more of something
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
        return user_path(named).resolve()
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").resolve() / "latentmix"


def cached_images(
    folder: Path,
    names: Sequence[str],
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    cache: str | None = None,
    max_corrupt: int = 10,
    max_pixels: int = MAX_PIXELS,
) -> CachedImages:
    """Images of a folder from the cache, decoded into it on first use.

    The key of a cache is the resolved folder; the names, sizes, inodes, and times of modification and of change of the
    files; height, width and `channels` of the images, `max_pixels` and the version of the decoder. Decoding shows a
    progress bar on a terminal. A cache is moved into place when it is complete, is decoded again when it is damaged,
    and may be deleted at any time. One process at a time decodes into a folder; it removes what killed ones have left
    there. Files that are missing or cannot be decoded are skipped, with one warning that names the first of them.

    Args:
        folder: Folder of the files.
        names: Names of the files, relative to the folder.
        size: Side of the images, or height and width, in pixels.
        channels: 3 for RGB, 1 for grey; `auto` is 1 if all images are grey.
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
    height, width = (size, size) if isinstance(size, int) else size
    if height * width > max_pixels:
        raise ValueError(
            f"Expected images of at most {max_pixels:,} pixels; got {height:,} x {width:,}: allow more by "
            "--data.max_pixels."
        )
    wanted = _Wanted(folder.resolve(), names, (height, width), channels, max_pixels)
    place = cache_folder(cache) / wanted.digest()
    stored = wanted.stored(place)
    if stored is None:
        try:
            stored = wanted.write(place, max_corrupt)
        except OSError as error:
            raise ValueError(
                f"Expected to keep the decoded images of {str(wanted.folder)!r} in {str(place.parent)!r}; got "
                f"{one_sentence(error)}: name another folder by --data.cache DIR or LATENTMIX_CACHE."
            ) from error
    index, pixels = stored
    corrupt: dict[str, str] = index["corrupt"]
    _refuse_corrupt(wanted.folder, corrupt, max_corrupt)
    if len(corrupt) == len(names):
        raise ValueError(f"Expected images in {str(wanted.folder)!r}; got none that can be read: {_causes(corrupt)}.")
    if corrupt:
        warnings.warn(
            f"{len(corrupt)} of {len(names):,} files in {str(wanted.folder)!r} cannot be read and "
            f"{'is' if len(corrupt) == 1 else 'are'} left out: {_causes(corrupt)}.",
            stacklevel=2,
        )
    rows = torch.tensor([row for row, name in enumerate(names) if name not in corrupt])
    return CachedImages(torch.from_numpy(pixels), rows)


class _Wanted(NamedTuple):
    """The images that a cache is to hold.

    Attributes:
        folder: Folder of the files, resolved.
        names: Names of the files.
        size: Height and width.
        channels: As for `cached_images`.
        max_pixels: As for `cached_images`.
    """

    folder: Path
    names: Sequence[str]
    size: tuple[int, int]
    channels: Channels
    max_pixels: int

    def digest(self) -> str:
        """The key of the cache, as a word."""
        key = [FORMAT, PIL.__version__, str(self.folder), self.size, self.channels, self.max_pixels]
        digest = hashlib.sha256(json.dumps(key).encode())
        for name in self.names:
            try:
                state = os.stat(self.folder / name)
                times = (state.st_mtime_ns, state.st_ctime_ns)  # the second changes whatever `touch` and `cp -p` do
                digest.update(json.dumps([name, state.st_size, state.st_ino, *times]).encode())
            except OSError:
                digest.update(json.dumps([name]).encode())
        return digest.hexdigest()[:32]

    def stored(self, place: Path) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
        """The index and the pixels of a cache; `None` if it is absent, incomplete or damaged."""
        file = place / "pixels.bin"
        try:
            index = read_json(place / "index.json", "the index of a cache")
            corrupt, depth = index["corrupt"], index["shape"][1]
            shape = self._shape(corrupt, depth)
            whole = index == _index(index["folder"], shape, corrupt, file)
            if not whole or depth not in ((1, 3) if self.channels == "auto" else (self.channels,)):
                return None
            if not all(isinstance(cause, str) for cause in corrupt.values()):
                return None
            if not shape[0]:
                return index, np.empty(shape, np.uint8)
            with open_regular(file) as opened:
                # "c": private pages, writable for torch without changing the file
                return index, np.memmap(opened, np.uint8, mode="c", shape=shape)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, place: Path, max_corrupt: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Decode the images into a cache, unless another process has, and read it."""
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(place.parent):
            stored = self.stored(place)
            if stored is not None:  # another process was faster
                return stored
            with tempfile.TemporaryDirectory(prefix="writing-", dir=place.parent) as writing:
                complete = Path(writing) / "complete"
                complete.mkdir()
                with picture_limit(self.max_pixels):
                    self._write_pixels(complete, max_corrupt)
                _remove(place)
                complete.rename(place)
            stored = self.stored(place)
        if stored is None:
            raise ValueError(
                f"Expected the decoded images in {str(place)!r} to stay; got them removed or changed: retry."
            )
        return stored

    def _write_pixels(self, place: Path, max_corrupt: int) -> None:
        depth, corrupt = self.channels, dict[str, str]()
        if depth == "auto":
            grey = all(is_grey(self.folder / name, max_pixels=self.max_pixels) for name in self.names)
            depth = 1 if grey else 3
        with open(place / "pixels.bin", "wb") as file, closing(self._decoded(depth)) as images:
            for name, decoded in images:
                if isinstance(decoded, Exception):
                    corrupt[name] = one_sentence(decoded).replace(f"{self.folder}/", "").rstrip(".")
                    _refuse_corrupt(self.folder, corrupt, max_corrupt)
                else:
                    file.write(decoded.tobytes())
            file.flush()
            os.fsync(file.fileno())
        index = _index(str(self.folder), self._shape(corrupt, depth), corrupt, place / "pixels.bin")
        write_atomically(place / "index.json", json.dumps(index).encode())

    def _shape(self, corrupt: dict[str, str], depth: int) -> tuple[int, int, int, int]:
        return (sum(name not in corrupt for name in self.names), depth, *self.size)

    def _decoded(self, channels: int) -> Generator[tuple[str, NDArray[np.uint8] | Exception]]:
        def attempt(name: str) -> NDArray[np.uint8] | Exception:
            try:
                return decode(self.folder / name, self.size, channels=channels, max_pixels=self.max_pixels)
            except Exception as error:  # Pillow's decoders raise exceptions of many kinds on what is no image
                if isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORT:
                    raise  # the picture is not at fault, and is not to be kept as one that cannot be read
                return error

        Image.init()  # its plugins, before threads ask for them
        bar = tqdm(total=len(self.names), desc="decoding images", unit=" images", disable=None, dynamic_ncols=True)
        with bar, ThreadPoolExecutor() as threads:
            for batch in batched(self.names, BATCH):
                for name, decoded in zip(batch, threads.map(attempt, batch), strict=True):
                    yield name, decoded
                    bar.update()


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


def _remove(place: Path) -> None:
    """Remove what is in the place of a cache; a link is not followed."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


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


def _refuse_corrupt(folder: Path, corrupt: dict[str, str], most: int) -> None:
    if len(corrupt) > most:
        raise ValueError(
            f"Expected at most {plural(most, 'file')} in {str(folder)!r} that cannot be read; got {_causes(corrupt)}, "
            "and perhaps more: repair or remove them, or allow more by --data.max_corrupt."
        )


def some(names: Sequence[str]) -> str:
    """The first of some names, and the number of the others."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _causes(corrupt: dict[str, str]) -> str:
    return some([f"{name} ({cause})" for name, cause in corrupt.items()])
