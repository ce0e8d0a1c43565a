"""Locks of folders: one process at a time writes a run or a sweep."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from latentmix.models.files import inside
from latentmix.models.reading import open_regular

if TYPE_CHECKING:
    from io import BufferedReader

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "LockedError", "is_lock"]

FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_held: set[tuple[int, int]] = set()  # a process's own: closing any handle of a file ends the process's lock on it


class LockedError(ValueError):
    """Raised where another process writes a folder, or where the folder, or a finished file, has changed meanwhile."""


class FolderLock:
    """The right to write a folder, held within a block by one process, and released by the system when that ends.

    It is a POSIX record lock on a file `lock` in the folder, which names the process and is removed after the block.
    Forked processes do not inherit it.

    Args:
        folder: The folder; it exists.

    Raises:
        LockedError: At the start of the block, if another process, or another block of this one, holds the lock.
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.runs.locks import FolderLock
        >>> with tempfile.TemporaryDirectory() as folder, FolderLock(Path(folder)) as lock:
        ...     lock.check()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._key = (0, 0)
        self._sealed: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        path = inside(self.folder, "lock")
        while self._handle is None:
            if _key_of(path) in _held:
                raise self._refused(os.getpid())
            handle = os.open(path, FLAGS, 0o666)
            try:
                self._acquire(handle)
            except BaseException:
                os.close(handle)
                raise
            if _key_of(path) == _key_of(handle):
                self._handle = handle
            else:  # the holder before has removed the file
                os.close(handle)
        self._key = _key_of(self._handle)  # type: ignore[assignment]
        _held.add(self._key)
        with suppress(OSError):  # a full disk: the lock holds without the name of its process
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        path = self.folder / "lock"
        with suppress(OSError):
            if _key_of(path) == self._key:
                path.unlink()
        _held.discard(self._key)
        os.close(self._handle)
        self._handle = None

    def check(self) -> None:
        """Refuse to go on in a folder that is no longer the one that was locked.

        Raises:
            LockedError: If it was moved, replaced or removed.
        """
        if _key_of(self.folder / "lock") != self._key:
            raise LockedError(
                f"Expected the folder {self.folder} to stay in its place; got another, or none: it was moved, replaced "
                "or removed, and nothing more is written (`latentmix resume` with its new place finishes a run)."
            )

    def seal(self, *names: str) -> None:
        """Note the content of files that are finished, so that `check_sealed` notices another.

        Args:
            names: Their paths relative to the folder.
        """
        self._sealed |= {name: self._digest(name) for name in names}

    def check_sealed(self) -> None:
        """Refuse to go on where a finished file is no longer what it was.

        Raises:
            LockedError: If one was changed or removed, or the folder as in `check`.
        """
        self.check()
        for name, before in self._sealed.items():
            if (now := self._digest(name)) is None or now != before:
                raise LockedError(
                    f"Expected {self.folder / name} to stay as it is until the run ends; got "
                    f"{'none' if now is None else 'another'}: something else has changed or removed it; put it back, "
                    "and `latentmix resume` with the folder does what is left."
                )

    def _digest(self, name: str) -> str | None:
        """The digest of a file; `None` where it is not there, or is no file."""
        try:
            with open_regular(inside(self.folder, name)) as file:
                return hashlib.file_digest(cast("BufferedReader", file), "sha256").hexdigest()
        except (OSError, ValueError):
            return None

    def _acquire(self, handle: int) -> None:
        try:
            if fcntl is None:
                raise OSError("this system has none")
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            raise self._refused(holder or "unknown") from error
        except OSError as error:
            warnings.warn(
                f"{self.folder} cannot be locked ({error.strerror or error}): make sure that nothing else writes it.",
                stacklevel=3,
            )

    def _refused(self, holder: int | str) -> LockedError:
        return LockedError(
            f"Expected a folder that no process is writing; got {self.folder}, which process {holder} writes: wait "
            "until it ends, or end it."
        )


def is_lock(path: Path) -> bool:
    """Whether a path is the file of a `FolderLock`, held by this process or left by any: empty, or a process number."""
    if path.name != "lock" or path.is_symlink() or not path.is_file():
        return False
    if _key_of(path) in _held:  # to open it would end the lock
        return True
    with suppress(OSError), path.open("rb") as file:
        return re.fullmatch(rb"\d{0,19}\n?", file.read(21)) is not None
    return False


def _key_of(file: Path | int) -> tuple[int, int] | None:
    """Device and number of a file; `None` if it is not there."""
    try:
        state = os.stat(file, follow_symlinks=False) if isinstance(file, Path) else os.fstat(file)
    except OSError:
        return None
    return state.st_dev, state.st_ino
