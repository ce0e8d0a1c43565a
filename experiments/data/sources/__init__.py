"""Data sources, a module each: `SOURCES` in a module of this package lists those that it adds."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from latentmix.experiments.data.base import Source
from latentmix.experiments.hints import did_you_mean

__all__ = ["find_source", "sources", "specific_options"]

GENERAL = {"source", "root", "download", "seed"}


@cache
def sources() -> dict[str, Source]:
    """All sources by name.

    Example:
        >>> from latentmix.experiments.data.sources import sources
        >>> list(sources()["gmm3d"].parameters)
        ['points', 'seed', 'max_gib']
    """
    modules = [importlib.import_module(module.name) for module in pkgutil.iter_modules(__path__, f"{__name__}.")]
    return {source.name: source for module in modules for source in getattr(module, "SOURCES", ())}


def find_source(name: str) -> Source:
    """The source of that name, or of files such as the path `name`.

    Raises:
        ValueError: If there is none.
    """
    listed = {key: source for key, source in sources().items() if not source.suffixes}
    if name in listed:
        return listed[name]
    for source in sources().values():
        if source.suffixes and name.endswith(source.suffixes):
            return source
    endings = ", ".join(suffix for source in sources().values() for suffix in source.suffixes)
    hint = did_you_mean(name.lower(), listed)
    if Path(name).is_dir():
        hint = f": a folder of pictures is read by --data.source image_folder --data.root {name}."
    raise ValueError(
        f"Expected --data.source to be one of {', '.join(listed)}, or the path of a {endings} file; got {name!r}{hint}"
    )


def specific_options() -> dict[str, list[str]]:
    """The options of `Data` that apply to some sources only, each with the names of these."""
    options: dict[str, list[str]] = {}
    for source in sources().values():
        for option in source.parameters:
            if option not in GENERAL:
                options.setdefault(option, []).append(source.name)
    return options
