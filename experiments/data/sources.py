"""Where images come from: scikit-learn's digits and photographs, torchvision's data sets, and files of arrays.

Every function gives `N x C x H x W` uint8 images with `N` int64 labels, or `None` where a file holds none.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCKS = (3, 5)  # rows and columns of the blocks that a photograph is cut into
STRIDE = 9
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def load_digits(size: int = 28) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn carries (8 x 8, 17 grey levels), upsampled bicubically.

    Source: Alpaydin and Kaynak, 1998, https://archive.ics.uci.edu/dataset/80 (its test set).

    Args:
        size: The side of the upsampled images, in pixels.

    Returns:
        A `1797 x 1 x size x size` uint8 tensor and its 1797 labels, in scikit-learn's order.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0
    grey = torch.nn.functional.interpolate(grey, size=(size, size), mode="bicubic", align_corners=False)
    return _to_uint8(grey), torch.from_numpy(digits.target).long()


def load_patches(size: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Overlapping colour patches of the two photographs that scikit-learn carries, 427 x 640 pixels each.

    A photograph is cut into 3 x 5 blocks of 142 x 128 pixels: in every row of blocks one is for validation, another for
    testing and three are for training, at columns that change from row to row. Patches lie on a grid of 9 pixels within
    a block, so that they overlap, but those of different splits share no pixel: for 32 x 32, 2,574 training, 858
    validation and 858 test patches.

    Args:
        size: The side of the patches, in pixels.
        seed: The seed of the patches' order within a split; what a split holds does not depend on it.

    Returns:
        For training, validation and test an `N x 3 x size x size` uint8 tensor, and N labels: 0 for the photograph of
        the temple, 1 for the flower.

    Raises:
        ValueError: Where the patches are larger than the blocks.

    Example:
        >>> from latentmix.experiments.data.sources import load_patches
        >>> [tuple(patches.shape) for patches, _ in load_patches(64)]
        [(1296, 3, 64, 64), (432, 3, 64, 64), (432, 3, 64, 64)]
    """
    from sklearn import datasets

    photographs = np.stack(datasets.load_sample_images().images)
    high, wide = photographs.shape[1] // BLOCKS[0], photographs.shape[2] // BLOCKS[1]
    if size > min(high, wide):
        raise ValueError(f"Expected patches of at most {min(high, wide)} pixels for natural_patches; got {size}.")
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for blocks in _blocks():
        corners = [
            (row * high + down, column * wide + across)
            for row, column in blocks
            for down in range(0, high - size + 1, STRIDE)
            for across in range(0, wide - size + 1, STRIDE)
        ]
        cut = np.stack([photographs[:, top : top + size, left : left + size] for top, left in corners], 1)
        patches = torch.from_numpy(cut.reshape(-1, size, size, 3)).permute(0, 3, 1, 2)
        labels = torch.arange(len(photographs)).repeat_interleave(len(corners))
        order = torch.randperm(len(patches), generator=generator)
        splits.append((patches[order].contiguous(), labels[order]))
    return splits


def _blocks() -> list[list[tuple[int, int]]]:
    """Row and column of the blocks of training, validation and test."""
    rows, columns = BLOCKS
    validation = [(row, (2 * row + 1) % columns) for row in range(rows)]
    test = [(row, (2 * row + 3) % columns) for row in range(rows)]
    held_out = {*validation, *test}
    every = [(row, column) for row in range(rows) for column in range(columns)]
    return [[block for block in every if block not in held_out], validation, test]


def load_torchvision(name: str, root: str | None, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """One official split of MNIST, Fashion-MNIST or Kuzushiji-MNIST, in torchvision's layout on disk.

    Args:
        name: A key of `TORCHVISION`.
        root: The folder that holds `MNIST/raw` and its like.
        train: The training split, else the test split.
        download: Fetch what is missing into `root`.

    Returns:
        An `N x 1 x 28 x 28` uint8 tensor and its N labels.

    Raises:
        ValueError: Where the files are not there or cannot be read; the message says how to get them.
    """
    folder = f"{TORCHVISION[name]}/raw"
    remedy = "name the folder by --data.root DIR or LATENTMIX_DATA, or fetch it by --data.download true"
    if root is None:
        raise ValueError(f"Expected a folder that holds {folder} for {name}; got none: {remedy}.")
    path = Path(root).expanduser()
    if not download and not (path / folder).is_dir():
        raise ValueError(f"Expected {folder} in the data root for {name}; got {root!r} without it: {remedy}.")

    from torchvision import datasets

    try:
        dataset = getattr(datasets, TORCHVISION[name])(path, train=train, download=download)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected the files of {name} in {root!r}; got {cause!r}: {remedy}.") from error
    return dataset.data.unsqueeze(1), dataset.targets.long()


def load_file(path: str) -> tuple[Tensor, Tensor | None]:
    """Images, and labels where there are any, from a file of arrays; never unpickled.

    A `.npy` file holds images alone; a `.npz` file holds `images` (or `x`) and, if it is labelled, `labels`
    (or `y`). Images are `N x H x W`, `N x C x H x W` or `N x H x W x C` with C 1 or 3 (channels first where
    both readings fit): uint8 in 0..255, or floats in [0, 1] or booleans, which are scaled by 255 and rounded.

    Returns:
        An `N x C x H x W` uint8 tensor, and its N labels or `None`.

    Raises:
        ValueError: On a missing or unreadable file, and on images or labels of another shape, type or range.
    """
    arrays = _read_arrays(Path(path).expanduser())
    images = _to_images(arrays["images"], path)
    labels = arrays.get("labels")
    return images, None if labels is None else _to_labels(labels, len(images), path)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ValueError(f"Expected a file of images at {str(path)!r}; got no such file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            names = sorted(loaded.files)
            keys = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}
            arrays = {name: loaded[key] for key, name in keys.items() if key in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        cause = "pickled objects" if "allow_pickle" in str(error) else "something else"
        raise ValueError(f"Expected arrays of numbers in {str(path)!r}; got {cause}.") from error
    _require("images" in arrays, f"an array 'images' (or 'x') in {str(path)!r}", names)
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
    return _to_uint8(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)))


def _to_labels(labels: NDArray[Any], count: int, path: str) -> Tensor:
    _require(labels.shape == (count,), f"labels of shape ({count},) in {path!r}, one per image", labels.shape)
    _require(np.issubdtype(labels.dtype, np.integer), f"integer labels in {path!r}", labels.dtype)
    _require(labels.min() >= 0, f"labels >= 0 in {path!r}", labels.min())
    _require(labels.max() < 2**63, f"labels below 2**63 in {path!r}", labels.max())
    return torch.from_numpy(labels.astype(np.int64))


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255.0).round().clamp(0, 255).to(torch.uint8)


def _require(condition: bool | np.bool_, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"Expected {expected}; got {got}.")
