"""Images in a file of arrays, `.npz` or `.npy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.pixels import to_bytes
from latentmix.experiments.reading.arrays import read_array, read_arrays
from latentmix.experiments.reading.limits import MAX_GIB

__all__ = ["SOURCES", "load_file"]


def load_file(path: str, *, max_gib: float = MAX_GIB, option: str = "--data.max_gib") -> tuple[Tensor, Tensor | None]:
    """Images, and labels if there are any, from a file of arrays; nothing is unpickled.

    A `.npy` file holds only images; a `.npz` file holds `images` (or `x`) and, if they are labelled, `labels`
    (or `y`). Images are `N x H x W`, `N x C x H x W` or `N x H x W x C` with C 1 or 3 (channels first if the shape is
    ambiguous): uint8 in 0..255, or floats in [0, 1] or booleans, which are scaled by 255 and rounded.

    Args:
        path: The file.
        max_gib: Most memory of an array, in GiB.
        option: The option that raises it, for the message.

    Returns:
        An `N x C x H x W` uint8 tensor, and its N labels or `None`.

    Raises:
        ValueError: On a missing or unreadable file, and on images or labels of another shape, type or range.
    """
    arrays = _read_arrays(Path(path).expanduser(), max_gib, option)
    images = _to_images(arrays["images"], path)
    labels = arrays.get("labels")
    return images, None if labels is None else _to_labels(labels, len(images), path)


def _read_arrays(path: Path, max_gib: float, option: str) -> dict[str, NDArray[Any]]:
    if not path.exists():
        raise ValueError(f"Expected a file of images at {str(path)!r}; got no such file.")
    if path.suffix == ".npy":
        return {"images": read_array(path, max_gib=max_gib, option=option)}
    keys = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}
    stored, names = read_arrays(path, keys, max_gib=max_gib, option=option)
    arrays = {name: stored[key] for key, name in keys.items() if key in stored}
    _require("images" in arrays, f"an array 'images' (or 'x') in {str(path)!r}", names or "no array")
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


def _to_labels(labels: NDArray[Any], count: int, path: str) -> Tensor:
    _require(labels.shape == (count,), f"labels of shape ({count},) in {path!r}, one per image", labels.shape)
    _require(np.issubdtype(labels.dtype, np.integer), f"integer labels in {path!r}", labels.dtype)
    _require(labels.min() >= 0, f"labels >= 0 in {path!r}", labels.min())
    _require(labels.max() < 2**63, f"labels below 2**63 in {path!r}", labels.max())
    return torch.from_numpy(labels.astype(np.int64))


def _require(condition: bool | np.bool_, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"Expected {expected}; got {got}.")


def _read(source: str, max_gib: float = MAX_GIB) -> Reading:
    return Reading([Split(*load_file(source, max_gib=max_gib))])


SOURCES = (Source("file", _read, suffixes=(".npz", ".npy")),)
