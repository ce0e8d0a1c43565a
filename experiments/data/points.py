"""Points from a file of numbers, `.npy` or `.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_points"]

Array = NDArray[np.float64]


def load_points(path: Path) -> Array:
    r"""The points of a file: an `n x D` array.

    Args:
        path: A `.npy` file of an `n x D` array (or of `n` numbers), or a `.csv` file of numbers with or without a line
            of names.

    Raises:
        ValueError: If it is neither, has fewer than four points, or holds NaN or infinity.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.data.points import load_points
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "points.csv").write_text("x,y\n0,1\n2,3\n4,5\n6,7\n")
        ...     load_points(Path(folder, "points.csv")).shape
        (4, 2)
    """
    points = _array(path) if path.suffix == ".npy" else _rows(path)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or len(points) < 4 or not points.shape[1]:
        raise ValueError(f"Expected at least four points, n x D, in {str(path)!r}; got shape {points.shape}.")
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise ValueError(f"Expected finite points in {str(path)!r}; got NaN or infinity in row {int(bad.argmax())}.")
    return points


def _array(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
        if np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array):
            return np.asarray(array, dtype=np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"Expected an array of numbers in {str(path)!r}; got something else.") from error
    raise ValueError(f"Expected an array of numbers in {str(path)!r}; got one of {array.dtype}.")


def _rows(path: Path) -> Array:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Expected comma-separated numbers in {str(path)!r}; got something else.") from error
    named = bool(lines) and not any(map(_is_number, lines[0][1]))
    points: list[list[float]] = []
    for number, row in lines[1 if named else 0 :]:
        if not all(map(_is_number, row)) or len(row) != len(lines[0][1]):
            raise ValueError(
                f"Expected {len(lines[0][1])} numbers in every line of {str(path)!r}; got "
                f"{','.join(row)[:60]!r} in line {number}."
            )
        points.append([float(word) for word in row])
    return np.array(points, dtype=np.float64).reshape(len(points), len(lines[0][1]) if lines else 0)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
