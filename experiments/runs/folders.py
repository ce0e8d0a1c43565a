"""Folders of results: made in one step, or claimed by the command that continues them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from latentmix.experiments.places import check_new_folder, check_writable, is_unfinished, occupied
from latentmix.experiments.runs.locks import FolderLock, is_lock
from latentmix.models.files import inside, write_atomically

__all__ = ["claimed", "make_folder"]


def make_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder with its files, in one step.

    An empty folder is taken as it is, and gets one file after the other: it may be the working folder, or one that
    another disk is mounted on.

    Args:
        path: The folder.
        files: The content of each file, by name.

    Raises:
        ValueError: If the path holds something or cannot be made.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.runs.folders import make_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_folder(Path(folder) / "run", {"config.yaml": b"{}"})
        ...     [file.name for file in (Path(folder) / "run").iterdir()]
        ['config.yaml']
    """
    check_new_folder(path)
    there = path.is_dir()
    made = path if there else path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        made.mkdir(parents=True, exist_ok=there)
        for name, content in files.items():
            write_atomically(made / name, content)
        if not there:
            os.rename(made, path)
    except BaseException as error:
        if not there:
            shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise ValueError(f"Expected a new folder; got {path}: {error.strerror}.") from error
        raise


@contextmanager
def claimed(folder: Path, mark: str, what: str) -> Iterator[FolderLock]:
    """A folder that one process at a time fills, and that the same command continues; it is new, or bears a mark.

    Folders that are made for it are removed after the block if it leaves them empty.

    Args:
        folder: The folder, made if it is not there.
        mark: The file by which one that was begun is known.
        what: Whose folder it is, for the message, such as `a sweep`.

    Raises:
        ValueError: If the folder holds something else, or cannot be made.
        LockedError: If another process fills it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.runs.folders import claimed
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with claimed(Path(folder) / "runs" / "grid", "sweep.json", "a sweep") as lock:
        ...         lock.check()
        ...     list(Path(folder).iterdir())
        []
    """
    if os.path.lexists(folder):
        _check_claimable(folder, mark, what)
    check_writable(folder)
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(folder) as lock:
            _check_claimable(folder, mark, what)  # another process may have filled it since
            yield lock
    finally:
        for place in made:
            with suppress(OSError):  # it has files
                place.rmdir()


def _check_claimable(folder: Path, mark: str, what: str) -> None:
    """Refuse a folder that holds neither the mark nor only what a process left that was killed before it wrote one."""
    begun = folder.is_dir() and inside(folder, mark).is_file()
    if not begun and not (folder.is_dir() and all(is_unfinished(path) or is_lock(path) for path in folder.iterdir())):
        raise occupied(folder, mark, what)
