"""Points from a file of numbers, `.npy` or `.csv`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.reading.arrays import read_array
from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.models.reading import read_text

__all__ = ["load_points"]

Array = NDArray[np.float64]


def load_points(path: Path, *, max_gib: float = MAX_GIB) -> Array:
    r"""The points of a file: an `n x D` array.

    Args:
        path: A `.npy` file of an `n x D` array (or of `n` numbers), or a `.csv` file of numbers with or without a line
            of names.
        max_gib: Most memory of the points, and most text of a table, in GiB.

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
    points = _array(path, max_gib) if path.suffix == ".npy" else _rows(path, max_gib)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or len(points) < 4 or not points.shape[1]:
        raise ValueError(f"Expected at least four points, n x D, in {str(path)!r}; got shape {points.shape}.")
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise ValueError(f"Expected finite points in {str(path)!r}; got NaN or infinity in row {int(bad.argmax())}.")
    return points


def _array(path: Path, max_gib: float) -> Array:
    return np.asarray(read_array(path, max_gib=max_gib, option="--max_gib"), dtype=np.float64)


def _rows(path: Path, max_gib: float) -> Array:
    refuse_larger(path.stat().st_size, max_gib, "a table", path, "--max_gib")
    text = read_text(path, "comma-separated numbers", most=int(max_gib * 2**30))
    try:
        rows = csv.reader(io.StringIO(text, newline=""))
        lines = [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"Expected comma-separated numbers in {str(path)!r}; got something else ({error}).") from error
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
