"""Any folder of images, decoded to RGB bytes through a cache."""

from __future__ import annotations

import os
import warnings
from mimetypes import MimeTypes
from pathlib import Path

import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.image_cache import cached_images, some
from latentmix.experiments.reading.limits import MAX_PIXELS

__all__ = ["SOURCES", "load_image_folder"]

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
FORMATS = MimeTypes()  # the standard library's own table, the same on every machine


def load_image_folder(
    root: str | None,
    *,
    size: int = 64,
    cache: str | None = None,
    max_corrupt: int = 10,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, Tensor | None]:
    """All images under a folder, in the order of their names.

    If every image is in one of several sub-folders, these are the classes, numbered from 0 in the order of their names;
    if some images are beside the sub-folders there are no labels, and a warning names those images. Links are followed,
    and every folder is read once, under its own name rather than that of a link. Hidden files and folders are skipped;
    a warning names images of other formats, broken links, and links to folders that have been read.

    Args:
        root: The folder; it is searched recursively for files with the suffixes in `EXTENSIONS`, in either case.
        size: Side of the images, in pixels.
        cache: Folder of the cache, see `cache_folder`.
        max_corrupt: Most unreadable files.
        max_pixels: Most pixels of a picture before it is resized.

    Returns:
        An `N x 3 x size x size` uint8 tensor, and N labels or `None`.

    Raises:
        ValueError: If there is no such folder or no image in it, or a folder below it cannot be read; and as
            `cached_images` does.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from latentmix.experiments.data.sources.image_folder import load_image_folder
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Image.new("RGB", (80, 60)).save(f"{root}/black.png")
        ...     images, labels = load_image_folder(root, size=16, cache=f"{root}/cache")
        >>> images.shape, labels
        (torch.Size([1, 3, 16, 16]), None)
    """
    if root is None:
        raise ValueError("Expected a folder of images for image_folder; got none: name it by --data.root DIR.")
    folder = Path(root).expanduser()
    names = _image_names(folder)
    if not names:
        raise ValueError(
            f"Expected images ({', '.join(EXTENSIONS)}) in the folder {str(folder)!r} or below it; got "
            f"{'none' if folder.is_dir() else 'no such folder'}."
        )
    images = cached_images(folder, names, size=size, cache=cache, max_corrupt=max_corrupt, max_pixels=max_pixels)
    groups = [Path(name).parts[0] if "/" in name else None for name in names]
    classes = sorted({group for group in groups if group is not None})
    if len(classes) > 1 and None in groups:
        stray = [name for name, group in zip(names, groups, strict=True) if group is None]
        warnings.warn(
            f"{len(stray):,} of {len(names):,} images lie beside the sub-folders of {str(folder)!r}, so that there are "
            f"no labels: {some(stray)}. Move them into sub-folders to have these as classes.",
            stacklevel=2,
        )
    if None in groups or len(classes) < 2:
        return images.pixels, None
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[group] for group in groups if group is not None])
    return images.pixels, labels[images.rows]


def _image_names(folder: Path) -> list[str]:
    """Names of the image files below a folder, relative to it, with forward slashes, sorted."""
    names, skipped = list[str](), list[str]()
    read = set[str]()
    starts = [folder]  # links come after all other folders, so that these keep their own names
    for start in starts:
        for place, folders, files in os.walk(start, onerror=_refuse_unreadable):
            real = os.path.realpath(place)
            below = Path(place).relative_to(folder)
            if real in read:
                folders.clear()
                if real not in map(os.path.realpath, Path(place).parents):  # else it is a cycle, and nothing is skipped
                    skipped.append(f"{below.as_posix()} (is read already)")
                continue
            read.add(real)
            visible = sorted(name for name in folders if not name.startswith("."))
            folders[:] = [name for name in visible if not os.path.islink(os.path.join(place, name))]
            starts += [Path(place, name) for name in visible if name not in folders]
            for name in sorted(name for name in files if not name.startswith(".")):
                kind, _ = FORMATS.guess_type(name)
                if name.lower().endswith(EXTENSIONS):
                    names.append((below / name).as_posix())
                elif not os.path.exists(os.path.join(place, name)):
                    skipped.append(f"{(below / name).as_posix()} (a broken link)")
                elif kind is not None and kind.startswith("image/"):
                    skipped.append(f"{(below / name).as_posix()} ({kind})")
    if skipped:
        warnings.warn(
            f"{len(skipped):,} files and links in {str(folder)!r} are left out: {some(skipped)}.", stacklevel=3
        )
    return sorted(names)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ValueError(f"Expected folders that can be read; got {error}.") from error


def _read(
    root: str | None, max_corrupt: int, size: int = 64, cache: str | None = None, max_pixels: int = MAX_PIXELS
) -> Reading:
    options = {"size": size, "max_corrupt": max_corrupt, "max_pixels": max_pixels}
    return Reading([Split(*load_image_folder(root, cache=cache, **options))])


SOURCES = (Source("image_folder", _read, shared_root=False),)
