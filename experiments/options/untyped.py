"""Arguments without a type in their constructor's signature, such as those of Pyro's ELBOs."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from jsonargparse import ArgumentParser, Namespace

__all__ = ["import_object", "instantiated"]


def import_object(path: str) -> Any:
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def instantiated(parser: ArgumentParser, config: Namespace) -> Namespace:
    """The objects that a parsed configuration names; an argument without a type is what Python's own literal would be.

    The option parser reads such an argument as of its default's type first, and takes any word for it: 1 becomes 1.0
    where the default is infinite, and a misspelt number stays a word. Here whole numbers are integers, and words are
    refused where the default is a number or a truth value. Arguments with a type have been checked by the parser.

    Args:
        parser: What parsed the configuration.
        config: Classes in it are `class_path` and `init_args`, at any depth.

    Raises:
        ValueError: If a word stands where a number or a truth value is the default, or a constructor asserts
            something else of its arguments.
    """
    return parser.instantiate(config, instantiators=[(_made, object, True)])


def _made(kind: Any, *values: Any, **arguments: Any) -> Any:
    corrected = {name: _literal(kind, name, value) for name, value in arguments.items()}
    try:
        return kind(*values, **corrected)
    except AssertionError as error:
        raise ValueError(f"Expected other arguments of {kind.__name__}; got an assertion: {error}.") from error


def _literal(kind: Any, name: str, value: Any) -> Any:
    default = _untyped_default(kind, name)
    if default is inspect.Parameter.empty:
        return value
    if isinstance(value, str) and isinstance(default, bool):
        raise ValueError(f"Expected {name} of {kind.__name__} to be true or false; got {value!r}.")
    if isinstance(value, str) and isinstance(default, int | float):
        try:
            value = float(value)  # YAML takes inf and 1e-3 for words
        except ValueError:
            raise ValueError(f"Expected {name} of {kind.__name__} to be a number; got {value!r}.") from None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _untyped_default(kind: Any, name: str) -> Any:
    """The default of an argument without a type, of the constructor or of one that it passes arguments on to."""
    empty = inspect.Parameter.empty
    for base in inspect.getmro(kind)[:-1] if isinstance(kind, type) else (kind,):
        parameter = inspect.signature(base).parameters.get(name)
        if parameter is not None:
            return parameter.default if parameter.annotation is empty else empty
    return empty
