"""Rows of training, held-out and labelled data, stratified by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.models.process_state import kept_filters

__all__ = ["check_budget", "draw_labelled", "held_out_fifth", "shortened"]

SMALL = 7  # a smaller class may be absent from a split; scikit-learn refuses a class of one


def held_out_fifth(labels: Tensor | None, length: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of four fifths of the data, and of the fifth that is held out.

    Args:
        labels: Labels of the data; `None` if there are none.
        length: Number of data.
        seed: Seed of the draw. If some class is small, the number held out of each class does not depend on it.

    Returns:
        Two arrays of rows, in random order. The first has every class; the second is empty if all classes have one
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
    with kept_filters():
        kept, held = train_test_split(np.arange(length), test_size=0.2, random_state=seed, stratify=classes)
    return kept, held


def shortened(labels: Tensor | None, length: int, limit: int, seed: int) -> NDArray[np.int64] | None:
    """Rows of at most `limit` data, each class in proportion; `None`, for the first rows, unless a class is small.

    Args:
        labels: Labels of the data; `None` if there are none.
        length: Number of data.
        limit: Most data to keep.
        seed: Seed of the draw.
    """
    if labels is None or length <= limit or not _has_small_class(labels):
        return None
    return _stratified(labels.numpy(), length - limit, seed)[0][:limit]


def draw_labelled(labels: Tensor, classes: Sequence[int], per_class: int, seed: int) -> Tensor:
    """Draw the images that are labelled under a budget: the same number of each class.

    Args:
        labels: N int64 labels of the training split.
        classes: The classes to draw from.
        per_class: Images per class.
        seed: Seed of the draw; the global random state is not touched.

    Returns:
        A `len(classes) * per_class` int64 tensor of rows, class by class, without repetition.

    Raises:
        ValueError: If a class has fewer than `per_class` images.

    Example:
        >>> import torch
        >>> from latentmix.experiments.data.splits import draw_labelled
        >>> labels = torch.tensor([0, 1, 0, 1, 0])
        >>> labels[draw_labelled(labels, [0, 1], 2, seed=0)]
        tensor([0, 0, 1, 1])
    """
    check_budget(labels, classes, per_class)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for label in classes:
        rows = (labels.cpu() == label).nonzero().squeeze(1)
        draws.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(draws)


def check_budget(labels: Tensor, classes: Sequence[int] | Mapping[int, str], per_class: int) -> None:
    """Refuse a label budget that some class cannot meet.

    Args:
        labels: N int64 labels of the training split.
        classes: The classes, perhaps with their names.
        per_class: Images per class.

    Raises:
        ValueError: If a class has fewer than `per_class` images.
    """
    for label in classes:
        count = int((labels == label).sum())
        if count < per_class:
            name = classes[label] if isinstance(classes, Mapping) else label
            raise ValueError(
                f"Expected {per_class} or more training data of class {name} to label; got {count}: lower "
                "--data.labels_per_class, or raise --data.limit if it is set."
            )


def _has_small_class(labels: Tensor) -> bool:
    return len(labels) > 0 and int(labels.unique(return_counts=True)[1].min()) < SMALL


def _stratified(labels: NDArray[np.int64], held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are kept and rows that are held out, each class in proportion, with at least one of each kept.

    The number held out of each class depends on the class sizes only, by the method of largest remainders with ties
    going to the smaller label; the seed draws the rows.
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
