"""Classes that options name: which there are, by which names, and what their constructors take."""

from __future__ import annotations

import difflib
import inspect
import re
from functools import cache
from typing import Any

from pyro.infer.elbo import ELBO
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentmix.experiments.loggers import Logger
from latentmix.experiments.options.parts import LINKED, PARTS, import_object, subclasses
from latentmix.experiments.options.sealed import SealedParser

__all__ = ["CLASSES", "NAME", "SUPPLIED", "argument_types", "class_names", "find_class", "nearest", "unknown_class"]

CLASSES: dict[str, type] = {
    **PARTS,
    "objective": ELBO,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "loggers": Logger,
    "mixture.svi.optimizer": Optimizer,
    "mixture.svi.scheduler": LRScheduler,
}
SUPPLIED = LINKED | {"params", "optimizer", "folder"}
NAME = re.compile(r"[A-Za-z_][\w.]*")


def find_class(name: str, option: str = "") -> type | None:
    """The class of a short name or an import path, among those of an option or of all; `None` if there is none."""
    if "." in name:
        try:
            kind = import_object(name)
        except ValueError:
            return None
        return kind if isinstance(kind, type) else None
    bases: list[type] = [CLASSES[option]] if option in CLASSES else list(dict.fromkeys(CLASSES.values()))
    return next((kind for base in bases for kind in subclasses(base) if kind.__name__ == name), None)


def class_names(base: type) -> list[str]:
    """The short names of the classes that an option of that base takes, in the order of their definition."""
    kinds = [kind for kind in subclasses(base) if not inspect.isabstract(kind) and not kind.__name__.startswith("_")]
    return list(dict.fromkeys(kind.__name__ for kind in kinds))


@cache
def argument_types(kind: type) -> dict[str, tuple[Any, bool]]:
    """The arguments of a constructor that options set: by name, the type and whether there is no default."""
    parser = SealedParser(add_help=False)
    parser.add_class_arguments(kind, None, fail_untyped=False, skip=set(SUPPLIED))
    return {
        action.dest: (getattr(action, "_typehint", Any), bool(getattr(action, "required", False)))
        for action in parser._actions
        if not action.dest.endswith(".help")
    }


def nearest(word: str, known: list[str]) -> str | None:
    """The name that a misspelt one is most likely to mean: of another case, a part of it, or with letters changed."""
    lower = {name.lower(): name for name in reversed(known)}
    if not word:
        return None
    if word.lower() in lower:
        return lower[word.lower()]
    longer = [name for name in known if len(word) > 2 and name.lower().startswith(word.lower())]
    close = longer or difflib.get_close_matches(word.lower(), list(lower), n=1)
    return lower[close[0].lower()] if close else None


def unknown_class(option: str, text: str) -> str:
    """The sentence that refuses a value which names no class of an option.

    Args:
        option: The option, one of `CLASSES`.
        text: The value: a name or an import path, perhaps with arguments.

    Example:
        >>> from latentmix.experiments.options.classes import unknown_class
        >>> unknown_class("prior", "mixtureprior(10)").partition(": ")[2]
        "did you mean 'MixturePrior(10)'?"
    """
    base = CLASSES[option]
    match = NAME.match(text.strip())
    word = match[0] if match else ""
    known = class_names(base)
    own = "." in word and word.partition(".")[0] not in ("latentmix", "pyro", "torch")
    near = None if own else nearest(word.rpartition(".")[2], known)
    others = [other for other, kind in CLASSES.items() if kind is not base and word in class_names(kind)]
    hint = ""
    if near is not None:
        arguments = re.sub(r"^[\s(=:]+|[\s)]+$", "", text.strip()[len(word) :])
        hint = f": did you mean '{near}({arguments})'?" if arguments else f": did you mean {near}?"
    elif others:
        hint = f": {word} is for --{others[0]}."
    elif "." in word:
        hint = f": {_missing(word, base)}."
    return (
        f"Expected {', '.join(known)} for --{option}, or the import path of a class of your own; got {text!r}"
        f"{hint or '.'}"
    )


def _missing(path: str, base: type) -> str:
    """The reason for which an import path leads to no class of that base."""
    try:
        import_object(path)
    except ValueError as error:
        return str(error).partition("; got ")[2].rstrip(".")
    return f"{path} is no subclass of {base.__name__}"
