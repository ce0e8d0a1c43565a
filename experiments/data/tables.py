"""Points from a file, `.csv`, `.parquet`, `.npy` or `.npz`, with the names of their columns and with labels."""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.schema import Schema, single_precision
from latentmix.experiments.data.sources.arrays import stored_arrays
from latentmix.experiments.reading.arrays import kind_of
from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.experiments.reading.parquet import read_parquet
from latentmix.models.reading import one_sentence, open_regular
from latentmix.models.words import plural

__all__ = ["SUFFIXES", "Table", "load_tables", "read_table", "table_of_arrays"]

SUFFIXES = (".csv", ".parquet", ".npy", ".npz")


@final
@dataclass(frozen=True)
class Table:
    """Points of a file.

    Args:
        values: An `n x D` array of finite numbers, in float64.
        columns: The names of the D features; empty if they have none.
        labels: n whole numbers, booleans or words; `None` if there are none.
    """

    values: NDArray[np.float64]
    columns: tuple[str, ...] = ()
    labels: NDArray[Any] | None = None


def read_table(
    path: Path,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    labelled: bool = True,
    max_gib: float = MAX_GIB,
    option: str = "--data.max_gib",
) -> Table:
    r"""The points of a file; nothing is unpickled.

    A `.csv` file holds values separated by commas, with or without a line of names; a `.parquet` file is read by
    pandas, which needs pyarrow. A `.npy` file holds an `n x D` array, or n numbers; a `.npz` file holds such an array
    as `x`, and optionally `labels` (or `y`) and D names as `columns`.

    Args:
        path: The file.
        label: The column, or the array of a `.npz` file, that holds the labels.
        columns: The columns that are features, in this order; by default all but `label`.
        labelled: Whether `label` has to be there.
        max_gib: Most memory of an array or a table, and most text of a table, in GiB.
        option: The option that raises it, for the message.

    Raises:
        ValueError: If the file is missing, cannot be read or lacks a column, or a feature holds something else than
            finite numbers; the message names column and row: lines of a `.csv` count from 1, other rows from 0.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.data.tables import read_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "points.csv").write_text("x,y,kind\n0,1,a\n2,3,b\n")
        ...     table = read_table(Path(folder, "points.csv"), label="kind")
        >>> table.values.shape, table.columns, table.labels.tolist()
        ((2, 2), ('x', 'y'), ['a', 'b'])
    """
    if not path.exists():
        raise ValueError(f"Expected a file of points at {str(path)!r}; got no such file.")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"Expected a {', '.join(SUFFIXES)} file of points; got {str(path)!r}.")
    choice = _Choice(path, label, columns, labelled, max_gib, option)
    if path.suffix == ".csv":
        return _read_csv(path, choice)
    if path.suffix == ".parquet":
        frame = read_parquet(path, max_gib=max_gib, option=option)
        return _of_columns(list(map(str, frame.columns)), [frame.iloc[:, i] for i in range(frame.shape[1])], choice)
    arrays = stored_arrays(path, label, max_gib=max_gib, option=option)
    return table_of_arrays(arrays, path, label=label, columns=columns, labelled=labelled)


def table_of_arrays(
    arrays: Mapping[str, NDArray[Any]],
    path: Path,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    labelled: bool = True,
) -> Table:
    """The points in arrays that `stored_arrays` gave; the arguments are those of `read_table`."""
    values, labels = arrays["x"] if "x" in arrays else arrays["images"], arrays.get("labels")
    if labels is not None and labels.shape != values.shape[:1]:
        raise ValueError(f"Expected labels of shape {values.shape[:1]} in {str(path)!r}; got {labels.shape}.")
    choice = _Choice(path, None if labels is not None else label, columns, labelled)
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind not in "biuf":
        raise ValueError(f"Expected an array of numbers in {str(path)!r}; got {kind_of(values.dtype)}.")
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"Expected points of shape n x D in {str(path)!r}; got {values.shape}.")
    names = arrays.get("columns")
    if names is not None:
        if names.shape != values.shape[1:] or names.dtype.kind != "U":
            raise ValueError(
                f"Expected the names of {plural(values.shape[1], 'column')} in 'columns' of {str(path)!r}; got "
                f"{kind_of(names.dtype)}, shape {names.shape}."
            )
        return _of_columns(names.tolist(), list(values.T), choice, labels)
    choice.features(())
    return Table(_finite(np.asarray(values, dtype=np.float64), (), choice), (), labels)


