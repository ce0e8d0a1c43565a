"""Places of results and of runs: refused before data are read, and cleared of what a killed process left."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

__all__ = [
    "another",
    "check_continued_folder",
    "check_new_file",
    "check_new_folder",
    "check_run",
    "check_writable",
    "is_unfinished",
    "occupied",
    "remove_unfinished",
]

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)


def another(option: str = "--out") -> str:
    """Ask for another place by an option."""
    return f"name another by {option}"


def check_run(path: Path) -> None:
    """Refuse a path that is no run's folder.

    Raises:
        ValueError: If it is none.
    """
    if not (path / "config.yaml").is_file():
        raise ValueError(f"Expected the folder of a run, with a config.yaml; got {str(path)!r}.")


def check_new_file(path: Path | None, option: str = "--out") -> None:
    """Refuse a file of results that exists, whose folder does not, or that cannot be written; `None` is no file.

    Args:
        path: The file.
        option: The option that names it, for the message.

    Raises:
        ValueError: If so.
    """
    if path is None:
        return
    if os.path.lexists(path):
        raise ValueError(f"Expected a new file for the result; got {path}, which exists already: {another(option)}.")
    if not os.path.lexists(path.parent):
        raise ValueError(
            f"Expected a folder that is there for the result; got {path}: make {path.parent}, or {another(option)}."
        )
    check_writable(path, option)


def check_new_folder(path: Path) -> None:
    """Refuse a path that exists, but for a folder that is empty or that a killed process had begun to fill.

    Raises:
        ValueError: If it exists, or cannot be made.
    """
    if os.path.lexists(path) and not (path.is_dir() and all(map(is_unfinished, path.iterdir()))):
        raise ValueError(f"Expected a new folder; got {path}, which exists already: {another()}.")
    check_writable(path)


def check_continued_folder(path: Path, mark: str, what: str) -> None:
    """Refuse a path that exists, but for a folder that is empty, that bears a mark, or that a killed process left.

    `claimed` of `runs/folders.py` checks the folder again, more closely, once it holds its lock.

    Args:
        path: The folder.
        mark: The file by which one that was begun is known.
        what: Whose folder it is, for the message, such as `a sweep`.

    Raises:
        ValueError: If it holds something else, or cannot be made.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.places import check_continued_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "sweep.json").touch()
        ...     check_continued_folder(Path(folder), "sweep.json", "a sweep")
    """
    if os.path.lexists(path):
        folder = path.is_dir()
        begun = folder and (path / mark).is_file()
        if not begun and not (folder and all(is_unfinished(each) or each.name == "lock" for each in path.iterdir())):
            raise occupied(path, mark, what)
    check_writable(path)


def occupied(path: Path, mark: str, what: str) -> ValueError:
    """The refusal of a folder that is neither empty nor bears a mark."""
    return ValueError(
        f"Expected a new folder or that of {what}, with a {mark}; got {path}, which holds something else: {another()}."
    )


def is_unfinished(path: Path) -> bool:
    """Whether a path is a file or folder that an interrupted `write_atomically` or `make_folder` left beside its place.

    Example:
        >>> from pathlib import Path
        >>> from latentmix.experiments.places import is_unfinished
        >>> is_unfinished(Path(".summary.json.0123456789abcdef.part")), is_unfinished(Path("film.part"))
        (True, False)
    """
    return UNFINISHED.fullmatch(path.name) is not None


def remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted `write_atomically` or `make_folder` left in a folder, beside its place."""
    for path in folder.glob(".*.part"):
        if not is_unfinished(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuse a path that no file or folder can be written at: the nearest that is there is no folder, or is read-only.

    Args:
        path: The path.
        option: The option that names it, for the message.

    Raises:
        ValueError: If it is one; the message names what is in its way.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.places import check_writable
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     check_writable(Path(file.name) / "run")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: Expected a place that can be written; got .../run: ... is no folder: name another by --out.
    """
    for place in (path, *path.absolute().parents):
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            wrong = f"{place}: {error.strerror}"
        else:
            if not place.is_dir():
                wrong = f"{place} is no folder"
            elif not os.access(place, os.W_OK | os.X_OK):
                wrong = f"{place} cannot be written"
            else:
                return
        raise ValueError(f"Expected a place that can be written; got {path}: {wrong}: {another(option)}.")
