"""A file of images or points: `.npz`, `.npy`, `.csv` or `.parquet`."""

from __future__ import annotations

import torch

from latentmix.experiments.data.base import Reading, Source, Split
from latentmix.experiments.data.labels import number_labels
from latentmix.experiments.data.sources.arrays import images_of_arrays, stored_arrays
from latentmix.experiments.data.tables import SUFFIXES, read_table, table_of_arrays
from latentmix.experiments.reading.limits import MAX_GIB
from latentmix.experiments.reading.paths import user_path

__all__ = ["SOURCES"]


def _read(source: str, label: str | None = None, columns: list[str] | None = None, max_gib: float = MAX_GIB) -> Reading:
    path = user_path(source)
    arrays = stored_arrays(path, label, max_gib=max_gib) if path.suffix in (".npy", ".npz") else {}
    if "images" in arrays or ("x" in arrays and arrays["x"].ndim > 2):
        if columns is not None or (label is not None and "labels" not in arrays):
            raise ValueError(f"Expected points in {source!r}, to name columns of them; got images.")
        x, labels = images_of_arrays(arrays, source)
        names: tuple[str, ...] = ()
    else:
        if arrays:
            table = table_of_arrays(arrays, path, label=label, columns=columns)
        else:
            table = read_table(path, label=label, columns=columns, max_gib=max_gib)
        x, labels, names = torch.from_numpy(table.values), table.labels, table.columns
    if labels is None:
        return Reading([Split(x)], columns=names)
    numbers, class_names = number_labels(labels, repr(source))
    return Reading([Split(x, numbers)], class_names=class_names, columns=names)


SOURCES = (Source("file", _read, suffixes=SUFFIXES),)
