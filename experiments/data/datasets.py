"""The data of an experiment: options of the source, its splits, classes and label budget."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.sources import find_source, specific_options
from latentmix.experiments.data.splits import check_budget, held_out_fifth, shortened
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS

__all__ = ["Data"]


@dataclass(frozen=True)
class Data:
    """The data of an experiment; `load` reads and splits them.

    | source | data | training/validation/test |
    |---|---|---|
    | `digits` | scikit-learn's digits, 1 x 28 x 28 | 64/16/20 |
    | `mnist`, `fashion_mnist`, `kmnist` | 1 x 28 x 28 | official test images, the others 80/20 |
    | path of a `.npz` or `.npy` file | its images | 64/16/20 |
    | `celeba` | faces in CelebA's own layout in `root`, in colour | official |
    | `image_folder` | every image below `root`, in colour; several sub-folders are classes | 64/16/20 |
    | `natural_patches` | patches of scikit-learn's two photographs, in colour; labels: which | apart in space |
    | `gmm3d` | points of a known mixture of ten Gaussians in three dimensions; labels: components | 64/16/20 |

    Splits in per cent are drawn from `seed` and stratified by class. If a class has fewer than seven data, the number
    of each class in a split does not depend on the seed, and at least one datum is for training; so data are refused
    for every seed or for none. Images of `celeba` remain in a memory-mapped file until they are used; those of
    `image_folder` are read into memory, because drawn splits are in random order.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `kmnist`, `celeba`, `image_folder`, `natural_patches`, `gmm3d`, or
            the path of a `.npz` or `.npy` file.
        root: The folder that holds `MNIST/raw` and the like, or `celeba`; by default the environment variable
            LATENTMIX_DATA. For `image_folder`, the folder of images.
        download: Download missing files of MNIST and the like into `root`.
        classes: Keep only the data of these classes, under their own labels.
        labels_per_class: Labelled training data per class in the `few` budget.
        binarize: Binarization of grey pixels: `dynamic` draws them for every batch, `static` once; `auto` is `dynamic`
            for a likelihood of binary data and `none` for any other.
        seed: Seed of the splits, of the points of `gmm3d`, and of the draws of labelled data.
        limit: Most data of each split, for a quick trial: the first ones, or each class in proportion if a class has
            fewer than seven.
        size: Side of the images of `celeba` and `image_folder` (by default 64 pixels), or of `natural_patches` (32).
        attribute: The attribute of `celeba` whose values, 0 and 1, are the labels, such as `Male`; by default there
            are no labels.
        cache: Folder of the decoded images of `celeba` and `image_folder`; by default LATENTMIX_CACHE, or else
            `~/.cache/latentmix`.
        max_corrupt: Most unreadable files of `celeba` and `image_folder`; they are reported and skipped.
        points: Number of points of `gmm3d`.
        max_pixels: Most pixels of a picture of `celeba` and `image_folder` before it is resized.
        max_gib: Most memory of an array of a file, or of the points of `gmm3d`, in GiB.

    Example:
        >>> from latentmix.experiments.data.datasets import Data
        >>> Data("gmm3d", points=500).load().shape
        (3,)
    """

    source: str = "digits"
    root: str | None = None
    download: bool = False
    classes: list[int] | None = None
    labels_per_class: int = 5
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    seed: int = 0
    limit: int | None = None
    size: int | None = None
    attribute: str | None = None
    cache: str | None = None
    max_corrupt: int = 10
    points: int = 10_000
    max_pixels: int = MAX_PIXELS
    max_gib: float = MAX_GIB

    def load(self) -> Dataset:
        """Read the data, select their classes and split them; the global random state is not touched.

        Raises:
            ValueError: If the source is unknown, an option belongs to other sources, files are missing or hold
                something else, a class is absent, or a class has fewer training data than `labels_per_class`.
        """
        source = find_source(self.source)
        self._check_options()
        reading = source.load({**vars(self), "root": self._root})
        splits = list(reading.splits)
        if self.classes is not None:
            splits = self._filter(splits, self.classes)
        if len(splits) == 1:
            splits = self._divide(splits[0])
        if len(splits) == 2:
            splits = [*self._divide(splits[0]), splits[1]]
        if self.limit is not None:
            splits = [self._shorten(split, self.limit) for split in splits]
        train, validation, test = splits
        classes: tuple[int, ...] = ()
        if train.labels is not None:
            labels = [split.labels for split in splits if split.labels is not None]
            classes = tuple(torch.cat(labels).unique().tolist())
            check_budget(train.labels, classes, self.labels_per_class)
        truth = source.truth(self.classes) if source.truth else None
        return Dataset(self.source, train, validation, test, classes, reading.attributes, truth)

    def resolved_paths(self) -> dict[str, str]:
        """The options that are paths, as absolute paths, with the environment's folder as `root` if it is used."""
        depends = find_source(self.source).parameters
        paths = {
            "source": self.source if "source" in depends else None,
            "root": self._root if "root" in depends else None,
            "cache": self.cache,
        }
        return {name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path}

    @property
    def _root(self) -> str | None:
        shared = find_source(self.source).shared_root
        return self.root or (os.environ.get("LATENTMIX_DATA") if shared else None) or None

    def _check_options(self) -> None:
        leasts = {"labels_per_class": 1, "limit": 1, "size": 1, "max_corrupt": 0, "points": 1, "max_pixels": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Expected {name} >= {least}; got {value}.")
        if not self.max_gib > 0:
            raise ValueError(f"Expected max_gib above 0; got {self.max_gib}.")
        source, specific = find_source(self.source), specific_options()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in specific and field.name not in source.parameters and value != field.default:
                raise ValueError(
                    f"Expected {field.name} with the source {' or '.join(specific[field.name])} alone; got {value!r} "
                    f"with {self.source!r}."
                )
        if not source.pictorial and self.binarize in ("static", "dynamic"):
            raise ValueError(f"Expected binarize auto or none for the points of {self.source}; got {self.binarize}.")

    def _filter(self, splits: Sequence[Split], classes: Sequence[int]) -> list[Split]:
        labels = [split.labels for split in splits if split.labels is not None]
        if not labels:
            choosable = "attribute" in find_source(self.source).parameters
            remedy = ": name an attribute by --data.attribute" if choosable else ""
            raise ValueError(f"Expected labels in {self.source!r} to choose classes by; got images alone{remedy}.")
        present = torch.cat(labels).unique().tolist()
        absent = sorted(set(classes) - set(present))
        if absent or not classes:
            got = _listed(absent) or "none"
            raise ValueError(f"Expected classes of {self.source!r}, which has {_listed(present)}; got {got}.")
        rows = [torch.isin(of_split, torch.tensor(classes)).nonzero().squeeze(1) for of_split in labels]
        if not all(map(len, rows)):
            raise ValueError(
                f"Expected the classes {_listed(classes)} in every split of {self.source!r}; got one without."
            )
        return [split.take(of_split) for split, of_split in zip(splits, rows, strict=True)]

    def _divide(self, split: Split) -> list[Split]:
        """Four fifths, and one fifth."""
        if len(split) < 4:
            raise ValueError(f"Expected 5 images or more in {self.source!r} to split; got too few.")
        parts = held_out_fifth(split.labels, len(split), self.seed)
        if not len(parts[1]):
            raise ValueError(
                f"Expected three images or more of a class in {self.source!r}, one for each split; got fewer."
            )
        return [split.take(torch.from_numpy(part)) for part in parts]

    def _shorten(self, split: Split, limit: int) -> Split:
        rows = shortened(split.labels, len(split), limit, self.seed)
        return split.first(limit) if rows is None else split.take(torch.from_numpy(rows))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
