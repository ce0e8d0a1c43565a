"""Data for a finished run: its own, loaded again, those of other options, and files, as its guide takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from latentmix.experiments.runs.artifacts import Run

__all__ = [
    "SPLITS",
    "Inputs",
    "chosen_data",
    "inputs_of_arrays",
    "inputs_of_files",
    "inputs_of_split",
    "load_data",
    "split_of",
]

SPLITS = ("train", "validation", "test", "all")


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


def inputs_of_files(
    run: Run, files: Sequence[Path], *, max_pixels: int = MAX_PIXELS, max_gib: float = MAX_GIB
) -> Inputs:
    """Images, or points, of files, as the guide of a run takes them.

    Args:
        run: The run.
        files: `.npy` or `.npz` arrays; picture files or folders of them; for a run on points `.csv` or `.parquet`
            tables, too, whose columns are matched by name and standardised as those of the run are.
        max_pixels: Most pixels of a picture before it is resized.
        max_gib: Most memory of an array or a table, in GiB.

    Raises:
        ValueError: If a file cannot be read, or holds other data than the run's.
    """
    shape = run.vae.shape
    parts, rows, sources, names = list[Tensor](), list[Tensor](), list[str](), list[str]()
    for file in files:
        if len(shape) == 3:
            listed, data = load_images([file], shape, max_pixels=max_pixels, max_gib=max_gib)
        else:
            chosen = {name: run.config["data"].get(name) for name in ("label", "columns")}
            schema = Schema.from_dict(run.summary["data"])
            listed, data = load_tables([file], shape, schema, **chosen, max_gib=max_gib)
        parts.append(data)
        names += listed
        sources += listed if file.is_dir() else [file.name] * len(listed)
        rows.append(torch.arange(len(data)) * (not file.is_dir()))
    return Inputs(torch.cat(parts), tuple(sources), torch.cat(rows), tuple(names))


def inputs_of_arrays(run: Run, data: Tensor | NDArray[Any] | Split) -> Inputs:
    """Data in memory; each is named by its row.

    Args:
        run: The run.
        data: Images of bytes or of floats in [0, 1], or points as the guide takes them; or a split of the run's data.

    Raises:
        ValueError: As `check_data` does.
    """
    given, labels = (data.x, data.labels) if isinstance(data, Split) else (data, None)
    x, schema = check_data(given, run.vae.shape), Schema.from_dict(run.summary.get("data", {}))
    called = dict(zip(schema.classes, schema.class_names or map(str, schema.classes), strict=True))
    named = None if labels is None else tuple(called.get(label, str(label)) for label in labels.tolist())
    return Inputs(x, (), torch.arange(len(x)), tuple(map(str, range(len(x)))), named)


def inputs_of_split(dataset: Dataset, split: str) -> Inputs:
    """The data of a split, or of `all` three, with the names of their classes."""
    chosen = {name: part for name, part in dataset.splits.items() if split in (name, "all")}
    files = tuple(name for name, part in chosen.items() for _ in range(len(part)))
    index = torch.cat([torch.arange(len(part)) for part in chosen.values()])
    data, labels = split_of(dataset, split), None
    if data.labels is not None:
        called = dict(zip(dataset.classes, dataset.class_names, strict=True))
        labels = tuple(called[label] for label in data.labels.tolist())
    names = tuple(f"{file}:{row}" for file, row in zip(files, index.tolist(), strict=True))
    return Inputs(data.x, files, index, names, labels)


def split_of(dataset: Dataset, split: str) -> Split:
    """A split by its name, or `all` three as one."""
    if split != "all":
        return dataset.splits[split]
    splits = dataset.splits.values()
    labels = [split.labels for split in splits if split.labels is not None]
    return Split(torch.cat([split.x for split in splits]), torch.cat(labels) if labels else None)


def chosen_data(run: Run, words: Sequence[str]) -> Data:
    """The data of a run, with other options as words of the command line, such as `--data.root DIR`.

    Options that belong to the run's source alone are left out where the words name another source.

    Raises:
        ValueError: If an option is unknown, or does not take its value.
    """
    known = run.config["data"]
    split = option_words(words)
    sources = [value for option, value in pairwise(split) if option == "--data.source"]
    if sources and sources[-1] != known["source"]:
        dropped = set(specific_options()) - set(find_source(sources[-1]).parameters)
        known = {name: value for name, value in known.items() if name not in dropped}
    return parse_settings(Data, words, prefix="data", defaults=known)


def load_data(run: Run, data: Data | None = None) -> Dataset:
    """Data with the classes, columns and units of a run.

    Args:
        run: The run.
        data: The data; by default those of the run.

    Raises:
        ValueError: If they cannot be read, or their shape or classes are not those of the run.
    """
    own = Data(**run.config["data"])
    data = own if data is None else data
    trained_on = data == own
    if data.channels == "auto":
        data = replace(data, channels=1 if run.vae.shape[0] == 1 else 3)
    try:
        dataset = replace(data, labels_per_class=1).load(Schema.from_dict(run.summary["data"]))
    except ValueError as error:
        if not trained_on:
            raise
        raise ValueError(f"{str(error).rstrip('.')}; they are the data that the run was trained on.") from error
    if dataset.shape != run.vae.shape:
        raise ValueError(f"Expected data of shape {run.vae.shape} for this run; got {dataset.shape}.")
    return dataset