def load_tables(
    files: Sequence[Path],
    shape: tuple[int, ...],
    schema: Schema,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    max_gib: float = MAX_GIB,
) -> tuple[list[str], Tensor]:
    """Points from files, as a model of a schema sees them.

    Args:
        files: Files as for `read_table`.
        shape: The number of features.
        schema: Columns and units of the training data.
        label: A column of labels, which is left out where it is there.
        columns: The columns that are features; by default all others.
        max_gib: Most memory of an array or a table, in GiB.

    Returns:
        A name for each of the N points, and an `N x D` float32 tensor.

    Raises:
        ValueError: If a file cannot be read, or has other columns.
    """
    names, parts = list[str](), list[Tensor]()
    for file in files:
        table = read_table(file, label=label, columns=columns, labelled=False, max_gib=max_gib, option="--max_gib")
        points = schema.arrange(torch.from_numpy(table.values), table.columns, repr(str(file)))
        if points.shape[1:] != shape:
            raise ValueError(
                f"Expected points with {plural(shape[0], 'feature')} for this run; got {points.shape[1]} in {file}."
            )
        names += [f"{file.name}:{index}" for index in range(len(points))]
        points = points if schema.standardisation is None else schema.standardisation.standardise(points)
        parts.append(single_precision(points, str(file)))
    return names, torch.cat(parts)


@dataclass(frozen=True)
class _Choice:
    """The columns of a file that are read."""

    path: Path
    label: str | None
    columns: Sequence[str] | None
    labelled: bool
    max_gib: float = MAX_GIB
    option: str = "--data.max_gib"

    @property
    def remedy(self) -> str:
        """The remedy for a column of words, for messages."""
        if not self.labelled:
            return ": leave it out of the file"
        options = self.option.removesuffix("max_gib")
        return f": name it by {options}label, or others by {options}columns"

    def refuse_larger(self, size: int, what: str) -> None:
        """Refuse more bytes than the limit allows."""
        refuse_larger(size, self.max_gib, what, self.path, self.option)

    def features(self, names: Sequence[str]) -> list[str]:
        """The names of the features, out of those of all columns."""
        where, distinct = repr(str(self.path)), set(names)
        if "" in distinct or len(distinct) < len(names):
            twice = next((name for name in names if not name or names.count(name) > 1), "")
            got = f"{twice!r} {names.count(twice)} times" if twice else f"none for column {names.index('') + 1}"
            raise ValueError(f"Expected a name of its own for every column of {where}; got {got}.")
        wanted = [] if self.label is None or not self.labelled else [self.label]
        absent = [name for name in [*wanted, *(self.columns or ())] if name not in distinct]
        if absent:
            there = f"which has {', '.join(names)}" if names else "whose columns have no names"
            raise ValueError(f"Expected columns of {where}, {there}; got {', '.join(map(repr, absent))}.")
        chosen = [name for name in self.columns or names if name != self.label]
        if names and not chosen:
            raise ValueError(f"Expected a column of numbers beside the labels in {where}; got none.")
        return chosen


