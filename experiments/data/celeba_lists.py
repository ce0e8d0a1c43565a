"""CelebA's lists of attributes and of the partition; every line is checked, and errors name the line."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentmix.models.reading import read_text
from latentmix.models.words import plural

__all__ = ["read_attributes", "read_partition"]


def read_attributes(folder: Path) -> tuple[dict[str, NDArray[np.bool_]], tuple[str, ...]]:
    """The attributes of every file, and their names.

    `list_attr_celeba.txt` has the number of images in its first line, the names in its second, and then a line for each
    image: its file and -1 or 1 for each attribute. `list_attr_celeba.csv` is read if there is no `.txt`; it is
    comma-separated, with one heading, the names after `image_id`.

    Args:
        folder: Folder of the list.

    Returns:
        A boolean per attribute for every file, and the names of the attributes.

    Raises:
        ValueError: If there is no such list, its first lines are malformed, a line has another number of values or a
            value other than -1 and 1, a file is listed twice, or the number of images is not that of the first line.
    """
    listed = _List.read(folder, "list_attr_celeba")
    start = 1 if listed.commas else 2
    number, heading = listed.lines[start - 1]
    names = tuple(listed.words(heading)[1 if listed.commas else 0 :])
    if len(set(names)) < len(names) or not {"-1", "0", "1"}.isdisjoint(names):
        raise ValueError(
            f"Expected the names of attributes, each once, in line {number} of {str(listed.path)!r}; got "
            f"{heading[:60]!r}."
        )
    files, values = listed.table(start, len(names), (-1, 1))
    number, count = listed.lines[0]
    if not listed.commas and count != str(len(files)):
        raise ValueError(
            f"Expected the number of images, {len(files)}, in line {number} of {str(listed.path)!r}; got "
            f"{count[:60]!r}: the list may be cut short."
        )
    return dict(zip(files, values == 1, strict=True)), names


def read_partition(folder: Path) -> tuple[list[str], NDArray[np.int8]]:
    """The part of every file: 0 for training, 1 for validation, 2 for test.

    `list_eval_partition.txt` has a line for each image; `list_eval_partition.csv`, with a heading and commas, is read
    if there is no `.txt`.

    Args:
        folder: Folder of the list.

    Returns:
        N files and an array of N parts.

    Raises:
        ValueError: If there is no such list, a line has another number of values or a value other than 0, 1 and 2, or
            a file is listed twice.
    """
    listed = _List.read(folder, "list_eval_partition")
    headed = listed.commas and {"0", "1", "2"}.isdisjoint(listed.words(listed.lines[0][1]))
    files, values = listed.table(int(headed), 1, (0, 1, 2))
    return files, values[:, 0]


@dataclass(frozen=True)
class _List:
    """The non-empty lines of a list with their numbers, separated by commas or by white space."""

    path: Path
    lines: list[tuple[int, str]]
    commas: bool

    @classmethod
    def read(cls, folder: Path, name: str) -> _List:
        path = folder / f"{name}.txt"
        if not path.exists() and (folder / f"{name}.csv").exists():
            path = folder / f"{name}.csv"
        if not path.exists():
            raise ValueError(f"Expected {path.name} beside img_align_celeba in {str(folder)!r}; got no such file.")
        text = read_text(path, "a list of CelebA")
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 3:  # an image of each part
            raise ValueError(f"Expected a list of CelebA in {str(path)!r}; got {plural(len(lines), 'line')}.")
        return cls(path, lines, "," in lines[0][1])

    def words(self, line: str) -> list[str]:
        return [word.strip(' "') for word in line.split(",")] if self.commas else line.split()

    def table(self, start: int, columns: int, allowed: tuple[int, ...]) -> tuple[list[str], NDArray[np.int8]]:
        """File names and `N x columns` integers from the lines after the first `start`."""
        known = {str(value): value for value in allowed}
        values, numbers = array("b"), dict[str, int]()
        for number, line in self.lines[start:]:
            file, *words = self.words(line)
            wrong = "" if len(words) == columns else plural(len(words), "value")
            try:
                values.extend(map(known.__getitem__, words))
            except KeyError as error:
                wrong = wrong or str(error)
            if wrong:
                raise ValueError(
                    f"Expected a file name and {plural(columns, 'value')} of {' or '.join(known)} in every line of "
                    f"{str(self.path)!r}; got {line[:60]!r} in line {number}, with {wrong}."
                )
            if file in numbers:
                raise ValueError(
                    f"Expected every file once in {str(self.path)!r}; got {file!r} in the lines {numbers[file]} and "
                    f"{number}."
                )
            numbers[file] = number
        return list(numbers), np.frombuffer(values, np.int8).reshape(len(numbers), columns)
