"""Patches of the two photographs that scikit-learn carries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split

__all__ = ["SOURCES", "load_patches"]

BLOCKS = (3, 5)  # rows and columns of the blocks of a photograph
STRIDE = 9


def load_patches(size: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Overlapping colour patches of the two photographs that scikit-learn carries, 427 x 640 pixels each.

    A photograph is cut into 3 x 5 blocks of 142 x 128 pixels: in every row of blocks one is for validation, one for
    testing and three are for training, in columns that change from row to row. Patches are taken every 9 pixels within
    a block, so that they overlap, but patches of different splits have no pixel in common: for 32 x 32, 2,574 training,
    858 validation and 858 test patches.

    Args:
        size: Side of the patches, in pixels.
        seed: Seed of the order of the patches within a split; the split itself does not depend on it.

    Returns:
        For training, validation and test an `N x 3 x size x size` uint8 tensor, and N labels: 0 for the photograph of
        the temple, 1 for the flower.

    Raises:
        ValueError: If the patches are larger than the blocks.

    Example:
        >>> from latentmix.experiments.data.sources.natural_patches import load_patches
        >>> [tuple(patches.shape) for patches, _ in load_patches(64)]
        [(1296, 3, 64, 64), (432, 3, 64, 64), (432, 3, 64, 64)]
    """
    from sklearn import datasets

    photographs = np.stack(datasets.load_sample_images().images)
    high, wide = photographs.shape[1] // BLOCKS[0], photographs.shape[2] // BLOCKS[1]
    if size > min(high, wide):
        raise ValueError(
            f"Expected patches of at most {min(high, wide)} pixels for natural_patches; got --data.size {size}."
        )
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
    """Rows and columns of the blocks of training, validation and test."""
    rows, columns = BLOCKS
    validation = [(row, (2 * row + 1) % columns) for row in range(rows)]
    test = [(row, (2 * row + 3) % columns) for row in range(rows)]
    held_out = {*validation, *test}
    every = [(row, column) for row in range(rows) for column in range(columns)]
    return [[block for block in every if block not in held_out], validation, test]


def _read(seed: int, size: int = 32) -> Reading:
    return Reading([Split(*part) for part in load_patches(size, seed)])


SOURCES = (Source("natural_patches", _read),)
