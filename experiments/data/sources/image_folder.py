"""Any folder of images, decoded to bytes through a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.folders import Layout, image_names
from latentmix.experiments.data.image_cache import CachedImages, Channels, cached_images
from latentmix.experiments.data.labels import number_labels
from latentmix.experiments.reading.limits import MAX_PIXELS
from latentmix.experiments.reading.paths import user_path

__all__ = ["SOURCES", "load_image_folder"]


def load_image_folder(
    root: str | None,
    *,
    size: int | tuple[int, int] = 64,
    channels: Channels = 3,
    cache: str | None = None,
    max_corrupt: int = 10,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, Tensor | None]:
    """All images under a folder, of all splits, in the order of their names.

    Sub-folders are splits and classes as `Layout.of` says; the classes are numbered by `number_labels`.

    Args:
        root: The folder; it is searched by `image_names`.
        size: Side of the images, or height and width, in pixels.
        channels: 3 for RGB, 1 for grey; `auto` is 1 if all images are grey.
        cache: Folder of the cache, see `cache_folder`.
        max_corrupt: Most unreadable files.
        max_pixels: Most pixels of a picture before it is resized.

    Returns:
        An `N x channels x height x width` uint8 tensor, and N labels or `None`.

    Raises:
        ValueError: As `image_names`, `Layout.of` and `cached_images` do.

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
    options = {"size": size, "channels": channels, "max_corrupt": max_corrupt, "max_pixels": max_pixels}
    layout, images = _load(root, cache=cache, **options)
    return images.pixels, _labels(root, layout, images)[0]


def _load(root: str | None, **options: Any) -> tuple[Layout, CachedImages]:
    if root is None:
        raise ValueError("Expected a folder of images for image_folder; got none: name it by --data.root DIR.")
    folder = user_path(root)
    layout = Layout.of(folder, image_names(folder))
    return layout, cached_images(folder, layout.names, **options)


def _labels(root: str | None, layout: Layout, images: CachedImages) -> tuple[Tensor | None, dict[int, str]]:
    """Labels of the readable images, and the names of the classes."""
    if not layout.classes:
        return None, {}
    labels, names = number_labels(np.array(layout.classes), repr(root))
    return labels[images.rows], names


def _read(
    root: str | None,
    max_corrupt: int,
    seed: int,
    size: int | tuple[int, int] = 64,
    channels: Channels = 3,
    cache: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Reading:
    options = {"size": size, "channels": channels, "max_corrupt": max_corrupt, "max_pixels": max_pixels}
    layout, images = _load(root, cache=cache, **options)
    labels, names = _labels(root, layout, images)
    whole = Split(images.pixels, labels)
    if not layout.splits:
        return Reading([whole], class_names=names)
    of_split = np.array(layout.splits)[images.rows.numpy()]
    generator, splits = torch.Generator().manual_seed(seed), list[Split | None]()
    for name in ("train", "validation", "test"):
        rows = torch.from_numpy((of_split == name).nonzero()[0])
        order = torch.randperm(len(rows), generator=generator)  # names are in the order of the classes
        splits.append(whole.take(rows[order]) if len(rows) else None)
    if splits[0] is None:
        raise ValueError(f"Expected training images that can be read in {root!r}; got none.")
    return Reading(splits, class_names=names)


SOURCES = (Source("image_folder", _read, shared_root=False),)
