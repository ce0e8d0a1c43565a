"""Arrays of any kind as tensors, tensors as arrays of the user's kind, and slices of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.masked import MaskedTensor

from latentmix.inference.isolation import ordinary
from latentmix.models.process_state import kept_filters

__all__ = [
    "Array",
    "as_array",
    "as_tensor",
    "check_unmasked",
    "listed_rows",
    "marked",
    "plain_array",
    "returned",
    "slices",
]

Array = NDArray[Any] | Tensor


def as_array(values: Any) -> Array:
    """Values as a NumPy array of real numbers; a tensor is returned unchanged.

    Masked entries of NumPy arrays, `pandas.NA` and `None` become NaN, in float64 where the values were not floats.

    Args:
        values: A tensor, an array of any byte order or strides, a data frame, or nested sequences.

    Raises:
        ValueError: If the values are not real numbers, or the tensor is a `MaskedTensor`.
    """
    if isinstance(values, Tensor):
        if isinstance(values, MaskedTensor):
            raise ValueError(
                "Expected a tensor or an array; got a torch MaskedTensor: pass x.to_tensor(float('nan')), with "
                "missing='marginalize' where x holds points."
            )
        return values
    values = marked(values)
    if _is_masked(values):
        values = np.ma.filled(values.astype(np.float64) if values.dtype.kind in "biu" else values, np.nan)
    array = plain_array(values)
    if array.dtype.kind == "O":
        array = _of_objects(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected real numbers; got values of dtype {array.dtype}.")
    return array


def plain_array(values: Any) -> NDArray[Any]:
    """`numpy.asarray`, for which pandas changes the filters of warnings."""
    with kept_filters():
        return np.asarray(values)


def marked(values: Any) -> Any:
    """Values whose missing entries `numpy.asarray` and scikit-learn recognise.

    A list of masked arrays becomes one masked array; `None` and `pandas.NA` in a data frame of objects become NaN.
    """
    if isinstance(values, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in values):
        return np.ma.stack(values)
    if not hasattr(values, "notna"):
        return values
    with kept_filters():
        of_objects = np.dtype(object) in np.atleast_1d(getattr(values, "dtypes", ()))
        return values.where(values.notna(), np.nan) if of_objects else values


def as_tensor(values: Any) -> Tensor:
    """Values as a tensor, which shares their memory where torch can: not that of read-only arrays, say.

    Unsigned integers wider than a byte become `int64`, or float64 where they do not fit; `longdouble` becomes float64.

    Args:
        values: As `as_array` takes them.

    Raises:
        ValueError: As `as_array` raises it.
    """
    array = as_array(values)
    if isinstance(array, Tensor):
        return ordinary(array)
    kind, size = array.dtype.kind, array.dtype.itemsize
    dtype = array.dtype.newbyteorder("=")
    if kind == "f" and size > 8:
        dtype = np.dtype(np.float64)
    elif kind == "u" and size > 1:
        fits = size < 8 or not array.size or int(array.max()) <= np.iinfo(np.int64).max
        dtype = np.dtype(np.int64 if fits else np.float64)
    shared = array.flags.writeable and array.flags.aligned and all(s >= 0 and s % size == 0 for s in array.strides)
    array = array.astype(dtype, copy=not shared)
    return torch.from_numpy(np.asarray(array))


def check_unmasked(values: Any, name: str, remedy: str) -> None:
    """Refuse masked entries in `values`, which the message calls `name`.

    Raises:
        ValueError: If there is a masked entry.
    """
    if _is_masked(values):
        count, listed = listed_rows(torch.from_numpy(np.ma.getmaskarray(values).reshape(len(values), -1).any(1)))
        raise ValueError(
            f"Expected {name} without missing values; got masked ones, which count as NaN, in {count} rows: "
            f"{listed}: {remedy}."
        )


def returned(value: Tensor, like: Any) -> Any:
    """A tensor on the device of `like`, or a NumPy array where `like` is not a tensor."""
    if isinstance(like, Tensor):
        return value.detach().to(like.device)
    return value.detach().cpu().numpy()


def listed_rows(chosen: Tensor) -> tuple[int, str]:
    """The number of rows at which `(n,)` booleans are true, and the first five of them in words."""
    rows = chosen.nonzero().flatten().tolist()
    return len(rows), ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def slices(count: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` rows that together cover `count` rows in order."""
    for first in range(0, count, max(1, rows)):
        yield slice(first, min(first + max(1, rows), count))


def _is_masked(values: Any) -> bool:
    real = isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "biufO"
    return real and bool(np.ma.is_masked(values))


def _of_objects(array: NDArray[Any]) -> NDArray[np.float64]:
    """Python numbers, and what pandas takes for missing, as float64."""
    import pandas  # type: ignore[import-untyped]

    try:
        return np.where(pandas.isna(array), np.nan, array).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected real numbers; got values of dtype {array.dtype}.") from error
