"""Words that are no options, with the options that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from jsonargparse import ArgumentParser

from latentmix.experiments.options.classes import CLASSES, argument_types
from latentmix.experiments.options.faults import known_options
from latentmix.experiments.options.parts import subclasses

__all__ = ["unknown_option"]


def unknown_option(parser: ArgumentParser, words: Sequence[str]) -> str:
    """The sentence that refuses words which are no options of a parser, with the nearest ones that are.

    Args:
        parser: The options.
        words: The words that it did not take, the first of which is named.

    Example:
        >>> from latentmix.experiments.options.experiment import experiment_parser
        >>> from latentmix.experiments.options.unknown import unknown_option
        >>> unknown_option(experiment_parser(), ["--epoch", "3"])
        'Expected options of an experiment; got --epoch 3: did you mean --epochs?'
    """
    got = f"Expected options of an experiment; got {' '.join(words).replace('[', '').replace(']', '')}"
    name = words[0].removeprefix("--")
    if not words[0].startswith("-"):
        return f"{got}: quote a value that has spaces, and write an option as --NAME VALUE (`latentmix run --help`)."
    options = [*known_options(parser), *_arguments(parser)]
    leaves = [option for option in options if option.rpartition(".")[2] == name]
    if not leaves:
        leaves = difflib.get_close_matches(name, list(known_options(parser)), n=1, cutoff=0.75)
    if not leaves:
        near = difflib.get_close_matches(name.rpartition(".")[2], [each.rpartition(".")[2] for each in options], n=1)
        leaves = [option for option in options if near and option.rpartition(".")[2] == near[0]]
    if not leaves:
        return f"{got}; `latentmix run --help` lists them."
    return f"{got}: did you mean {' or '.join(f'--{option}' for option in dict.fromkeys(leaves))}?"


def _arguments(parser: ArgumentParser) -> Iterator[str]:
    """The options that classes of a parser's options have as arguments."""
    for owner, base in CLASSES.items():
        for kind in subclasses(base) if owner in known_options(parser) and owner != "loggers" else ():
            if not kind.__name__.startswith("_"):
                yield from (f"{owner}.{name}" for name in argument_types(kind))
