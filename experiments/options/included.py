"""Files of options, and those that they name, as one tree of plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentmix.experiments.options.classes import CLASSES
from latentmix.experiments.options.loader import load
from latentmix.experiments.reading.limits import MAX_DEPTH
from latentmix.experiments.reading.options import options_text, yaml_value
from latentmix.experiments.reading.paths import user_path

__all__ = ["included", "included_options", "named_file"]

GROUPS = {"", "config", "data", "mixture", "mixture.svi", "mixture.nuts", "mixture.posterior", "measure"}


def included_options(file: Path) -> dict[str, Any]:
    """The options of a file, those of files that it names in their places.

    Raises:
        ValueError: If a file cannot be read, exceeds a limit or is no YAML, or files name each other without end.
    """
    options: dict[str, Any] = included(_content(file), "", file.parent)
    return options


def included(value: Any, option: str, folder: Path, depth: int = 0) -> Any:
    """The value of an option, with the contents of files in the places of their names.

    A file stands for a class with its arguments, or for a group of options such as `data`.

    Args:
        value: The value.
        option: The option's name, without dashes; `""` is a whole configuration.
        folder: The folder of relative paths.
        depth: How many files led here.

    Raises:
        ValueError: As `included_options` does.
    """
    if isinstance(value, str):
        file = named_file(value, option, folder)
        if file is None:
            return value
        if depth == MAX_DEPTH:
            raise ValueError(
                f"Expected at most {MAX_DEPTH} files of options, each named by the one before; got {file} after them."
            )
        return included(_content(file), option, file.parent, depth + 1)
    if isinstance(value, Mapping) and option in GROUPS:
        return {
            name: included(each, f"{option}.{name}".removeprefix("."), folder, depth) for name, each in value.items()
        }
    return value


def named_file(text: str, option: str, folder: Path) -> Path | None:
    """The file that the value of an option names, if it names one, and the option may be in a file."""
    if option not in GROUPS and option not in CLASSES:
        return None
    file = folder / user_path(text)
    with suppress(ValueError):  # no path has a null character
        return file if os.path.exists(file) and not os.path.isdir(file) else None
    return None


def _content(file: Path) -> Any:
    text = options_text(file, "options")
    yaml_value(text, file, "options")  # refuses what is none, in a sentence
    return load(text)
