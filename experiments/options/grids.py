"""Grids of options: values that are classes with arguments, and the product of everything that varies."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pyro.infer.elbo import ELBO
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentmix.experiments.options.experiment import LINKED, PARTS, WORDS, experiment_parser, kinds_of
from latentmix.experiments.options.messages import condensed
from latentmix.experiments.options.untyped import import_object

__all__ = ["Grid", "call_form", "cells_of", "check_names", "option_value", "parse_grid", "words_of"]

Grid = dict[str, list[str]]

CLASSES: dict[str, type] = {
    **PARTS,
    "objective": ELBO,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "mixture.svi.optimizer": Optimizer,
    "mixture.svi.scheduler": LRScheduler,
}
SUPPLIED = LINKED | {"params", "optimizer"}
CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\((.*)\)", re.DOTALL)
MISSING = object()
OPENING, CLOSING = "([{", ")]}"


def parse_grid(items: Sequence[str]) -> Grid:
    """The values of every option that varies.

    Args:
        items: `NAME=V1,V2,...` each; commas within brackets, parentheses and quotes separate nothing.

    Raises:
        ValueError: If one has another form, a value is empty or stands twice, or a name stands twice.

    Example:
        >>> from latentmix.experiments.options.grids import parse_grid
        >>> parse_grid(["likelihood=Bernoulli,Gaussian(0.1)", "decoder.hidden=[256],[128,64]"])
        {'likelihood': ['Bernoulli', 'Gaussian(0.1)'], 'decoder.hidden': ['[256]', '[128,64]']}
    """
    grid: Grid = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip().removeprefix("--")
        if not equals or not name:
            raise ValueError(f"Expected --grid NAME=V1,V2,...; got {item!r}.")
        if name in grid:
            raise ValueError(f"Expected every option once in the grid; got --grid {name}=... twice.")
        values = split(text)
        if not all(values):
            raise ValueError(f"Expected values without an empty one, as in --grid {name}=V1,V2; got {item!r}.")
        if len(set(values)) < len(values):
            raise ValueError(f"Expected different values of {name} in the grid; got {item!r}.")
        grid[name] = values
    if not grid:
        raise ValueError("Expected at least one --grid NAME=V1,V2,...; got none.")
    return grid


def split(text: str) -> list[str]:
    """The pieces between the commas that lie outside brackets, parentheses and quotes.

    Raises:
        ValueError: If a bracket or a quote has no partner.
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
                raise ValueError(f"Expected brackets in pairs; got {character!r} too many in {text!r}.")
            closers = closers[:-1]
    if quote or closers:
        raise ValueError(f"Expected brackets and quotes in pairs; got no {quote or closers[-1]!r} in {text!r}.")
    return [piece.strip() for piece in pieces]


def call_form(text: str, option: str = "") -> str | dict[str, Any]:
    """A class with arguments, as the option parser takes it; any other text as it is.

    Arguments without a name go to the constructor's parameters in order, but for those that follow from the experiment
    (`latent_dim`, `shape`, ...).

    Args:
        text: `Name(...)`, `import.path.Name(name=value, ...)` or any other value; quotes around words are optional.
        option: The option that it is a value of, where a name alone would have two meanings.

    Returns:
        `{"class_path": ..., "init_args": {...}}`, defaults included for a part or an objective, or the text.

    Raises:
        ValueError: If no class has that name, or it does not take so many arguments.

    Example:
        >>> from latentmix.experiments.options.grids import call_form
        >>> call_form("MLPDecoder([128, 64])")
        {'class_path': 'MLPDecoder', 'init_args': {'hidden': [128, 64]}}
        >>> call_form("StandardNormal")
        'StandardNormal'
    """
    match = CALL.fullmatch(text.strip())
    if match is None:
        return text
    name, inside = match.groups()
    pieces = split(inside) if inside.strip() else []
    kind = find_class(name, option)
    if kind is None:
        raise ValueError(f"Expected a class of {option or 'LatentMix'} or an import path; got {name!r} in {text!r}.")
    accepted = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in SUPPLIED
    ]
    arguments: dict[str, Any] = {}
    for position, piece in enumerate(pieces):
        named = re.match(r"([A-Za-z_]\w*)\s*=(?!=)", piece)
        if named is None and len(arguments) == position < len(accepted) and not _named(pieces[:position]):
            key, value = accepted[position], piece
        elif named is not None and named[1] not in arguments:
            key, value = named[1], piece[named.end() :].strip()
        else:
            raise ValueError(
                f"Expected arguments of {name} out of {', '.join(accepted) or 'none'}, each once and those without a "
                f"name first; got {text!r}."
            )
        if not value:
            raise ValueError(f"Expected a value for every argument of {name}; got {text!r}.")
        arguments[key] = _value(value)
    made_by_partial = issubclass(kind, Optimizer | LRScheduler)
    return {"class_path": name, "init_args": arguments if made_by_partial else _defaults(kind) | arguments}


