"""Arguments without a type in their constructor's signature, such as those of Pyro's ELBOs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from latentmix.experiments.options.messages import blaming

__all__ = ["instantiated"]


def instantiated(parser: ArgumentParser, config: Namespace, options: Mapping[str, type]) -> Namespace:
    """Build the objects that a parsed configuration names, reading untyped arguments as Python literals.

    The option parser reads an untyped argument by the type of its default first, and accepts any word: 1 becomes 1.0
    where the default is infinite, and a misspelt number remains a word. Here whole numbers become integers, and words
    are refused where the default is a number or a boolean. Typed arguments have been checked by the parser.

    Args:
        parser: The parser of the configuration.
        config: Classes in it are `class_path` and `init_args`, at any depth.
        options: Options of classes, each with the base class of its values; errors of constructors name them.

    Raises:
        ValueError: If a word is given where the default is a number or a boolean, or a constructor raises an error.
    """

    def build(kind: Any, *values: Any, **arguments: Any) -> Any:
        named = (name for name, base in options.items() if isinstance(kind, type) and issubclass(kind, base))
        option = next(named, None)
        if option is not None:
            with blaming(f"--{option}"):
                return _build(kind, *values, **arguments)
        try:
            return _build(kind, *values, **arguments)
        except (TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError) as error:
            shown = ", ".join(f"{name}={value!r:.40}" for name, value in arguments.items())
            raise ValueError(
                f"Expected arguments that {kind.__name__} takes; got {shown:.200}: `latentmix run --help` describes "
                "them."
            ) from error

    return parser.instantiate(config, instantiators=[(build, object, True)])


def _build(kind: Any, *values: Any, **arguments: Any) -> Any:
    literals = {name: _literal(kind, name, value) for name, value in arguments.items()}
    try:
        return kind(*values, **literals)
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
            value = float(value)  # YAML reads inf and 1e-3 as words
        except ValueError:
            raise ValueError(f"Expected {name} of {kind.__name__} to be a number; got {value!r}.") from None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _untyped_default(kind: Any, name: str) -> Any:
    """The default of an untyped argument, of the constructor or of one that it passes arguments on to."""
    empty = inspect.Parameter.empty
    for base in inspect.getmro(kind)[:-1] if isinstance(kind, type) else (kind,):
        parameter = inspect.signature(base).parameters.get(name)
        if parameter is not None:
            return parameter.default if parameter.annotation is empty else empty
    return empty
