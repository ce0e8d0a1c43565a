"""Fisher's irises, as scikit-learn carries them."""

from __future__ import annotations

import torch

from latentmix.experiments.data.base import Reading, Source, Split

__all__ = ["SOURCES"]


def _read() -> Reading:
    """150 flowers of three species, their sepals and petals measured in cm.

    Source: Fisher, 1936, https://archive.ics.uci.edu/dataset/53.
    """
    from sklearn import datasets

    iris = datasets.load_iris()
    species = dict(enumerate(map(str, iris.target_names)))
    split = Split(torch.from_numpy(iris.data), torch.from_numpy(iris.target).long())
    return Reading([split], class_names=species, columns=tuple(iris.feature_names))


SOURCES = (Source("iris", _read),)