def _read_csv(path: Path, choice: _Choice) -> Table:
    where, values, lines, labels = repr(str(path)), array("d"), array("q"), list[str]()
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            choice.refuse_larger(os.fstat(file.fileno()).st_size, "a table")
            rows = _filled_rows(file)
            start = next(rows, (0, list[str]()))
            width, named = len(start[1]), choice.label in start[1] or not any(map(_is_number, start[1]))
            names = start[1] if named else []
            _check_commas(start[1], where)
            columns = choice.features(names)
            features = [names.index(name) for name in columns] if named else list(range(width))
            label = names.index(choice.label) if choice.label in names else None
            for line, words in rows if named else chain([start], rows):
                if len(words) != width:
                    raise ValueError(
                        f"Expected {plural(width, 'value')} in every line of {where}; got {len(words)} in line {line}."
                    )
                try:
                    values.extend([float(words[place]) for place in features])
                except ValueError:
                    wrong = next(place for place in features if not _is_number(words[place]))
                    column = names[wrong] if named else wrong + 1
                    raise _refusal(words[wrong], column, f"line {line}", choice) from None
                lines.append(line)
                choice.refuse_larger(8 * (len(values) + len(lines)), "the points of a table")
                labels += [] if label is None else [words[label]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ValueError(f"Expected text in UTF-8 in {where}; got other bytes: save it as UTF-8.") from error
        cause = f"something else: {one_sentence(error)}"
        raise ValueError(f"Expected comma-separated numbers in {where}; got {cause}.") from error
    if label is not None and "" in labels:
        raise _refusal("", names[label], f"line {lines[labels.index('')]}", choice, "labels")
    table = _finite(np.array(values).reshape(len(lines), len(features)), columns, choice, lines)
    return Table(table, tuple(columns), None if label is None else _as_words(labels, choice))


def _check_commas(words: Sequence[str], where: str) -> None:
    """Refuse a first line without words, or whose words other characters than commas separate."""
    if not words:
        raise ValueError(f"Expected points in {where}; got an empty table.")
    for character, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(character in word for word in words):
            raise ValueError(
                f"Expected commas between the values of {where}; got {name}: save it with commas, and decimal points."
            )


def _filled_rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The number and the words of every line that is not empty."""
    rows = csv.reader(file)
    for row in rows:
        words = [word.strip() for word in row]
        if any(words):
            yield rows.line_num, words


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _of_columns(
    names: Sequence[str], columns: Sequence[Any], choice: _Choice, labels: NDArray[Any] | None = None
) -> Table:
    """A table of named columns, arrays or pandas series."""
    features, label = choice.features(names), choice.label
    if not features:
        raise ValueError(f"Expected columns of numbers in {str(choice.path)!r}; got none.")
    named = dict(zip(names, columns, strict=True))
    values = np.stack([_numbers(named[name], name, choice) for name in features], axis=1)
    if label in named:
        labels = _words(named[label], label, choice)
    return Table(_finite(values, features, choice), tuple(features), labels)


def _numbers(column: Any, name: str, choice: _Choice) -> NDArray[np.float64]:
    from latentmix.inference.mixtures.points.arrays import as_array

    try:
        return np.asarray(as_array(column), dtype=np.float64)
    except ValueError:
        row = next((row for row, value in enumerate(column) if not isinstance(value, int | float)), 0)
        raise _refusal(list(column)[row], name, f"row {row}", choice) from None


def _words(column: Any, name: str, choice: _Choice) -> NDArray[Any]:
    """Labels of a column: whole numbers or booleans as they are, any others as words."""
    if hasattr(column, "isna"):
        if column.isna().any():
            raise _refusal("", name, f"row {int(column.isna().to_numpy().argmax())}", choice, "labels")
        column = column.to_numpy()
    return _as_words(list(map(str, column)), choice) if column.dtype.kind == "O" else column


def _as_words(labels: list[str], choice: _Choice) -> NDArray[np.str_]:
    choice.refuse_larger(4 * len(labels) * max(map(len, labels), default=0), "labels, as wide as the longest,")
    return np.array(labels, dtype=str)


def _finite(
    values: NDArray[np.float64], columns: Sequence[str], choice: _Choice, lines: Sequence[int] | None = None
) -> NDArray[np.float64]:
    if not len(values):
        raise ValueError(f"Expected points in {str(choice.path)!r}; got an empty table.")
    bad = ~np.isfinite(values)
    if bad.any():
        row, place = map(int, np.argwhere(bad)[0])
        at = f"row {row}" if lines is None else f"line {lines[row]}"
        raise _refusal(values[row, place], columns[place] if columns else place + 1, at, choice, "finite numbers")
    return values


def _refusal(value: Any, column: str | int, place: str, choice: _Choice, expected: str = "numbers") -> ValueError:
    absent = isinstance(value, str) and not value
    got = "none" if absent else f"{value!r:.60}" if isinstance(value, str) else f"{value}"
    hint = "" if absent or expected != "numbers" else choice.remedy
    return ValueError(f"Expected {expected} in column {column!r} of {str(choice.path)!r}; got {got} in {place}{hint}.")
