"""Labels of any kind as int64, with the names of their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["number_labels"]


def number_labels(labels: NDArray[Any], where: str) -> tuple[Tensor, dict[int, str]]:
    """Labels as int64, and the name of each class.

    Whole numbers, and words that are all distinct whole numbers, stand for themselves; other words are numbered from 0
    in the order of the sorted words.

    Args:
        labels: N whole numbers, booleans or words.
        where: Names the source in messages.

    Returns:
        N int64 labels, and the name of every label that occurs.

    Raises:
        ValueError: If labels are of another kind, negative numbers or too large, or a word is empty.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.data.labels import number_labels
        >>> number_labels(np.array(["cat", "dog", "cat"]), "pets")
        (tensor([0, 1, 0]), {0: 'cat', 1: 'dog'})
        >>> number_labels(np.array(["2", "10"]), "digits")
        (tensor([ 2, 10]), {2: '2', 10: '10'})
    """
    if labels.dtype.kind in "iu":
        if labels.size and labels.min() < 0:
            raise ValueError(f"Expected labels >= 0 in {where}; got {labels.min()}.")
        if labels.size and labels.max() >= 2**63:
            raise ValueError(f"Expected labels below 2**63 in {where}; got {labels.max()}.")
        numbers = labels.astype(np.int64)
        return torch.from_numpy(numbers), {label: str(label) for label in np.unique(numbers).tolist()}
    if labels.dtype.kind not in "bUS":
        raise ValueError(f"Expected integer labels or words in {where}; got {labels.dtype}.")
    try:
        words = (np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels).astype(str)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected labels in UTF-8 in {where}; got other bytes.") from error
    if (words == "").any():
        raise ValueError(f"Expected a label for every row in {where}; got none in row {int((words == '').argmax())}.")
    names, places = np.unique(words, return_inverse=True)
    values = _whole_numbers(names.tolist())
    return torch.from_numpy(values[places]), dict(sorted(zip(values.tolist(), names.tolist(), strict=True)))


def _whole_numbers(names: list[str]) -> NDArray[np.int64]:
    """The numbers that distinct sorted words are, or else their places."""
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names):
        numbers = np.array([int(name) for name in names], dtype=np.int64)
        if len(np.unique(numbers)) == len(numbers):
            return numbers
    return np.arange(len(names), dtype=np.int64)