def _defaults(kind: type) -> dict[str, Any]:
    """What a constructor takes where nothing is said, so that nothing of the class before is left."""
    return {
        name: plain
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in SUPPLIED
        and parameter.default is not parameter.empty
        and (plain := _plain_default(parameter.default)) is not MISSING
    }


def _plain_default(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_default(one) for one in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite and (value is None or isinstance(value, bool | int | float | str)) else MISSING


def _named(pieces: Sequence[str]) -> bool:
    return any(re.match(r"[A-Za-z_]\w*\s*=(?!=)", piece) for piece in pieces)


def _value(text: str) -> Any:
    if CALL.fullmatch(text):
        return call_form(text)
    if text == "None":
        return None
    if text[0] + text[-1] in ("()", "[]"):
        return [_value(piece) for piece in split(text[1:-1]) if piece]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected a number, a word, a list or a mapping as an argument; got {text!r}.") from error
    try:
        number = float(value) if isinstance(value, str) else math.nan  # YAML 1.1 takes 1e-3 for a word
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def option_value(option: str, text: str) -> str:
    """A value as a word of the command line: a class with arguments as JSON, any other as it is.

    Args:
        option: The option's name, without dashes.
        text: The value, perhaps in call form.

    Example:
        >>> from latentmix.experiments.options.grids import option_value
        >>> option_value("decoder", "MLPDecoder([64])")
        '{"class_path": "MLPDecoder", "init_args": {"hidden": [64]}}'
        >>> option_value("optimizer.betas", "(0.9, 0.99)")
        '[0.9, 0.99]'
    """
    named = re.fullmatch(r"[A-Za-z_][\w.]*", text.strip()) and option in (*PARTS, "objective")
    whole = named and find_class(text.strip(), option) is not None
    value: Any = call_form(f"{text}()" if whole else text, option) if option in CLASSES else text
    if re.fullmatch(r"\(.*\)", text) and f"--{option}" not in WORDS:
        value = _value(text)
    return value if isinstance(value, str) else json.dumps(value)


def find_class(name: str, option: str = "") -> type | None:
    """The class that a short name or an import path means for an option, by default for any; None if there is none."""
    if "." in name:
        try:
            found = import_object(name)
        except (ImportError, AttributeError, ValueError):
            return None
        return found if isinstance(found, type) else None
    bases: list[type] = [CLASSES[option]] if option in CLASSES else list(dict.fromkeys(CLASSES.values()))
    return next((kind for base in bases for kind in kinds_of(base) if kind.__name__ == name), None)


def check_names(grid: Grid, base: Mapping[str, Any]) -> None:
    """Refuse what is no option of an experiment.

    Args:
        grid: The values of every option that varies.
        base: The configuration that the grid varies.

    Raises:
        ValueError: If an option is unknown, follows from others, or is an argument that no class of its part has.
    """
    known = {name[2:] for action in experiment_parser()._actions for name in action.option_strings}
    for name in grid:
        owner = max((option for option in CLASSES if name.startswith(f"{option}.")), key=len, default=None)
        if name == "config" or (owner is None and name not in known):
            raise ValueError(condensed(f"unrecognized arguments: --{name}"))
        if owner is None:
            continue
        argument = name[len(owner) + 1 :].split(".")[0]
        if argument in LINKED:
            raise ValueError(
                f"Expected no {name} in the grid: {argument} follows from the experiment (--latent_dim, the data, "
                "the likelihood) for every part."
            )
        present: Any = base
        for part in owner.split("."):
            present = present.get(part) or {}
        values = grid.get(owner) or [present.get("class_path", "")]
        kinds = [find_class(value.split("(")[0].strip(), owner) for value in values]
        if all(kind is not None and not _accepts(kind, argument) for kind in kinds):
            raise ValueError(
                f"Expected {owner}.NAME in the grid to name an argument of {', '.join(values)}; got {argument!r}."
            )


def _accepts(kind: type, argument: str) -> bool:
    """Whether a constructor, or one that it may pass arguments on to, has an argument of that name."""
    return any(argument in inspect.signature(base).parameters for base in kind.__mro__ if base is not object)


def cells_of(grid: Grid) -> Iterator[dict[str, str]]:
    """The product: the value of every option, for one cell after another.

    Example:
        >>> from latentmix.experiments.options.grids import cells_of
        >>> [tuple(cell.values()) for cell in cells_of({"latent_dim": ["2", "3"], "epochs": ["1", "5"]})]
        [('2', '1'), ('2', '5'), ('3', '1'), ('3', '5')]
    """
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def words_of(options: Mapping[str, str]) -> list[str]:
    """The values of one cell as words of the command line, a part before its arguments."""
    names = sorted(options, key=lambda name: name.count("."))
    return [word for name in names for word in (f"--{name}", options[name])]
