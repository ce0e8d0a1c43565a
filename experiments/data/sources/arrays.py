"""Arrays in a file, `.npz` or `.npy`, and images in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.pixels import to_bytes
from latentmix.experiments.reading.arrays import read_array, read_arrays
from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.experiments.reading.paths import user_path

__all__ = ["images_of_arrays", "load_file", "stored_arrays"]

KEYS = {"points": "x", "x": "x", "images": "images", "y": "labels", "labels": "labels", "columns": "columns"}


def load_file(
    path: str, *, max_gib: float = MAX_GIB, option: str = "--data.max_gib"
) -> tuple[Tensor, NDArray[Any] | None]:
    """Images, and labels if there are any, from a file of arrays, see `stored_arrays` and `images_of_arrays`."""
    return images_of_arrays(stored_arrays(user_path(path), max_gib=max_gib, option=option), path)


def images_of_arrays(arrays: Mapping[str, NDArray[Any]], path: str) -> tuple[Tensor, NDArray[Any] | None]:
    """Images, and labels if there are any, in the arrays of a file.

    Images are `N x H x W`, `N x C x H x W` or `N x H x W x C` with C 1 or 3 (channels first if the shape is
    ambiguous): uint8 in 0..255, or floats in [0, 1] or booleans, which are scaled by 255 and rounded.

    Args:
        arrays: What `stored_arrays` gave.
        path: The file, for messages.

    Returns:
        An `N x C x H x W` uint8 tensor, and its N labels or `None`.

    Raises:
        ValueError: On images or labels of another shape, type or range.
    """
    images = _to_images(arrays["images"] if "images" in arrays else arrays["x"], path)
    labels = arrays.get("labels")
    if labels is not None:
        expected = (len(images),)
        _require(labels.shape == expected, f"labels of shape {expected} in {path!r}, one per image", labels.shape)
    return images, labels


def stored_arrays(
    path: Path, label: str | None = None, *, max_gib: float = MAX_GIB, option: str = "--data.max_gib"
) -> dict[str, NDArray[Any]]:
    """The arrays of a file; nothing is unpickled.

    Args:
        path: A `.npy` file of one array; or a `.npz` file of an array `x` (or `images`, or `points`) and optionally of
            `labels` (or `y`) and of `columns`.
        label: The name of the array of labels in a `.npz` file, if it is another.
        max_gib: Most memory of an array, in GiB.
        option: The option that raises it, for the message.

    Returns:
        The arrays under the names `images`, or else `x`, and `labels` and `columns`.

    Raises:
        ValueError: On a missing or unreadable file, and on a file without images and points.
    """
    if not path.exists():
        raise ValueError(f"Expected a file of images or points at {str(path)!r}; got no such file.")
    if path.suffix == ".npy":
        return {"x": read_array(path, max_gib=max_gib, option=option)}
    keys = KEYS if label is None else {**KEYS, label: "labels"}
    stored, names = read_arrays(path, keys, max_gib=max_gib, option=option)
    arrays = {name: stored[key] for key, name in keys.items() if key in stored}
    present = "x" in arrays or "images" in arrays
    _require(present, f"an array 'images' (or 'x', or 'points') in {str(path)!r}", names or "no array")
    return arrays


def _to_images(images: NDArray[Any], path: str) -> Tensor:
    _require(images.size > 0, f"at least one image in {path!r}", f"an empty array of shape {images.shape}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    _require(
        images.ndim == 4 and images.shape[1] in (1, 3),
        f"images of shape N x H x W, N x C x H x W or N x H x W x C (C 1 or 3) in {path!r}",
        images.shape,
    )
    if images.dtype == np.uint8:
        _require(
            images.max() != 1,
            f"uint8 pixels over 0..255 in {path!r}",
            "a largest pixel of 1: save two-valued images as booleans",
        )
        return torch.from_numpy(np.ascontiguousarray(images))
    _require(
        images.dtype == np.bool_ or np.issubdtype(images.dtype, np.floating),
        f"uint8, boolean or floating-point pixels in {path!r}",
        f"{images.dtype}: convert them to uint8 in 0..255, or to floats in [0, 1]",
    )
    bad = ~((images >= 0) & (images <= 1))
    if bad.any():
        row = int(bad.reshape(len(images), -1).any(axis=1).argmax())
        value = images[row][bad[row]][0]
        raise ValueError(f"Expected pixels in [0, 1] in {path!r}; got {value} in row {row}.")
    return to_bytes(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)))


def _require(condition: bool | np.bool_, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"Expected {expected}; got {got}.")
