"""Rows of training and held-out data, stratified by class."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["held_out_fifth", "shortened"]

SMALL = 7  # a smaller class may have no share of a split; scikit-learn refuses a class of one


def held_out_fifth(labels: Tensor | None, length: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of four fifths of the data, and of the fifth that is held out.

    Args:
        labels: Labels of the data; `None` where there are none.
        length: How many data there are.
        seed: The seed of the draw. How many of a class are held out does not depend on it where one is small.

    Returns:
        Two arrays of rows, in random order. The first has every class; the second is empty where all classes are of one
        datum.

    Example:
        >>> import torch
        >>> from latentmix.experiments.data.splits import held_out_fifth
        >>> train, test = held_out_fifth(torch.tensor([0] * 12 + [1] * 3), 15, seed=0)
        >>> len(train), int((test >= 12).sum())
        (12, 1)
    """
    from sklearn.model_selection import train_test_split

    if labels is not None and _has_small_class(labels):
        return _stratified(labels.numpy(), math.ceil(length / 5), seed)
    classes = None if labels is None else labels.numpy()
    kept, held = train_test_split(np.arange(length), test_size=0.2, random_state=seed, stratify=classes)
    return kept, held


def shortened(labels: Tensor | None, length: int, limit: int, seed: int) -> NDArray[np.int64] | None:
    """Rows of at most `limit` data, each class in proportion, or `None` where the first data will do.

    The first data will do unless one of the classes is small.

    Args:
        labels: Labels of the data; `None` where there are none.
        length: How many data there are.
        limit: How many are kept, at most.
        seed: The seed of the draw.
    """
    if labels is None or length <= limit or not _has_small_class(labels):
        return None
    return _stratified(labels.numpy(), length - limit, seed)[0][:limit]


def _has_small_class(labels: Tensor) -> bool:
    return len(labels) > 0 and int(labels.unique(return_counts=True)[1].min()) < SMALL


def _stratified(labels: NDArray[np.int64], held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that stay and rows that are held out, each class in proportion, but at least one datum of each stays.

    How many of a class are held out depends on the sizes of the classes alone, by the method of largest remainders,
    ties going to the smaller label; the seed draws which.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(counts * held_out, len(labels))
    for index in np.argsort(-remainders, kind="stable"):
        if shares.sum() < held_out and shares[index] < counts[index] - 1:
            shares[index] += 1
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:share] for label, share in zip(classes, shares, strict=True)]
    held = np.isin(order, np.concatenate(chosen))
    return order[~held], order[held]
