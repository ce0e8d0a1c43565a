"""Classes in call form, as in `MixturePrior(10, covariance_type=full)`: read for the option parser, and written."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentmix.experiments.options.classes import CLASSES, SUPPLIED, find_class, unknown_class
from latentmix.experiments.options.parts import LINKED
from latentmix.experiments.reading.options import parse_yaml

__all__ = ["as_call", "call_form", "literal", "split"]

CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\((.*)\)", re.DOTALL)
KEYWORD = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)")
MISSING = object()
OPENING, CLOSING = "([{", ")]}"
TECHNICAL = {"max_plate_nesting", "strict_enumeration_warning", "tail_adaptive_beta"}  # arguments of Pyro's ELBOs


def call_form(text: str, option: str = "") -> str | dict[str, Any]:
    """A class with arguments, as the option parser takes it; any other text as it is.

    Positional arguments go to the constructor's parameters in order, skipping those that follow from the experiment
    (`latent_dim`, `shape`, ...).

    Args:
        text: `Name(...)`, `import.path.Name(name=value, ...)` or any other value; quotes around words are optional.
        option: The option it is a value of; it resolves names that several options have.

    Returns:
        `{"class_path": ..., "init_args": {...}}`, defaults included for a part or an objective, or the text.

    Raises:
        ValueError: If no class has that name, or it does not take these arguments.

    Example:
        >>> from latentmix.experiments.options.calls import call_form
        >>> call_form("MLPDecoder([128, 64])")
        {'class_path': 'MLPDecoder', 'init_args': {'hidden': [128, 64]}}
        >>> call_form("StandardNormal")
        'StandardNormal'
    """
    match = CALL.fullmatch(text.strip())
    if match is None:
        return text
    name, inside = match.groups()
    split(text)  # refuses brackets and quotes without a partner, in the whole text
    pieces = split(inside) if inside.strip() else []
    kind = find_class(name, option)
    if kind is None:
        raise ValueError(
            unknown_class(option, text)
            if option in CLASSES
            else f"Expected a class of LatentMix or an import path; got {name!r} in {text!r}."
        )
    accepted = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in SUPPLIED
    ]
    arguments: dict[str, Any] = {}
    for position, piece in enumerate(pieces):
        keyword = KEYWORD.match(piece)
        positional = keyword is None and not any(map(KEYWORD.match, pieces[:position]))
        if positional and len(arguments) == position < len(accepted):
            key, value = accepted[position], piece
        elif keyword is not None and keyword[1] not in arguments:
            key, value = keyword[1], piece[keyword.end() :].strip()
        else:
            raise ValueError(
                f"Expected arguments of {name} out of {', '.join(accepted) or 'none'}, each once and those without a "
                f"name first; got {text!r}."
            )
        if not value:
            raise ValueError(f"Expected a value for every argument of {name}; got {text!r}.")
        arguments[key] = literal(value)
    built_by_partial = issubclass(kind, Optimizer | LRScheduler)
    return {"class_path": name, "init_args": arguments if built_by_partial else _defaults(kind) | arguments}


def as_call(value: Any) -> str:
    """A class with its arguments as a user would type it; any other value as a word.

    Left out are arguments that are None, that are False by default and were not set to True, that follow from the
    experiment, or that are technicalities of Pyro. Nothing is imported: those of a class that is not loaded are shown.

    Args:
        value: `{"class_path": ..., "init_args": {...}}`, as in a configuration, or any plain value.

    Example:
        >>> from latentmix.experiments.options.calls import as_call
        >>> as_call({"class_path": "latentmix.models.MLPDecoder", "init_args": {"hidden": [128, 64], "latent_dim": 2}})
        'MLPDecoder(hidden=[128, 64])'
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_call, value))}]"
    if not isinstance(value, Mapping) or "class_path" not in value:
        return str(value)
    path, given = str(value["class_path"]), value.get("init_args")
    name = path.rpartition(".")[2]
    off = _off_by_default(path)
    arguments = [
        f"{key}={as_call(each)}"
        for key, each in (given.items() if isinstance(given, Mapping) else ())
        if each is not None and key not in LINKED | TECHNICAL and not (each is False and key in off)
    ]
    return f"{name}({', '.join(arguments)})" if arguments else name


def _off_by_default(path: str) -> set[str]:
    """The arguments of a class that are False by default; none if the class is not loaded."""
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None) if module else find_class(name)
    if not isinstance(kind, type):
        return set()
    return {key for key, argument in inspect.signature(kind).parameters.items() if argument.default is False}


def split(text: str) -> list[str]:
    """The pieces between the commas outside brackets, parentheses and quotes.

    Raises:
        ValueError: If a bracket or a quote is not closed.
    """
    pieces, closers, quote = [""], "", ""
    for character in text:
        if not quote and not closers and character == ",":
            pieces.append("")
            continue
        pieces[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in OPENING:
            closers += CLOSING[OPENING.index(character)]
        elif character in CLOSING:
            if not closers.endswith(character):
                fault = f"{character!r} in the place of {closers[-1]!r}" if closers else f"{character!r} too many"
                raise ValueError(f"Expected brackets in pairs; got {fault} in {text!r}.")
            closers = closers[:-1]
    if quote or closers:
        raise ValueError(f"Expected brackets and quotes in pairs; got no {quote or closers[-1]!r} in {text!r}.")
    return [piece.strip() for piece in pieces]


def literal(text: str) -> Any:
    """The value of an argument: a class in call form, a sequence, `None`, a number, a word or a mapping.

    Raises:
        ValueError: If it is none of these.
    """
    if CALL.fullmatch(text):
        return call_form(text)
    if text == "None":
        return None
    if text[0] + text[-1] in ("()", "[]"):
        return [literal(piece) for piece in split(text[1:-1]) if piece]
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected a number, a word, a list or a mapping as an argument; got {text!r}.") from error
    try:
        number = float(value) if isinstance(value, str) else math.nan  # YAML 1.1 reads 1e-3 as a word
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _defaults(kind: type) -> dict[str, Any]:
    """The plain defaults of a constructor; they override the arguments of a class named before."""
    return {
        name: plain
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in SUPPLIED
        and parameter.default is not parameter.empty
        and (plain := _plain_default(parameter.default)) is not MISSING
    }


def _plain_default(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_default(item) for item in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite and (value is None or isinstance(value, bool | int | float | str)) else MISSING
