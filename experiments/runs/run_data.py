"""Data for a finished run: its own, loaded again, those of other options, and files, as its guide takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pictures import load_images
from latentmix.experiments.data.schema import Schema
from latentmix.experiments.data.sources import find_source, specific_options
from latentmix.experiments.data.tables import load_tables
from latentmix.experiments.options.command_line import option_words, parse_settings
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS
from latentmix.experiments.runs.class_probabilities import check_data
from latentmix.models.display import Displayed

__all__ = ["Inputs", "RunData", "split_of"]


@dataclass(frozen=True, repr=False)
class Inputs(Displayed):
    """Data for the guide of a run, and where each comes from.

    Args:
        x: An `n x shape` tensor of bytes, or of points as the guide takes them.
        files: For each datum the name of its file, or split; empty if it is of none.
        index: An int64 tensor: for each datum its row in the file or split; 0 of a picture.
        names: For each datum file and row as `images.npy:3`, or the name of the picture.
        labels: For each datum the name of its class; `None` where they are not known.
    """

    x: Tensor
    files: tuple[str, ...]
    index: Tensor
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class RunData:
    """Shape, options and schema of a run's data, by which others are read as its guide takes them.

    Args:
        shape: The shape of one datum.
        options: The options of `Data` that the run was trained on.
        schema: Classes, columns and units of its data.
    """

    shape: tuple[int, ...]
    options: Mapping[str, Any]
    schema: Schema

    def of_files(self, files: Sequence[Path], *, max_pixels: int = MAX_PIXELS, max_gib: float = MAX_GIB) -> Inputs:
        """Images, or points, of files.

        Args:
            files: `.npy` or `.npz` arrays; picture files or folders of them; for a run on points `.csv` or `.parquet`
                tables, too, whose columns are matched by name and standardised as those of the run are.
            max_pixels: Most pixels of a picture before it is resized.
            max_gib: Most memory of an array or a table, in GiB.

        Raises:
            ValueError: If a file cannot be read, or holds other data than the run's.
        """
        parts, rows, sources, names = list[Tensor](), list[Tensor](), list[str](), list[str]()
        for file in files:
            if len(self.shape) == 3:
                listed, data = load_images([file], self.shape, max_pixels=max_pixels, max_gib=max_gib)
            else:
                chosen = {name: self.options.get(name) for name in ("label", "columns")}
                listed, data = load_tables([file], self.shape, self.schema, **chosen, max_gib=max_gib)
            parts.append(data)
            names += listed
            sources += listed if file.is_dir() else [file.name] * len(listed)
            rows.append(torch.arange(len(data)) * (not file.is_dir()))
        return Inputs(torch.cat(parts), tuple(sources), torch.cat(rows), tuple(names))

    def of_arrays(self, data: Tensor | NDArray[Any] | Split) -> Inputs:
        """Data in memory, each named by its row.

        Args:
            data: Images of bytes or of floats in [0, 1], or points as the guide takes them; or a split of `load`.

        Raises:
            ValueError: As `check_data` does.
        """
        given, labels = (data.x, data.labels) if isinstance(data, Split) else (data, None)
        x = check_data(given, self.shape)
        return Inputs(x, (), torch.arange(len(x)), tuple(map(str, range(len(x)))), self._named(labels))

    def of_split(self, dataset: Dataset, split: str) -> Inputs:
        """The data of a split of `load`, or of `all` three."""
        chosen = {name: part for name, part in dataset.splits.items() if split in (name, "all")}
        files = tuple(name for name, part in chosen.items() for _ in range(len(part)))
        index = torch.cat([torch.arange(len(part)) for part in chosen.values()])
        names = tuple(f"{file}:{row}" for file, row in zip(files, index.tolist(), strict=True))
        data = split_of(dataset, split)
        return Inputs(data.x, files, index, names, self._named(data.labels))

    def chosen(self, words: Sequence[str]) -> Data:
        """The data of the run, with other options as words of the command line, such as `--data.root DIR`.

        Options that belong to the run's source alone are left out where the words name another source.

        Raises:
            ValueError: If an option is unknown, or does not take its value.
        """
        known, split = self.options, option_words(words)
        sources = [value for option, value in pairwise(split) if option == "--data.source"]
        if sources and sources[-1] != known["source"]:
            dropped = set(specific_options()) - set(find_source(sources[-1]).parameters)
            known = {name: value for name, value in known.items() if name not in dropped}
        return parse_settings(Data, words, prefix="data", defaults=known)

    def load(self, data: Data | None = None) -> Dataset:
        """Data with the classes, columns and units of the run.

        Args:
            data: The data; by default those of the run.

        Raises:
            ValueError: If they cannot be read, or their shape or classes are not those of the run.
        """
        own = Data(**self.options)
        data = own if data is None else data
        trained_on = data == own
        if data.channels == "auto":
            data = replace(data, channels=1 if self.shape[0] == 1 else 3)
        try:
            dataset = replace(data, labels_per_class=1).load(self.schema)
        except ValueError as error:
            if not trained_on:
                raise
            raise ValueError(f"{str(error).rstrip('.')}; they are the data that the run was trained on.") from error
        if dataset.shape != self.shape:
            raise ValueError(f"Expected data of shape {self.shape} for this run; got {dataset.shape}.")
        return dataset

    def _named(self, labels: Tensor | None) -> tuple[str, ...] | None:
        """The names of the classes of labels."""
        if labels is None:
            return None
        classes = self.schema.classes
        called = dict(zip(classes, self.schema.class_names or map(str, classes), strict=True))
        return tuple(called.get(label, str(label)) for label in labels.tolist())


def split_of(dataset: Dataset, split: str) -> Split:
    """A split by its name, or `all` three as one."""
    if split != "all":
        return dataset.splits[split]
    splits = dataset.splits.values()
    labels = [split.labels for split in splits if split.labels is not None]
    return Split(torch.cat([split.x for split in splits]), torch.cat(labels) if labels else None)
