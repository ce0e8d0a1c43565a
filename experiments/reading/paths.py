"""Paths as users type them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["user_path"]


def user_path(text: str) -> Path:
    """The path of a text in which `~`, or `~name`, stands for a home folder.

    Raises:
        ValueError: If there is no such home folder.

    Example:
        >>> from latentmix.experiments.reading.paths import user_path
        >>> user_path("~/data").is_absolute()
        True
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"Expected a path; got {text!r}, whose home folder is not known: write the folder out."
        ) from error
