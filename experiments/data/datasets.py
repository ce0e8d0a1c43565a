"""The data of an experiment: options of the source, its splits, classes and label budget."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

from latentmix.experiments.data.base import Dataset, Reading, Split
from latentmix.experiments.data.schema import Schema, Standardisation, single_precision
from latentmix.experiments.data.sources import find_source, specific_options
from latentmix.experiments.data.splits import check_budget, held_out_fifth, shortened
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS, check_count
from latentmix.experiments.reading.paths import user_path

__all__ = ["Data"]


@dataclass(frozen=True)
class Data:
    """The data of an experiment; `load` reads and splits them.

    | source | data | training/validation/test |
    |---|---|---|
    | `digits` | scikit-learn's digits, 1 x 28 x 28 | 64/16/20 |
    | `mnist`, `fashion_mnist`, `kmnist` | 1 x 28 x 28 | official test images, the others 80/20 |
    | path of a `.npz` or `.npy` file | its images, or points | 64/16/20 |
    | path of a `.csv` or `.parquet` file | its points | 64/16/20 |
    | `celeba` | faces in CelebA's own layout in `root`, in colour | official |
    | `image_folder` | every image below `root`; sub-folders are classes | folders `train`, `val`, `test`, or 64/16/20 |
    | `natural_patches` | patches of scikit-learn's two photographs, in colour; labels: which | apart in space |
    | `gmm3d` | points of a known mixture of ten Gaussians in three dimensions; labels: components | 64/16/20 |
    | `iris` | four measures of 150 flowers of three species | 64/16/20 |

    Splits in per cent are drawn from `seed` and stratified by class. If a class has fewer than seven data, the number
    of each class in a split does not depend on the seed, and at least one datum is for training; so data are refused
    for every seed or for none. Images of `celeba` remain in a memory-mapped file until they are used; those of
    `image_folder` are read into memory, because drawn splits are in random order.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `kmnist`, `celeba`, `image_folder`, `natural_patches`, `gmm3d`,
            `iris`, or the path of a `.npz`, `.npy`, `.csv` or `.parquet` file.
        root: The folder that holds `MNIST/raw` and the like, or `celeba`; by default the environment variable
            LATENTMIX_DATA. For `image_folder`, the folder of images.
        download: Download missing files of MNIST and the like into `root`.
        classes: Keep only the data of these classes, by names or labels, under their own labels.
        labels_per_class: Labelled training data per class in the `few` budget.
        binarize: Binarization of grey pixels: `dynamic` draws them for every batch, `static` once; `auto` is `dynamic`
            for a likelihood of binary data and `none` for any other.
        seed: Seed of the splits, of the points of `gmm3d`, and of the draws of labelled data.
        limit: Most data of each split, for a quick trial: the first ones, or each class in proportion if a class has
            fewer than seven.
        size: Side of the images of `celeba` and `image_folder` (by default 64 pixels), or of `natural_patches` (32);
            height and width as `32x48` or `[32,48]`.
        channels: 3 for the images of `image_folder` in colour (the default), 1 in grey; `auto` is 1 if all are grey.
        attribute: The attribute of `celeba` whose values, 0 and 1, are the labels, such as `Male`; by default there
            are no labels.
        cache: Folder of the decoded images of `celeba` and `image_folder`; by default LATENTMIX_CACHE, or else
            `~/.cache/latentmix`.
        max_corrupt: Most unreadable files of `celeba` and `image_folder`; they are reported and skipped.
        points: Number of points of `gmm3d`.
        max_pixels: Most pixels of a picture of `celeba` and `image_folder` before it is resized.
        max_gib: Most memory of an array or a table of a file, or of the points of `gmm3d`, in GiB.
        label: The column of a file that holds the labels, or the array of a `.npz` file (by default `labels` or `y`).
        columns: The columns of a file that are features, in this order; by default all but `label`.
        standardise: Whether every feature of points has mean 0 and standard deviation 1 in the training data; bound
            and errors are those of standardised points, and samples are given back in the data's units.

    Raises:
        ValueError: If a number is out of its range; what the source decides is checked by `load`.

    Example:
        >>> from latentmix.experiments.data.datasets import Data
        >>> Data("gmm3d", points=500).load().shape
        (3,)
    """

    source: str = "digits"
    root: str | None = None
    download: bool = False
    classes: list[int | str] | None = None
    labels_per_class: int = 5
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    seed: int = 0
    limit: int | None = None
    size: int | list[int] | str | None = None
    channels: Literal["auto", 1, 3] | None = None
    attribute: str | None = None
    cache: str | None = None
    max_corrupt: int = 10
    points: int = 10_000
    max_pixels: int = MAX_PIXELS
    max_gib: float = MAX_GIB
    label: str | None = None
    columns: list[str] | None = None
    standardise: bool = False

    def __post_init__(self) -> None:
        leasts = {
            "labels_per_class": 1,
            "limit": 1,
            "size": 1,
            "seed": 0,
            "max_corrupt": 0,
            "points": 1,
            "max_pixels": 1,
        }
        for name, least in leasts.items():
            value = getattr(self, name)
            if isinstance(value, int):
                check_count(f"--data.{name}", value, least)
        if not self.max_gib > 0:
            raise ValueError(f"Expected --data.max_gib above 0; got {self.max_gib}.")

    def load(self, schema: Schema | None = None) -> Dataset:
        """Read the data, select their classes and split them; the global random state is not touched.

        Args:
            schema: That of the data a model was trained on: labels, columns and units become its own, whatever
                `standardise` is.

        Raises:
            ValueError: If the source is unknown, an option belongs to other sources, files are missing or hold
                something else, a class is absent, or a class has fewer training data than `labels_per_class`; or if a
                class or a column is not of the schema.
        """
        source = find_source(self.source)
        self._check_options()
        reading = source.load({**vars(self), "root": self._root, "size": self._size})
        splits, names, chosen = list(reading.splits), _names(reading), None
        if self.classes is not None:
            chosen = self._chosen(names, self.classes, reading)
            splits = [None if split is None else self._filter(split, chosen) for split in splits]
        parts = self._complete(splits)
        if self.limit is not None:
            parts = [self._shorten(split, self.limit) for split in parts]
        names = {label: name for label, name in names.items() if any(_holds(split, label) for split in parts)}
        if schema is not None and schema.classes and names:
            own = schema.relabel(names, parts[0].things, attribute=self.attribute is not None)
            parts = [_relabelled(split, own) for split in parts]
            names = dict(sorted((own[label], name) for label, name in names.items()))
        if parts[0].labels is not None:
            check_budget(parts[0].labels, names, self.labels_per_class)
        (train, validation, test), units = self._in_units(parts, reading.columns, schema)
        return Dataset(
            self.source,
            train,
            validation,
            test,
            classes=tuple(names),
            attributes=reading.attributes,
            truth=source.truth(chosen) if source.truth else None,
            class_names=tuple(names.values()),
            columns=schema.columns if schema is not None and schema.columns else reading.columns,
            standardisation=units,
        )

    def resolved_paths(self) -> dict[str, str]:
        """The options that are paths, as absolute paths, with the environment's folder as `root` if it is used."""
        depends = find_source(self.source).parameters
        paths = {
            "source": self.source if "source" in depends else None,
            "root": self._root if "root" in depends else None,
            "cache": self.cache,
        }
        return {name: str(user_path(path).resolve()) for name, path in paths.items() if path}

    @property
    def _root(self) -> str | None:
        shared = find_source(self.source).shared_root
        return self.root or (os.environ.get("LATENTMIX_DATA") if shared else None) or None

    def _check_options(self) -> None:
        source, specific = find_source(self.source), specific_options()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in specific and field.name not in source.parameters and value != field.default:
                raise ValueError(
                    f"Expected --data.{field.name} with the source {' or '.join(specific[field.name])} alone; got "
                    f"{value!r} with {self.source!r}."
                )

    @property
    def _size(self) -> int | tuple[int, int] | None:
        """The side of images, or height and width."""
        if self.size is None:
            return None
        words = re.split("[x×,]", str(self.size).strip("[] ()"))
        sides = [int(word) for word in words if word.strip().isdecimal()]
        if len(words) not in (1, 2) or len(sides) < len(words) or min(sides) < 1:
            raise ValueError(f"Expected --data.size as 32, or height and width as 32x48; got {self.size!r}.")
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])

    def _chosen(self, names: Mapping[int, str], classes: Sequence[int | str], reading: Reading) -> list[int]:
        """The labels of the chosen classes."""
        if not names:
            choosable = "attribute" in find_source(self.source).parameters
            remedy = ": name an attribute by --data.attribute" if choosable else ""
            things = reading.splits[0].things if reading.splits[0] is not None else "data"
            raise ValueError(f"Expected labels in {self.source!r} to choose classes by; got {things} alone{remedy}.")
        labels = {**{str(label): label for label in names}, **{name: label for label, name in names.items()}}
        absent = [str(word) for word in classes if str(word) not in labels]
        if absent or not classes:
            got = ", ".join(absent) or "none"
            raise ValueError(
                f"Expected --data.classes of {self.source!r}, which has {', '.join(names.values())}; got {got}."
            )
        chosen = [labels[str(word)] for word in classes]
        if len(set(chosen)) < len(chosen):
            raise ValueError(
                f"Expected each of the --data.classes once; got {', '.join(map(str, classes))}: leave out repetitions."
            )
        return chosen

    def _filter(self, split: Split, chosen: Sequence[int]) -> Split:
        assert split.labels is not None
        rows = torch.isin(split.labels, torch.tensor(chosen)).nonzero().squeeze(1)
        if not len(rows):
            listed = ", ".join(map(str, self.classes or ()))
            raise ValueError(
                f"Expected the --data.classes {listed} in every split of {self.source!r}; got one without."
            )
        return split.take(rows)

    def _complete(self, splits: Sequence[Split | None]) -> list[Split]:
        """Training, validation and test data; those that are missing are drawn from the training data."""
        train = splits[0]
        validation = splits[1] if len(splits) == 3 else None
        test = splits[-1] if len(splits) > 1 else None
        assert train is not None
        if test is None:
            train, test = self._divide(train)
        if validation is None:
            train, validation = self._divide(train)
        return [train, validation, test]

    def _in_units(
        self, splits: Sequence[Split], columns: Sequence[str], schema: Schema | None
    ) -> tuple[list[Split], Standardisation | None]:
        """Splits of points in float32, with the columns of a schema and standardised by it, or by the training data."""
        if splits[0].things == "images":
            if self.standardise:
                raise ValueError(f"Expected points in {self.source!r} for --data.standardise; got images.")
            return list(splits), None
        if self.binarize in ("static", "dynamic"):
            raise ValueError(
                f"Expected --data.binarize auto or none for the points of {self.source}; got {self.binarize}."
            )
        points = [split.x for split in splits]
        if schema is not None:
            points = [schema.arrange(x, columns, repr(self.source)) for x in points]
            units = schema.standardisation
        else:
            units = Standardisation.of(points[0]) if self.standardise else None
        if units is not None:
            points = [units.standardise(x) for x in points]
        return [
            replace(split, x=single_precision(x, repr(self.source))) for split, x in zip(splits, points, strict=True)
        ], units

    def _divide(self, split: Split) -> tuple[Split, Split]:
        """Four fifths, and one fifth."""
        if len(split) < 4:
            raise ValueError(f"Expected 5 {split.things} or more in {self.source!r} to split; got too few.")
        kept, held = held_out_fifth(split.labels, len(split), self.seed)
        if not len(held):
            raise ValueError(
                f"Expected three {split.things} or more of a class in {self.source!r}, one for each split; got fewer."
            )
        return split.take(torch.from_numpy(kept)), split.take(torch.from_numpy(held))

    def _shorten(self, split: Split, limit: int) -> Split:
        rows = shortened(split.labels, len(split), limit, self.seed)
        return split.first(limit) if rows is None else split.take(torch.from_numpy(rows))


def _names(reading: Reading) -> dict[int, str]:
    """The name of every label that occurs, by ascending labels."""
    labels = [split.labels for split in reading.splits if split is not None and split.labels is not None]
    present = torch.cat(labels).unique().tolist() if labels else []
    return {label: reading.class_names.get(label, str(label)) for label in present}


def _holds(split: Split, label: int) -> bool:
    return split.labels is not None and bool((split.labels == label).any())


def _relabelled(split: Split, labels: Mapping[int, int]) -> Split:
    if split.labels is None:
        return split
    values, places = split.labels.unique(return_inverse=True)
    return replace(split, labels=torch.tensor([labels[value] for value in values.tolist()], dtype=torch.int64)[places])
