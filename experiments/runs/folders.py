"""Folders of results: made in one step, or claimed by the command that continues them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from latentmix.experiments.places import check_new_folder, check_writable
from latentmix.experiments.runs.locks import FolderLock
from latentmix.models.files import inside, is_unfinished, write_atomically

__all__ = ["claimed", "make_folder"]


def make_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder with its files, in one step.

    An empty folder is taken as it is: it may be the working folder, or one that another disk is mounted on.

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
    except OSError as error:
        if not there:
            shutil.rmtree(made, ignore_errors=True)
        raise ValueError(f"Expected a new folder; got {path}: {error.strerror}.") from error


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
    if os.path.lexists(folder) and not _may_be_claimed(folder, mark):
        raise ValueError(
            f"Expected a new folder or that of {what}, with a {mark}; got {folder}, which holds something else: name "
            "another by --out."
        )
    check_writable(folder)
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(folder) as lock:
            yield lock
    finally:
        for place in made:
            with suppress(OSError):  # it has files
                place.rmdir()


def _may_be_claimed(folder: Path, mark: str) -> bool:
    return folder.is_dir() and (inside(folder, mark).is_file() or all(map(_is_residue, folder.iterdir())))


def _is_residue(path: Path) -> bool:
    """Whether a process that was killed before it wrote anything left a file."""
    return is_unfinished(path) or path.name == "lock"
