"""Modules that a configuration may import: LatentMix's, torch's and Pyro's own classes, and what the user trusts.

A configuration names classes by their import paths, and an import runs the module. A run or a file of options may be a
stranger's, so that it imports none but those; the words that a user types name modules that the user trusts.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import yaml
from pyro.infer.autoguide import AutoGuide

from latentmix.experiments.options.classes import CLASSES
from latentmix.experiments.reading.options import options_text, parse_yaml, read_yaml
from latentmix.experiments.reading.paths import user_path
from latentmix.models.pretrained import Part

__all__ = ["TEXTS", "check_imports", "configuration_file", "named_modules", "options_in", "trusted_modules"]

OWN = ("latentmix.models.", "latentmix.guides.", "latentmix.inference.", "torch.optim.", "pyro.infer.")
BASES = (Part, AutoGuide, *CLASSES.values())
TEXTS = {
    "name",
    "description",
    "init_from",
    "device",
    *(f"data.{name}" for name in ("source", "root", "cache", "attribute", "label", "columns", "classes")),
}
PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


def check_imports(config: Any, file: Path, trust: Iterable[str] = (), *, option: str = "") -> None:
    """Refuse a configuration that names code of other modules; nothing of theirs is imported.

    Import paths are looked for wherever the option parser would: as classes, as arguments of classes at any depth, and
    in YAML or files that a value stands for.

    Args:
        config: The configuration, as read from YAML.
        file: Its file, for the message.
        trust: Modules that it may import, with those within them.
        option: The option whose value the configuration is, such as `data`; by default it is a whole one.

    Raises:
        ValueError: If there is one; the message names it, and what to type.
    """
    trusted = tuple(trust)
    for path, is_class in _named(config, option, file.parent, {}):
        module = path.partition(".")[0]
        if _is_trusted(path, trusted):
            if is_class and not _is_there(path):
                raise ValueError(
                    f"Expected the module {module} of {path} in {file} to be found; got none: run the command in its "
                    "folder, or put that on PYTHONPATH."
                )
            continue
        if _is_known(path) or not (is_class or _is_there(path)):
            continue
        raise ValueError(
            f"Expected classes of LatentMix, torch.optim or pyro.infer, or of modules that you trust, in {file}; got "
            f"{path}, whose module would run on this computer: if you know it and trust it, add --trust {module} (from "
            f"Python, trust=({module!r},)), or list it as `trust: [{module}]` in {configuration_file()}."
        )


def trusted_modules(named: Iterable[str] = ()) -> tuple[str, ...]:
    """Modules that are named, each alone or several by commas, and those of the user's configuration.

    Args:
        named: Import paths of modules.

    Raises:
        ValueError: If one is no import path, or the user's configuration is malformed.

    Example:
        >>> from latentmix.experiments.options.trust import trusted_modules
        >>> trusted_modules(["mine,yours.parts"])[:2]
        ('mine', 'yours.parts')
    """
    modules = [module.strip() for names in named for module in names.split(",")] + _configured()
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"Expected modules to trust by their import paths, such as helpers; got {module!r}.")
    return tuple(dict.fromkeys(modules))


def configuration_file() -> Path:
    """The user's configuration: LATENTMIX_CONFIG, or `latentmix/config.yaml` in the XDG configuration folder.

    Example:
        >>> from latentmix.experiments.options.trust import configuration_file
        >>> configuration_file().suffix
        '.yaml'
    """
    named = os.environ.get("LATENTMIX_CONFIG")
    if named:
        return user_path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "")
    return (home if home.is_absolute() else user_path("~/.config")) / "latentmix" / "config.yaml"


def named_modules(words: Sequence[str]) -> list[str]:
    """Modules of the classes that typed options name by import paths, those of LatentMix, torch and Pyro left out.

    Args:
        words: Options as words of the command line.

    Example:
        >>> from latentmix.experiments.options.trust import named_modules
        >>> named_modules(["--prior", "mine.Prior(3)", "--optimizer=torch.optim.SGD", "--data.source", "images.npy"])
        ['mine']
    """
    modules, option = [], ""
    for word in words:
        value = word
        if word.startswith("--"):
            option, _, value = word.removeprefix("--").partition("=")
        if option not in TEXTS and "/" not in value and not os.path.isfile(value):
            modules += [path.rpartition(".")[0] for path in PATH.findall(value) if not path.startswith(OWN)]
    return list(dict.fromkeys(modules))


def _configured() -> list[str]:
    file = configuration_file()
    if not file.is_file():
        return []
    options = read_yaml(file, "your configuration") or {}
    modules = (options.get("trust") or []) if isinstance(options, dict) else None
    if isinstance(modules, list) and all(isinstance(module, str) for module in modules):
        return modules
    raise ValueError(f"Expected `trust: [module, ...]` in your configuration {file}; got something else.")


def _named(node: Any, option: str, folder: Path, seen: dict[tuple[int, bool], Any]) -> Iterator[tuple[str, bool]]:
    """Import paths in a configuration of a folder, and whether each is named as a class."""
    if isinstance(node, Mapping | list):
        place = (id(node), option in TEXTS)
        if place in seen:  # by an alias of YAML
            return
        seen[place] = node
        for key, value in node.items() if isinstance(node, Mapping) else ((None, value) for value in node):
            yield from _named(value, option if key is None else f"{option}.{key}".removeprefix("."), folder, seen)
    elif isinstance(node, str):
        is_class = option.rpartition(".")[2] == "class_path"
        if is_class or option not in TEXTS:
            yield from ((path, is_class) for path in _paths(node))
        if option not in TEXTS:
            for inner, its_folder in _stands_for(node, folder):
                if isinstance(inner, dict | list):
                    yield from _named(inner, option, its_folder, seen)


def _stands_for(text: str, folder: Path) -> Iterator[tuple[Any, Path]]:
    """The YAML in a value, and in files that it may name, as the option parser reads either; each with its folder."""
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        yield parse_yaml(text), folder
    for source in (Path(text), folder / text):
        if os.path.exists(source) and not os.path.isdir(source):
            yield options_in(source), source.parent


def options_in(file: Path) -> Any:
    """The YAML in a file that a value names; `None` if it is none.

    Args:
        file: It is there.

    Raises:
        ValueError: If it is no regular file, is too large, or no UTF-8: the option parser must not read it then.
    """
    text = options_text(file, "options")
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        return parse_yaml(text)
    return None


def _paths(text: str) -> list[str]:
    """Import paths in a text, as in `helpers.P(3)`; names of files within folders are left out."""
    words = "".join(letter if letter in "./" or f"a{letter}".isidentifier() else " " for letter in text).split()
    heads = [word.partition("/")[0] for word in words]
    return [head for head in heads if "." in head and all(part.isidentifier() for part in head.split("."))]


def _is_trusted(path: str, trusted: Iterable[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in trusted)


def _is_known(path: str) -> bool:
    """Whether a path leads to a part, an objective, an optimizer or a schedule of an own or an imported module.

    A path in an own module that leads nowhere is left to the option parser, which names it.
    """
    if not path.startswith(OWN):
        module, _, name = path.rpartition(".")
        found = getattr(sys.modules.get(module), name, None)
        return isinstance(found, type) and issubclass(found, BASES)
    parts = path.split(".")
    for length in range(len(parts) - 1, 1, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part)
        except ImportError:
            continue
        except AttributeError:
            return True
        return isinstance(found, type) and issubclass(found, BASES)
    return True


def _is_there(path: str) -> bool:
    """Whether a word with dots would be a module here, and is no file name or other text."""
    module = path.partition(".")[0]
    with suppress(ImportError, ValueError, OSError):
        return (
            module in sys.modules
            or importlib.util.find_spec(module) is not None
            or PathFinder.find_spec(module, [os.getcwd()]) is not None
        )
    return False
