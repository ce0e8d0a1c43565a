"""Latents in files: tables of comma-separated values, arrays of NumPy, and netCDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.runs.encoding import Encoding
from latentmix.models.files import write_atomically

__all__ = ["arrays_of", "table_lines", "write_arrays", "write_netcdf", "write_table"]


def table_lines(parts: Iterator[Encoding]) -> Iterator[str]:
    """A table with a row for each datum, in text of several lines at a time.

    Columns: `image` or `point`, `label` where labels are known, `predicted`, `latent_0`, ... (means), `scale_0`, ...,
    `component NAME` with the responsibility of each component, `class NAME` with the probability of each class, as of
    `classify`, and `draw_0_latent_0`, ... for draws that were kept. Components have their names in pictures: their
    class, with a letter where several have one, or without classes their number from 1. Numbers have seven digits.
    """
    for number, part in enumerate(parts):
        labels = () if part.labels is None else (part.labels,)
        blocks = [part.mean, part.scale, part.responsibilities, *([part.probabilities] if part.class_names else [])]
        if part.draws is not None:
            blocks += list(part.draws)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        if number == 0:
            table.writerow(_headings(part))
        rows = np.concatenate(blocks, axis=1).tolist()
        for name, *words, values in zip(part.names, *labels, part.predicted.tolist(), rows, strict=True):
            table.writerow([name, *words, *(f"{value:.7g}" for value in values)])
        yield text.getvalue()


def write_table(out: Path, parts: Iterator[Encoding]) -> None:
    """Write the table of `table_lines` as it is computed."""

    def write(file: BinaryIO) -> None:
        for lines in table_lines(parts):
            file.write(lines.encode("utf-8", "surrogateescape"))

    write_atomically(out, write)


def write_arrays(out: Path, encoding: Encoding) -> None:
    """Write the arrays of `arrays_of` as a `.npz` file."""

    def write(file: BinaryIO) -> None:
        np.savez(file, allow_pickle=False, **arrays_of(encoding))

    write_atomically(out, write)


def arrays_of(encoding: Encoding) -> dict[str, NDArray[Any]]:
    """Arrays by name, none of which needs pickle.

    They are `mean`, `scale`, `responsibilities`, `probabilities`, `predicted`, `names`, `files`, `index`, `components`,
    where there are any `classes`, `labels` and `draws`, and the words of `Encoder.about`.
    """
    arrays = {name: getattr(encoding, name) for name in ("mean", "scale", "responsibilities", "probabilities")}
    for name in ("predicted", "names", "files", "components"):
        arrays[name] = np.array(getattr(encoding, name), dtype=str)
    arrays["index"] = encoding.index
    if encoding.class_names:
        arrays["classes"] = np.array(encoding.class_names)
    if encoding.labels is not None:
        arrays["labels"] = np.array(encoding.labels)
    if encoding.draws is not None:
        arrays["draws"] = encoding.draws
    return arrays | {name: np.array(value) for name, value in encoding.about.items()}


def write_netcdf(out: Path, encoding: Encoding) -> None:
    """Write the data set of `Encoding.to_dataset`."""
    write_atomically(out, encoding.to_dataset().to_netcdf(engine="h5netcdf"))


def _headings(part: Encoding) -> list[str]:
    dims, draws = range(part.mean.shape[1]), range(0 if part.draws is None else len(part.draws))
    return [
        part.things,
        *([] if part.labels is None else ["label"]),
        "predicted",
        *(f"latent_{place}" for place in dims),
        *(f"scale_{place}" for place in dims),
        *(f"component {name}" for name in part.components),
        *(f"class {name}" for name in part.class_names),
        *(f"draw_{draw}_latent_{place}" for draw in draws for place in dims),
    ]
