"""Types of options in words: what to type for a value of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

__all__ = ["base_class", "choices", "expected"]

_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "null"}
_MANY = {int: "whole numbers", float: "numbers", bool: "values true or false", str: "words"}
_LISTED = {int: "4,8", float: "0.5,0.9", bool: "true,false", str: "a,b"}
_UNTYPED = (Tensor, Any)
_CALLABLE = get_origin(Callable[[], None])


def expected(kind: Any) -> str:
    """The words for a value of a type that is to be typed.

    Example:
        >>> from collections.abc import Sequence
        >>> from typing import Literal
        >>> from latentmix.experiments.options.type_words import expected
        >>> expected(int | None)
        'a whole number'
        >>> expected(Sequence[int])
        'whole numbers such as 4,8'
        >>> expected(float | Literal["shared", "pixel"])
        'a number, shared or pixel'
        >>> expected(bool | Literal["auto"])
        'true, false or auto'
    """
    return _either(_alternatives(kind)) or "another value"


def choices(kind: Any) -> list[str]:
    """The words among which a value of a type may be chosen."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [word for member in _members(kind) if member is not kind for word in choices(member)]


def base_class(kind: Any) -> type | None:
    """The class whose subclasses are values of a type: of itself, of an optional one, or of what a function makes."""
    for member in _members(kind):
        if get_origin(member) is _CALLABLE:
            made = base_class(get_args(member)[-1]) if get_args(member) else None
            if made is not None:
                return made
        elif isinstance(member, type) and get_origin(member) is None and not _is_plain(member):
            return member
    return None


def _is_plain(kind: type) -> bool:
    return (
        kind in _PLAIN or kind in _UNTYPED or kind.__module__ == "builtins" or issubclass(kind, os.PathLike | Mapping)
    )


def _members(kind: Any) -> list[Any]:
    """The members of a union, those that nobody can type left out."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [member for member in members if member not in _UNTYPED and getattr(member, "__name__", "") != "Untyped"]


def _alternatives(kind: Any) -> list[str]:
    members = [member for member in _members(kind) if member is not NoneType] or [NoneType]
    if len(members) > 1:
        return list(dict.fromkeys(words for member in members for words in _alternatives(member)))
    kind = members[0]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return [str(value) for value in inner]
    if origin is _CALLABLE:
        made = base_class(inner[-1]) if inner else None
        return [f"a class of {made.__name__}" if made else "the import path of a function"]
    if origin is tuple and Ellipsis not in inner:
        example = ", ".join(_LISTED.get(_first(part), "1").split(",")[0] for part in inner)
        return [f"{len(inner)} {_many(inner[0])} in brackets such as ({example})"]
    if origin in (list, tuple, set) or kind in (list, tuple, set) or _is_sequence(origin):
        part = _first(inner[0]) if inner else str
        if get_origin(part) is Literal:
            return [f"one or more of {', '.join(choices(part))}"]
        return [f"{_many(part)} such as {_LISTED.get(part, 'a,b')}"]
    if kind is dict or origin is dict or _is_mapping(origin):
        return ["a mapping such as {name: value}"]
    if kind is bool:
        return ["true", "false"]
    if kind in _PLAIN:
        return [_PLAIN[kind]]
    if isinstance(kind, type) and issubclass(kind, os.PathLike):
        return ["a path"]
    return [f"a class of {kind.__name__}, or its import path"] if isinstance(kind, type) else []


def _first(kind: Any) -> Any:
    return next(iter(_members(kind)), str)


def _many(kind: Any) -> str:
    return _MANY.get(_first(kind), "values")


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and origin.__module__ == "collections.abc" and not _is_mapping(origin)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _either(words: list[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
