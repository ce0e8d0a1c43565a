"""Folders of images: any folder, and CelebA's own layout. They come as RGB bytes from a cache of decoded images."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from mimetypes import MimeTypes
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentmix.experiments.data.celeba_lists import read_attributes, read_partition
from latentmix.experiments.data.image_cache import cached_images, some

__all__ = ["load_celeba", "load_image_folder"]

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
FORMATS = MimeTypes()  # the standard library's table alone, alike on every machine
PARTS = ("training", "validation", "test")


def load_image_folder(
    root: str | None, *, size: int = 64, cache: str | None = None, max_corrupt: int = 10
) -> tuple[Tensor, Tensor | None]:
    """All images under a folder, in the order of their names.

    Where every image lies in one of several sub-folders, these are the classes, numbered from 0 in the order of their
    names; where some lie beside the sub-folders there are no labels, and a warning names these. Links are followed, and
    every folder is read once, under its own name before that of a link. Hidden files and folders are skipped; a warning
    names images of other formats, broken links, and links to what is read already.

    Args:
        root: The folder; it is searched throughout for files of the suffixes in `EXTENSIONS`, in either case.
        size: The side of the images, in pixels.
        cache: The folder of the cache, see `cache_folder`.
        max_corrupt: How many files may be unreadable.

    Returns:
        An `N x 3 x size x size` uint8 tensor, and N labels or `None`.

    Raises:
        ValueError: Where there is no such folder or no image in it, or a folder below it cannot be read, and where
            `cached_images` does.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from latentmix.experiments.data.folders import load_image_folder
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
    images = cached_images(folder, names, size=size, cache=cache, max_corrupt=max_corrupt)
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


def load_celeba(
    root: str | None,
    *,
    size: int = 64,
    attribute: str | None = None,
    cache: str | None = None,
    max_corrupt: int = 10,
) -> tuple[list[tuple[Tensor, Tensor | None, Tensor]], tuple[str, ...]]:
    """CelebA in its own layout, or any folder laid out like it: faces, their attributes, their official partition.

    `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt` lie in `root/celeba`, or in `root`; so may
    Kaggle's `img_align_celeba/img_align_celeba/` and lists with the suffix `.csv`. An image that is missing or cannot
    be read is left out with its attributes.

    Source: Liu, Luo, Wang and Tang, 2015, "Deep learning face attributes in the wild",
    https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.

    Args:
        root: The folder that holds `celeba`.
        size: The side of the images, in pixels.
        attribute: The name of the attribute whose values, 0 and 1, are the labels; by default there are none.
        cache: The folder of the cache, see `cache_folder`.
        max_corrupt: How many files may be missing or unreadable.

    Returns:
        For training, validation and test `N x 3 x size x size` uint8 images, N labels or `None`, and `N x A` boolean
        attributes; and the A names of the attributes.

    Raises:
        ValueError: Where the layout is another, a list cannot be read, the attribute is unknown, a part of the
            partition is empty, and where `cached_images` does.
    """
    folder = _celeba_folder(root)
    present, names = read_attributes(folder)
    if attribute is not None and attribute not in names:
        near = _near(attribute, names)
        raise ValueError(f"Expected an attribute of {str(folder)!r}; got {attribute!r}: {near}.")
    files, part = read_partition(folder)
    unknown = sorted(set(files) - set(present))
    if unknown:
        raise ValueError(
            f"Expected the files of list_eval_partition.txt in list_attr_celeba.txt, too, in {str(folder)!r}; got "
            f"none for {unknown[0]}."
        )
    order = part.argsort(kind="stable")  # each part is one slice of the cache
    files = [files[row] for row in order]
    pictures = folder / "img_align_celeba"
    if (pictures / pictures.name).is_dir():
        pictures = pictures / pictures.name
    images = cached_images(pictures, files, size=size, cache=cache, max_corrupt=max_corrupt)
    attributes = torch.from_numpy(np.stack([present[files[row]] for row in images.rows.tolist()]))
    labels = None if attribute is None else attributes[:, names.index(attribute)].long()
    counts = np.bincount(part[order][images.rows.numpy()], minlength=3).tolist()
    splits, start = [], 0
    for name, count in zip(PARTS, counts, strict=True):
        if not count:
            raise ValueError(f"Expected {name} images in list_eval_partition.txt of {str(folder)!r}; got none.")
        rows = slice(start, start + count)
        splits.append((images.pixels[rows], None if labels is None else labels[rows], attributes[rows]))
        start += count
    return splits, names


def _image_names(folder: Path) -> list[str]:
    """Names of the image files below a folder, relative to it, with forward slashes, sorted."""
    names, skipped = list[str](), list[str]()
    read = set[str]()
    starts = [folder]  # links come after all folders that are none, so that these keep their own names
    for start in starts:
        for place, folders, files in os.walk(start, onerror=_refuse_unreadable):
            real = os.path.realpath(place)
            below = Path(place).relative_to(folder)
            if real in read:
                folders.clear()
                if real not in map(os.path.realpath, Path(place).parents):  # else it is a cycle, and nothing is lost
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


def _celeba_folder(root: str | None) -> Path:
    remedy = "name the folder that holds it by --data.root DIR or LATENTMIX_DATA"
    if root is None:
        raise ValueError(f"Expected a folder that holds celeba/img_align_celeba; got none: {remedy}.")
    path = Path(root).expanduser()
    for folder in (path / "celeba", path):
        if (folder / "img_align_celeba").is_dir():
            return folder
        if (folder / "img_align_celeba.zip").is_file():
            remedy = f"unpack img_align_celeba.zip in {str(folder)!r}"
    raise ValueError(f"Expected celeba/img_align_celeba in the data root; got {root!r} without it: {remedy}.")


def _near(attribute: str, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(attribute.lower(), lowered, n=3, cutoff=0.4)
    found = [lowered[name] for name in near]
    return f"did you mean {' or '.join(found)}?" if found else f"there are {', '.join(names)}"
