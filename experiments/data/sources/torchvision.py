"""MNIST, Fashion-MNIST and Kuzushiji-MNIST, by torchvision."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.reading.paths import user_path

__all__ = ["SOURCES", "load_torchvision"]

CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def load_torchvision(name: str, root: str | None, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """One official split of MNIST, Fashion-MNIST or Kuzushiji-MNIST, in torchvision's layout on disk.

    Args:
        name: `mnist`, `fashion_mnist` or `kmnist`.
        root: The folder that holds `MNIST/raw` and the like.
        train: Whether to read the training split, and not the test split.
        download: Whether to download missing files into `root`.

    Returns:
        An `N x 1 x 28 x 28` uint8 tensor and its N labels.

    Raises:
        ValueError: If files are missing or cannot be read; the message tells how to get them.
    """
    folder = f"{CLASSES[name]}/raw"
    remedy = "name the folder by --data.root DIR or LATENTMIX_DATA, or fetch it by --data.download true"
    if root is None:
        raise ValueError(f"Expected a folder that holds {folder} for {name}; got none: {remedy}.")
    path = user_path(root)
    if not download and not (path / folder).is_dir():
        raise ValueError(f"Expected {folder} in the data root for {name}; got {root!r} without it: {remedy}.")

    from torchvision import datasets

    try:
        dataset = getattr(datasets, CLASSES[name])(path, train=train, download=download)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected the files of {name} in {root!r}; got {cause!r}: {remedy}.") from error
    return dataset.data.unsqueeze(1), dataset.targets.long()


def _read(name: str, /, root: str | None, download: bool) -> Reading:
    parts = [load_torchvision(name, root, train=train, download=download) for train in (True, False)]
    return Reading([Split(*part) for part in parts])


SOURCES = tuple(Source(name, partial(_read, name)) for name in CLASSES)
