"""Arrays of `.npy` and `.npz` files: headers are checked before memory is allocated, and nothing is unpickled."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.models.reading import one_sentence, open_regular

__all__ = ["kind_of", "read_array", "read_arrays"]

NUMBERS = "biuf"  # booleans, integers and floats
WORDS = "US"
MOST_NAMES = 10_000
_ERRORS = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, TypeError, RecursionError)
_KINDS = {"c": "complex numbers", "U": "words", "S": "words", "M": "dates", "m": "durations", "V": "records"}
_PACKED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def read_array(path: Path, *, max_gib: float = MAX_GIB, option: str = "--data.max_gib") -> NDArray[Any]:
    """The array of a `.npy` file, in native byte order.

    Args:
        path: The file.
        max_gib: Most memory, in GiB.
        option: The option that raises it, for the message.

    Raises:
        ValueError: If the file cannot be read, claims more memory, is cut short, or holds other than real numbers.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from latentmix.experiments.reading.arrays import read_array
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/points.npy", np.zeros((4, 2)))
        ...     read_array(Path(folder, "points.npy")).shape
        (4, 2)
    """
    with _opened(path) as file:
        return _array(file, str(path), NUMBERS, max_gib, option)


def read_arrays(
    path: Path, wanted: Collection[str], *, max_gib: float = MAX_GIB, option: str = "--data.max_gib"
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Arrays of a `.npz` file, of numbers or of words.

    Args:
        path: The file.
        wanted: Names of the arrays to read; those that are absent are left out.
        max_gib: Most memory of each, in GiB.
        option: The option that raises it, for the message.

    Returns:
        The arrays by name, and the names of all arrays in the file, sorted.

    Raises:
        ValueError: If the file cannot be read, is encrypted, or an array is as `read_array` refuses it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from latentmix.experiments.reading.arrays import read_arrays
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/points.npz", x=np.zeros((4, 2)), y=np.zeros(4))
        ...     arrays, names = read_arrays(Path(folder, "points.npz"), ["x"])
        >>> arrays["x"].shape, names
        ((4, 2), ['x', 'y'])
    """
    arrays: dict[str, NDArray[Any]] = {}
    with _opened(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (*_ERRORS, *_PACKED) as error:
            raise _unreadable(str(path), error) from error
        with archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()[:MOST_NAMES]}
            for name, member in members.items():
                if name not in wanted:
                    continue
                where = f"{path}, array {name!r}"
                if member.flag_bits & 1:
                    raise ValueError(f"Expected arrays of numbers in {path}; got an encrypted file: decrypt it.")
                refuse_larger(member.file_size, max_gib, "an array", where, option)
                try:
                    with archive.open(member) as packed:
                        arrays[name] = _array(cast(BinaryIO, packed), where, NUMBERS + WORDS, max_gib, option)
                except (*_ERRORS, *_PACKED) as error:
                    if isinstance(error, ValueError) and str(error).startswith("Expected"):
                        raise
                    raise _unreadable(where, error) from error
            return arrays, sorted(members)


def kind_of(dtype: np.dtype[Any]) -> str:
    """The contents of an array of a dtype, in words.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.reading.arrays import kind_of
        >>> kind_of(np.dtype("<U11"))
        'words'
    """
    return _KINDS.get(dtype.kind, f"values of {dtype}")


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise ValueError(f"Expected arrays of numbers in {path}; got {error.strerror or error}.") from error


def _array(file: BinaryIO, where: str, kinds: str, max_gib: float, option: str) -> NDArray[Any]:
    """The array of an open file, read in pieces, so that no more is allocated than is there."""
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if version not in ((1, 0), (2, 0), (3, 0)) or any(length < 0 for length in shape):
            raise ValueError(f"a header of version {version} and shape {shape}")
    except (*_ERRORS, SyntaxError, MemoryError) as error:
        raise _unreadable(where, error) from error
    if dtype.itemsize == 0 and math.prod(shape) > 0:
        raise ValueError(f"Expected arrays of numbers in {where}; got one of empty words.")
    if dtype.hasobject:
        raise ValueError(f"Expected arrays of numbers in {where}; got pickled objects, which are never opened.")
    if dtype.kind not in kinds or dtype.shape:
        raise ValueError(f"Expected arrays of real numbers in {where}; got {kind_of(dtype)}.")
    size = math.prod(shape) * dtype.itemsize
    refuse_larger(size, max_gib, "an array", where, option)
    data = bytearray()
    while len(data) < size:
        try:
            piece = file.read(min(2**24, size - len(data)))
        except (*_ERRORS, *_PACKED) as error:
            raise _unreadable(where, error) from error
        if not piece:
            raise ValueError(
                f"Expected an array of shape {shape} in {where}; got a file that ends after {len(data):,} of its "
                f"{size:,} bytes: it is cut short."
            )
        data += piece
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _unreadable(where: str, error: BaseException) -> ValueError:
    text = one_sentence(error)
    text = "it does not begin as a .npy file" if "the magic string is not correct" in text else text
    cause = "an empty file" if isinstance(error, EOFError) else f"something else ({text})"
    return ValueError(f"Expected arrays of numbers in {where}; got {cause}.")
