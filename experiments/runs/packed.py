"""Arrays of numbers as short texts, for the scripts of a page and for files of strangers."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pack", "unpack"]

LEVEL = 9


def pack(values: ArrayLike, dtype: str) -> str:
    """Numbers as base64 of zlib, all first bytes before all second ones.

    Bytes of one place resemble each other more than those of one number.

    Args:
        values: The numbers.
        dtype: Their type in the text, such as `<u2`.

    Example:
        >>> from latentmix.experiments.runs.packed import pack, unpack
        >>> unpack(pack([[1, 2], [3, 4]], "<u2"), "<u2", (2, 2)).tolist()
        [[1, 2], [3, 4]]
    """
    numbers = np.ascontiguousarray(np.asarray(values), dtype=dtype)
    planes = numbers.reshape(-1).view(np.uint8).reshape(-1, numbers.itemsize).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), LEVEL)).decode()


def unpack(text: Any, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """The numbers that `pack` wrote; no more than `shape` asks for are unpacked.

    Args:
        text: The text.
        dtype: The type of the numbers.
        shape: Their shape.

    Raises:
        ValueError: If it is not the text of so many numbers.
    """
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(text, validate=True), size + 1)
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"Expected packed numbers of shape {tuple(shape)}; got something else.") from error
    if len(data) != size or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"Expected {size:,} bytes of packed numbers of shape {tuple(shape)}; got others.")
    planes = np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(kind).reshape(tuple(shape))
