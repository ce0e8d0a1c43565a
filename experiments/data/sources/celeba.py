"""CelebA in its own layout, decoded to RGB bytes through a cache."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.celeba_lists import read_attributes, read_partition
from latentmix.experiments.data.image_cache import cached_images
from latentmix.experiments.reading.limits import MAX_PIXELS
from latentmix.experiments.reading.paths import user_path

__all__ = ["SOURCES", "load_celeba"]

PARTS = ("training", "validation", "test")


def load_celeba(
    root: str | None,
    *,
    size: int | tuple[int, int] = 64,
    attribute: str | None = None,
    cache: str | None = None,
    max_corrupt: int = 10,
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[tuple[Tensor, Tensor | None, Tensor]], tuple[str, ...]]:
    """CelebA in its own layout, or any folder laid out like it: faces, their attributes, their official partition.

    `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt` are in `root/celeba`, or in `root`;
    Kaggle's `img_align_celeba/img_align_celeba/` and lists with the suffix `.csv` are read, too. An image that is
    missing or cannot be read is skipped with its attributes.

    Source: Liu, Luo, Wang and Tang, 2015, "Deep learning face attributes in the wild",
    https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.

    Args:
        root: The folder that holds `celeba`.
        size: Side of the images, or height and width, in pixels.
        attribute: Name of the attribute whose values, 0 and 1, are the labels; by default there are none.
        cache: Folder of the cache, see `cache_folder`.
        max_corrupt: Most missing or unreadable files.
        max_pixels: Most pixels of a picture before it is resized.

    Returns:
        For training, validation and test `N x 3 x height x width` uint8 images, N labels or `None`, and `N x A` boolean
        attributes; and the A names of the attributes.

    Raises:
        ValueError: If the layout is another, a list cannot be read, the attribute is unknown, or a part of the
            partition is empty; and as `cached_images` does.
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
    images = cached_images(pictures, files, size=size, cache=cache, max_corrupt=max_corrupt, max_pixels=max_pixels)
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


def _celeba_folder(root: str | None) -> Path:
    remedy = "name the folder that holds it by --data.root DIR or LATENTMIX_DATA"
    if root is None:
        raise ValueError(f"Expected a folder that holds celeba/img_align_celeba; got none: {remedy}.")
    path = user_path(root)
    for folder in (path / "celeba", path):
        if (folder / "img_align_celeba").is_dir():
            return folder
        if (folder / "img_align_celeba.zip").is_file():
            remedy = f"unpack img_align_celeba.zip in {str(folder)!r}"
    raise ValueError(f"Expected celeba/img_align_celeba in the data root; got {root!r} without it: {remedy}.")


def _near(attribute: str, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = [lowered[name] for name in difflib.get_close_matches(attribute.lower(), lowered, n=3, cutoff=0.4)]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


def _read(
    root: str | None,
    max_corrupt: int,
    size: int | tuple[int, int] = 64,
    attribute: str | None = None,
    cache: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Reading:
    parts, names = load_celeba(
        root, size=size, attribute=attribute, cache=cache, max_corrupt=max_corrupt, max_pixels=max_pixels
    )
    class_names = {} if attribute is None else {0: f"not {attribute}", 1: attribute}
    return Reading([Split(*part) for part in parts], names, class_names=class_names)


SOURCES = (Source("celeba", _read),)
