"""The first value that an option does not take, in words, after the option parser has refused a configuration."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.classes import CLASSES, argument_types, class_names, find_class, unknown_class
from latentmix.experiments.options.parts import LINKED, PARTS
from latentmix.experiments.options.sealed import SealedParser
from latentmix.experiments.options.type_words import base_class, choices, expected

__all__ = ["first_fault", "flat", "known_options"]

Pair = tuple[str, Any]


def known_options(parser: ArgumentParser) -> dict[str, Any]:
    """The options of a parser by name, without dashes, each with the type of its value."""
    return {
        action.dest: action._typehint
        for action in parser._actions
        if hasattr(action, "_typehint") and not action.dest.endswith(".help")
    }


def flat(parser: ArgumentParser, values: Any, prefix: str = "") -> Iterator[Pair]:
    """The options that a nested configuration sets, each with its value."""
    known = known_options(parser)
    items = vars(values) if isinstance(values, Namespace) else values
    for name, value in items.items() if isinstance(items, Mapping) else ():
        option = f"{prefix}{name}"
        group = any(other.startswith(f"{option}.") for other in known)
        if option not in known and group and isinstance(value, Mapping | Namespace):
            yield from flat(parser, value, f"{option}.")
        else:
            yield option, value


def first_fault(parser: ArgumentParser, pairs: Iterable[Pair]) -> str | None:
    """The sentence that refuses the first value which an option does not take.

    Args:
        parser: The options.
        pairs: Options without dashes, each with its value, as words or plain values, in order.
    """
    known, pairs = known_options(parser), list(pairs)
    defaults = {option: _kind_of(option, parser.get_default(option)) for option in CLASSES if option in known}
    kinds = {option: kind for option, kind in defaults.items() if kind is not None}
    for option, value in pairs:
        owner = next((name for name in CLASSES if option.startswith(f"{name}.") and name in known), None)
        if owner is not None:
            sentence = _argument_fault(option, owner, kinds.get(owner), value)
        elif option in known:
            sentence = _fault(option, known[option], value)
            if option in CLASSES and (kind := _kind_of(option, value)) is not None:
                kinds[option] = kind
        else:
            sentence = _group_fault(option, value, list(known))
        if sentence is not None:
            return sentence
    for option, kind in kinds.items():
        given = {name for name, _ in pairs if name.startswith(f"{option}.")}
        given |= {f"{option}.{name}" for each, value in pairs if each == option for name in _arguments(value)}
        if (sentence := _missing(option, kind, given)) is not None:
            return sentence
    return None


def _fault(option: str, kind: Any, value: Any) -> str | None:
    if option == "loggers":
        return _logger_fault(value)
    base = base_class(kind)
    if base is not None and option in CLASSES:
        if value in (None, "null") and (option in PARTS or type(None) not in get_args(kind)):
            return unknown_class(option, "null")
        return _class_fault(option, value)
    if _accepts(kind, value):
        return None
    hint = did_you_mean(str(value), choices(kind))
    return f"Expected {expected(kind)} for --{option}; got {_shown(value)}{hint}"


def _logger_fault(value: Any) -> str | None:
    try:
        loggers = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return unknown_class("loggers", value)
    if not isinstance(loggers, list | tuple):
        return None if loggers is None else f"Expected a list of classes for --loggers; got {_shown(value)}."
    return next((fault for each in loggers if (fault := _class_fault("loggers", each)) is not None), None)


def _class_fault(option: str, value: Any) -> str | None:
    path = _path_of(value)
    if path is None:
        return None
    kind = _kind_of(option, value)
    if kind is None or not issubclass(kind, CLASSES[option]):
        return unknown_class(option, path)
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
        return f"Expected a class that defines {missing} for --{option}; got {path}, which is abstract."
    for name, given in _arguments(value).items():
        if (sentence := _argument_fault(f"{option}.{name}", option, kind, given)) is not None:
            return sentence
    return None


def _argument_fault(option: str, owner: str, kind: type | None, value: Any) -> str | None:
    """The fault of an argument of the class that `owner` names."""
    name = option[len(owner) + 1 :].partition(".")[0]
    if name in LINKED:
        return (
            f"Expected no --{option}: {name} follows from the experiment (--latent_dim, the data, the likelihood) "
            f"for every part; got {_shown(value)}."
        )
    if kind is None:
        return f"Expected --{owner} with a class before --{option}, an argument of it; got none."
    types = argument_types(kind)
    if name not in types:
        listed = ", ".join(types) or "none"
        return (
            f"Expected --{owner}.NAME with an argument of {kind.__name__} ({listed}); got {name!r}"
            f"{_meant(owner, name, list(types))}"
        )
    return _fault(option, types[name][0], value)


def _meant(owner: str, name: str, known: list[str]) -> str:
    """The argument that was meant, or the classes that have it."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f": did you mean --{owner}.{near[0]}?"
    names = class_names(CLASSES[owner])
    having = [each for each in names if (kind := find_class(each, owner)) and name in argument_types(kind)]
    return f": it is one of {', '.join(having[:4])}, which --{owner} chooses." if having else "."


def _group_fault(option: str, value: Any, known: list[str]) -> str | None:
    members = [name for name in known if name.startswith(f"{option}.")]
    if members:
        return f"Expected options of {option} by their names, or a file of them; got {_shown(value)}."
    hint = did_you_mean(option, known, otherwise="; `latentmix run --help` lists them.")
    return f"Expected options of an experiment; got {option}{hint}"


def _missing(option: str, kind: type, given: set[str]) -> str | None:
    """The fault of a class whose required arguments are not all given."""
    for name, (type_, required) in argument_types(kind).items():
        if required and f"{option}.{name}" not in given:
            return (
                f"Expected a value for --{option}.{name}, which {kind.__name__} requires ({expected(type_)}); got none."
            )
    return None


def _loaded(value: Any) -> Any:
    """A mapping that a word holds, as a mapping."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return vars(value) if isinstance(value, Namespace) else value


def _path_of(value: Any) -> str | None:
    value = _loaded(value)
    path = value.get("class_path") if isinstance(value, Mapping) else value
    return None if path in (None, "null") else str(path)


def _kind_of(option: str, value: Any) -> type | None:
    return find_class(_path_of(value) or "", option)


def _arguments(value: Any) -> Mapping[str, Any]:
    value = _loaded(value)
    arguments = value.get("init_args") if isinstance(value, Mapping) else None
    arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
    return arguments if isinstance(arguments, Mapping) else {}


def _accepts(kind: Any, value: Any) -> bool:
    try:
        _single(kind).parse_object({"value": value})
    except (ArgumentError, TypeError, ValueError):
        return False
    return True


@cache
def _single(kind: Any) -> ArgumentParser:
    parser = SealedParser(add_help=False)
    parser.add_argument("--value", type=kind)
    return parser


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    listed = re.fullmatch(r"\[([\w.+,\s-]+)\]", text)  # the brackets are those of `option_words`
    text = listed[1] if listed else text
    return f"{text[:57]}..." if len(text) > 60 else repr(text) if isinstance(value, str) else text
