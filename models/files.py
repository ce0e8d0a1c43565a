"""Files written in one step, and folders of results, in which no link is followed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import BinaryIO

__all__ = ["inside", "write_atomically"]

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, data: bytes | memoryview | Callable[[BinaryIO], None]) -> None:
    """Write a file beside its place under a fresh name, and move it there once it is on the disk.

    An interruption, a full disk or a limit of size leaves the earlier file whole; a link in its place is replaced, and
    not written through.

    Args:
        path: The file; an earlier one is replaced.
        data: Its content, or a function that writes it into an open file.

    Raises:
        OSError: If the folder does not exist or cannot be written, or the disk is full; the file beside is removed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.models.files import write_atomically
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "summary.json", b"{}")
        ...     [file.name for file in Path(folder).iterdir()]
        ['summary.json']
    """
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(beside, FLAGS, 0o666), "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    _sync(path.parent)


def inside(folder: Path, name: str) -> Path:
    """A path within a folder of results, such as a run, in which no part below the folder is a link.

    Args:
        folder: The folder, which itself may be a link.
        name: The path relative to it; it need not exist.

    Raises:
        ValueError: If a part of it is a link: it could lead to a private file, or out of the folder.

    Example:
        >>> from pathlib import Path
        >>> from latentmix.models.files import inside
        >>> inside(Path("runs/digits"), "checkpoints/vae.json").as_posix()
        'runs/digits/checkpoints/vae.json'
    """
    path, parts = folder, PurePath(name).parts
    if PurePath(name).is_absolute() or ".." in parts:
        raise ValueError(f"Expected files and folders in {folder}; got {name!r}, which leads out of it.")
    for part in parts:
        path = path / part
        if path.is_symlink() or path.is_junction():
            raise ValueError(
                f"Expected files and folders in {folder}; got the link {path}, which is not followed: put a copy of "
                "what it leads to in its place, or remove it."
            )
    return path


def _sync(folder: Path) -> None:
    """Write the entries of a folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
