"""Modules that a configuration may import: LatentMix's, torch's and Pyro's own classes, and what the user trusts.

A configuration names classes by their import paths, and an import runs the module. A run or a file of options may be a
stranger's, so that it imports none but those; the words that a user types name modules that the user trusts.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse._common import ImportDenied
from pyro.infer.autoguide import AutoGuide

from latentmix.experiments.options.classes import CLASSES
from latentmix.experiments.options.imports import checked_imports
from latentmix.experiments.reading.options import read_yaml
from latentmix.experiments.reading.paths import user_path
from latentmix.models.pretrained import Part

__all__ = ["TEXTS", "configuration_file", "importing", "named_modules", "trusted_modules"]

OWN = (
    *("latentmix.models.", "latentmix.guides.", "latentmix.inference.", "latentmix.experiments.loggers."),
    *("torch.optim.", "pyro.infer."),
)
BASES = (Part, AutoGuide, *CLASSES.values())
TEXTS = {
    "name",
    "description",
    "init_from",
    "device",
    *(f"data.{name}" for name in ("source", "root", "cache", "attribute", "label", "columns", "classes")),
}
PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


@contextmanager
def importing(source: Path | str, trust: Iterable[str] = (), typed: Iterable[str] = ()) -> Iterator[None]:
    """A block in which values import LatentMix's, torch's and Pyro's classes and those of trusted modules alone.

    A value that asks for another is refused, at the place where the option parser would import it, and so before it is.

    Args:
        source: The file that the values are from, for the message.
        trust: Modules that may be imported, with those within them.
        typed: Those among them that the user has typed as values.

    Raises:
        ValueError: When the block ends, if a value asked for another; the message names it, and what to type.
    """
    trusted, words = tuple(trust), tuple(typed)
    refusals: list[str] = []

    def check(path: str) -> None:
        module = path.partition(".")[0]
        if _is_within(path, trusted):
            if _is_within(path, words) or _is_there(module):
                return
            refusals.append(
                f"Expected the module {module} of {path} in {source} to be found; got none: run the command in its "
                "folder, or put that on PYTHONPATH."
            )
        elif _is_known(path):
            return
        else:
            refusals.append(
                f"Expected classes of LatentMix, torch.optim or pyro.infer, or of modules that you trust, in {source}; "
                f"got {path}, whose module would run on this computer: if you know it and trust it, add --trust "
                f"{module} (from Python, trust=({module!r},)), or list it as `trust: [{module}]` in "
                f"{configuration_file() or 'the file that LATENTMIX_CONFIG names'}."
            )
        raise ImportDenied(refusals[-1])

    fault: Exception | None = None
    try:
        with checked_imports(check):
            yield
    except Exception as error:
        if not refusals:
            raise
        fault = error
    if refusals:
        raise ValueError(refusals[0]) from fault


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


def configuration_file() -> Path | None:
    """The user's configuration: LATENTMIX_CONFIG, or `latentmix/config.yaml` in the XDG configuration folder.

    Returns:
        The file, which need not be there; `None` if the user has no home folder.

    Raises:
        ValueError: If LATENTMIX_CONFIG is in a home folder that is not known.

    Example:
        >>> from latentmix.experiments.options.trust import configuration_file
        >>> configuration_file().suffix
        '.yaml'
    """
    named = os.environ.get("LATENTMIX_CONFIG")
    if named:
        return user_path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "")
    if not home.is_absolute():
        try:
            home = Path("~/.config").expanduser()
        except RuntimeError:
            return None
    return home / "latentmix" / "config.yaml"


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
    if file is None or not file.is_file():
        return []
    options = read_yaml(file, "your configuration") or {}
    modules = (options.get("trust") or []) if isinstance(options, dict) else None
    if isinstance(modules, list) and all(isinstance(module, str) for module in modules):
        return modules
    raise ValueError(f"Expected `trust: [module, ...]` in your configuration {file}; got something else.")


def _is_within(path: str, modules: Iterable[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in modules)


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


def _is_there(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None
