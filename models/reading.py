"""Files read with checks: regular files alone, JSON, and tensors of safetensors."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
from torch import Tensor

__all__ = [
    "MOST_TEXT",
    "REMEDY",
    "damaged",
    "one_sentence",
    "open_regular",
    "read_json",
    "read_tensors",
    "read_text",
]

MOST_TEXT = 256 * 2**20  # bytes of a text file
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
REMEDY = "restore the file from a copy, or make it anew"
_WRONG = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError, AssertionError)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a named pipe, a socket or a device is refused without being read.

    Raises:
        ValueError: If it is no regular file.
        OSError: If it is not there, or cannot be read.

    Example:
        >>> import os
        >>> from pathlib import Path
        >>> from latentmix.models.reading import open_regular
        >>> open_regular(Path(os.devnull))
        Traceback (most recent call last):
            ...
        ValueError: Expected a regular file; got a device in /dev/null.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)  # before it is opened: some devices act on that alone
    if kind == stat.S_IFREG:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind == stat.S_IFREG:
            return os.fdopen(handle, "rb")
        os.close(handle)
    raise ValueError(f"Expected a regular file; got {KINDS.get(kind, 'something else')} in {path}.")


def read_text(path: Path, expected: str, *, most: int = MOST_TEXT, option: str = "") -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Args:
        path: The file.
        expected: The expected content, for messages.
        most: Most bytes.
        option: The option that raises this limit, for messages.

    Raises:
        ValueError: If the file is not there, is no regular file, has more bytes, or is no UTF-8.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.models.reading import read_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "words.txt").write_text("one")
        ...     read_text(Path(folder, "words.txt"), "words")
        'one'
    """
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"Expected {expected} in {path}; got {error.strerror or error}.") from error
    if len(data) > most:
        remedy = f": allow more by {option}" if option else ""
        raise ValueError(f"Expected {expected} of at most {most / 2**20:g} MiB in {path}; got more{remedy}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {expected} in {path}; got bytes that are no UTF-8 at byte {error.start:,}: {REMEDY}."
        ) from error


def read_json(path: Path, expected: str, *, remedy: str = REMEDY) -> Any:
    """The values of a JSON file.

    Args:
        path: The file.
        expected: The expected content, for messages.
        remedy: What to do, for messages.

    Raises:
        ValueError: If the file cannot be read, is no JSON, or nests lists and mappings too deeply.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.models.reading import read_json
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "summary.json").write_text('{"epochs": 3}')
        ...     read_json(Path(folder, "summary.json"), "a summary")
        {'epochs': 3}
    """
    text = read_text(path, expected)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"Expected {expected} in {path}; got lists or mappings nested too deeply: {remedy}."
        ) from error
    except ValueError as error:
        cause = "an empty file" if not text.strip() else f"no JSON ({error})"
        raise ValueError(f"Expected {expected} in {path}; got {cause}: {remedy}.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file of safetensors by name, on the CPU, and its metadata.

    Raises:
        ValueError: If the file is not there, is no regular file, or holds something else.
    """
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise ValueError(f"Expected the file {path}; it is not there.") from error
    except OSError as error:
        raise ValueError(f"Expected safetensors in {path}; got {error.strerror or error}.") from error
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            return tensors, dict(stored.metadata() or {})
    except Exception as error:  # safetensors' own, and torch's on data types that it does not know
        raise ValueError(f"Expected safetensors in {path}; got {one_sentence(error)}: {REMEDY}.") from error


@contextmanager
def damaged(
    where: Path | str, expected: str, *, remedy: str = REMEDY, kind: type[ValueError] = ValueError
) -> Iterator[None]:
    """A block that turns errors on unexpected values of a file into one sentence that names the file.

    Args:
        where: The file, or the part of one.
        expected: The expected content.
        remedy: What to do, for messages.
        kind: The class of the error.

    Raises:
        ValueError: In place of errors on missing names and on values of other types, and with the file's name added
            where a sentence lacks it.

    Example:
        >>> from pathlib import Path
        >>> from latentmix.models.reading import damaged
        >>> with damaged(Path("summary.json"), "a summary"):
        ...     {}["epochs"]
        Traceback (most recent call last):
            ...
        ValueError: Expected a summary in summary.json; got none with 'epochs': restore the file from a copy, or make \
it anew.
    """
    try:
        yield
    except _WRONG as error:
        text = one_sentence(error)
        if isinstance(error, ValueError) and text.startswith(("Expected", f"{where}: ")):
            if isinstance(error, kind) and str(where) in text:
                raise
            raise kind(text if str(where) in text else f"{where}: {text}") from error
        if isinstance(error, KeyError):
            cause = f"none with {text}"
        elif isinstance(error, RecursionError):
            cause = "values nested too deeply"
        else:
            cause = f"other values ({text})" if isinstance(error, ValueError | RuntimeError) else "other values"
        raise kind(f"Expected {expected} in {where}; got {cause}: {remedy}.") from error


def one_sentence(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters, without a full stop; its kind if it has none.

    An error of the system is worded by its cause alone, without its number and its file.
    """
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(message.split()) or type(error).__name__
    return text[:300] if text.startswith("Expected") else text[:300].rstrip(".")
