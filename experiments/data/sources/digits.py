"""Scikit-learn's handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.pixels import to_bytes

__all__ = ["SOURCES", "load_digits"]


def load_digits(size: int = 28) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn carries (8 x 8, 17 grey levels), upsampled bicubically.

    Source: Alpaydin and Kaynak, 1998, https://archive.ics.uci.edu/dataset/80 (its test set).

    Args:
        size: Side of the upsampled images, in pixels.

    Returns:
        A `1797 x 1 x size x size` uint8 tensor and its 1797 labels, in scikit-learn's order.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0
    grey = torch.nn.functional.interpolate(grey, size=(size, size), mode="bicubic", align_corners=False)
    return to_bytes(grey), torch.from_numpy(digits.target).long()


def _read() -> Reading:
    return Reading([Split(*load_digits())])


SOURCES = (Source("digits", _read),)
