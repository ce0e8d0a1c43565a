"""Data sets of images: their splits, their label budgets, and pixels as a likelihood wants them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from latentmix.experiments.sources import TORCHVISION, load_digits, load_file, load_torchvision
from latentmix.models import Likelihood, MixtureParameters

Binarization = Literal["none", "static", "dynamic"]


@final
@dataclass(frozen=True)
class Split:
    """Data and their labels.

    Args:
        x: An `N x C x H x W` uint8 tensor of images, or an `N x D` float32 tensor of points.
        labels: N int64 labels, as the data set names them; `None` where it has none.
        attributes: An `N x A` boolean tensor of named attributes; `None` where there are none.
    """

    x: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        return self._map(lambda part: part.to(device))

    def take(self, rows: Tensor) -> Split:
        """The data of these rows."""
        return self._map(lambda part: part[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Split:
        parts = (None if part is None else change(part) for part in (self.labels, self.attributes))
        return Split(change(self.x), *parts)


@final
@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Args:
        name: The source it was loaded from.
        train: What models are fitted to.
        validation: What choices are made on.
        test: What figures are reported on.
        classes: The labels that occur, ascending; empty where the data set has no labels.
        attributes: Names of the columns of `Split.attributes`; empty where there are none.
        truth: The mixture that the data were drawn from, where they were.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[int, ...] = ()
    attributes: tuple[str, ...] = ()
    truth: MixtureParameters | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum: channels, height and width of an image, or the length of a point."""
        return tuple(self.train.x.shape[1:])

    @property
    def pictorial(self) -> bool:
        """Whether the data are images."""
        return len(self.shape) == 3

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: `train`, `validation`, `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device; images as uint8, so that MNIST's training split moves as 38 MB."""
        return replace(self, **{name: split.to(device) for name, split in self.splits.items()})


@dataclass(frozen=True)
class Data:
    """Which images an experiment runs on; `load` reads and splits them.

    `digits` and files are split 64/16/20 into training, validation and test images. `mnist`,
    `fashion_mnist` and `kmnist` keep their official test images, and their training images are split 80/20.
    Splits are drawn from `seed` and stratified by class, except where a class has fewer than seven images.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `kmnist`, or the path of a `.npz` or `.npy` file.
        root: The folder that holds `MNIST/raw` and its like; by default the environment variable
            LATENTMIX_DATA.
        download: Fetch what is missing into `root`.
        classes: Keep the images of these classes alone, under their own labels.
        labels_per_class: How many training images per class have a label in the `few` budget.
        binarize: How grey pixels become binary: `dynamic` draws them anew for every batch, `static` once;
            `auto` is `dynamic` for a likelihood of binary data and `none` for any other.
        seed: The seed of the split and of the draws of labelled images.
        limit: Keep at most this many images of each split, for a quick trial.
    """

    source: str = "digits"
    root: str | None = None
    download: bool = False
    classes: list[int] | None = None
    labels_per_class: int = 5
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    seed: int = 0
    limit: int | None = None

    def load(self) -> Dataset:
        """Reads the images, filters their classes and splits them; no global random state is touched.

        Raises:
            ValueError: On an unknown source, files that are missing or hold something else, a class that is
                not there, or fewer training images of a class than `labels_per_class`.
        """
        for name, value in (("labels_per_class", self.labels_per_class), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} >= 1; got {value}.")
        if self.source in TORCHVISION:
            root = self.root or os.environ.get("LATENTMIX_DATA") or None
            train, test = (
                Split(*load_torchvision(self.source, root, train=train, download=self.download))
                for train in (True, False)
            )
            train, test = self._filter(train), self._filter(test)
        else:
            train, test = self._divide(self._filter(self._read()))
        train, validation = self._divide(train)
        if self.limit is not None:
            rows = torch.arange(self.limit)
            train, validation, test = (split.take(rows[: len(split)]) for split in (train, validation, test))
        classes: tuple[int, ...] = ()
        if train.labels is not None:
            classes = tuple(train.labels.unique().tolist())
            _check_budget(train.labels, classes, self.labels_per_class)
        return Dataset(self.source, train, validation, test, classes)

    def _read(self) -> Split:
        if self.source == "digits":
            return Split(*load_digits())
        if self.source.endswith((".npz", ".npy")):
            return Split(*load_file(self.source))
        known = ", ".join(["digits", *TORCHVISION])
        raise ValueError(
            f"Expected source to be one of {known}, or the path of a .npz or .npy file; got {self.source!r}."
        )

    def _filter(self, split: Split) -> Split:
        if self.classes is None:
            return split
        if split.labels is None:
            raise ValueError(f"Expected labels in {self.source!r} to choose classes by; got images alone.")
        present = split.labels.unique().tolist()
        absent = sorted(set(self.classes) - set(present))
        if absent or not self.classes:
            got = _listed(absent) or "none"
            raise ValueError(f"Expected classes of {self.source!r}, which has {_listed(present)}; got {got}.")
        return split.take(torch.isin(split.labels, torch.tensor(self.classes)).nonzero().squeeze(1))

    def _divide(self, split: Split) -> tuple[Split, Split]:
        """Four fifths, and one fifth."""
        from sklearn.model_selection import train_test_split

        if len(split) < 4:
            raise ValueError(f"Expected 5 images or more in {self.source!r} to split; got too few.")
        stratify = None
        if split.labels is not None and split.labels.unique(return_counts=True)[1].min() >= 7:
            stratify = split.labels.numpy()
        rows = np.arange(len(split))
        parts = train_test_split(rows, test_size=0.2, random_state=self.seed, stratify=stratify)
        first, second = (split.take(torch.from_numpy(part)) for part in parts)
        return first, second


def draw_labelled(labels: Tensor, classes: Sequence[int], per_class: int, seed: int) -> Tensor:
    """Draws the images that have a label under a budget: the same number of every class.

    Args:
        labels: N int64 labels of the training split.
        classes: The classes to draw from.
        per_class: How many images to draw of each.
        seed: The seed of the draw; the global random state is not touched.

    Returns:
        A `len(classes) * per_class` int64 tensor of rows, class by class, without repetition.

    Raises:
        ValueError: Where a class has fewer than `per_class` images.
    """
    _check_budget(labels, classes, per_class)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for label in classes:
        rows = (labels.cpu() == label).nonzero().squeeze(1)
        draws.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(draws)


def resolve_binarize(binarize: Literal["auto", "none", "static", "dynamic"], likelihood: Likelihood) -> Binarization:
    """What `auto` means for a likelihood: `dynamic` where its `support` is `"binary"`, `none` otherwise."""
    if binarize == "auto":
        return "dynamic" if likelihood.support == "binary" else "none"
    return binarize


def binarize_static(images: Tensor, seed: int) -> Tensor:
    """One draw of binary images, for good.

    Args:
        images: An `N x C x H x W` uint8 tensor of grey images.
        seed: The seed of the draw; the global random state is not touched.

    Returns:
        A uint8 tensor of the same shape: 255 with probability `images / 255`, else 0.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    draw = torch.randint(0, 255, images.shape, dtype=torch.uint8, device=images.device, generator=generator)
    return (draw < images).to(torch.uint8) * 255


@final
@dataclass(frozen=True)
class ToFloat:
    """Maps a uint8 batch of any shape to float32 in [0, 1]; a batch of floats stays as it is."""

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns `batch / 255` for bytes."""
        return batch if batch.is_floating_point() else batch.to(torch.float32) / 255.0


@final
@dataclass(frozen=True)
class DynamicBinarization:
    """Maps a uint8 batch of any shape to float32 zeros and ones, drawn anew at every call.

    A pixel is 1 with probability `batch / 255`, from torch's global random state (Salakhutdinov and Murray,
    2008, "On the quantitative analysis of deep belief networks", https://doi.org/10.1145/1390156.1390266).
    """

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns one draw of the batch."""
        return torch.bernoulli(batch.to(torch.float32) / 255.0)


def batch_transform(binarize: Binarization) -> ToFloat | DynamicBinarization:
    """What a training loop applies to every uint8 batch; `binarize_static` draws `static` images before."""
    return DynamicBinarization() if binarize == "dynamic" else ToFloat()


def _check_budget(labels: Tensor, classes: Sequence[int], per_class: int) -> None:
    for label in classes:
        count = int((labels == label).sum())
        if count < per_class:
            raise ValueError(f"Expected {per_class} or more training images of class {label} to label; got {count}.")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
