"""Words of the command line: from a preset and `--option value` pairs to a configuration."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.options.calls import CLASSES, call_form, find_class, literal
from latentmix.experiments.options.earlier import refuse_earlier_names, renewed
from latentmix.experiments.options.experiment import experiment_parser
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.options.parts import PARTS, subclasses
from latentmix.experiments.options.settings import Measures, Training
from latentmix.experiments.presets import preset_path
from latentmix.experiments.reading.options import read_options
from latentmix.models.process_state import kept_warnings

__all__ = ["option_value", "option_words", "parse_experiment", "parse_settings"]

TEXTS = {"--description", "--name", "--data.source", "--data.root", "--data.cache", "--init_from"}


def parse_experiment(preset: str, words: Sequence[str]) -> Namespace:
    """The configuration of a preset, or of a YAML file, with options that override it.

    Args:
        preset: A preset, or the path of a YAML file.
        words: Options as words of the command line.

    Raises:
        ValueError: If there is no such preset or file, the file is no mapping of options or exceeds a limit, or an
            option's value is malformed.
        argparse.ArgumentError: If an option is unknown, or its value has the wrong type.

    Example:
        >>> from latentmix.experiments.options.command_line import parse_experiment
        >>> parse_experiment("digits", ["--epochs", "3", "--prior", "MixturePrior(10)"]).prior.class_path
        'latentmix.models.MixturePrior'
    """
    file = preset_path(preset)
    read_options(file)
    split = option_words(words)
    values = [option_value(name.removeprefix("--"), word) for name, word in zip(["", *split], split, strict=False)]
    with kept_warnings():
        warnings.simplefilter("ignore")
        config = experiment_parser().parse_args(["--config", str(file), *values])
    config.pop("config", None)
    return config


def parse_settings[T](
    kind: type[T],
    words: Sequence[str],
    *,
    prefix: str = "",
    defaults: Mapping[str, Any] | None = None,
    lists: Collection[str] = (),
) -> T:
    """Settings of one class, from options that are named after its arguments.

    Args:
        kind: The class.
        words: Options as words of the command line.
        prefix: `--prefix.name` is the option of the argument `name`; by default it is `--name`.
        defaults: Arguments whose defaults are not those of the class.
        lists: Names of list-valued options, besides those of an experiment.

    Raises:
        ValueError: If an option is unknown, or the class refuses a value.
        argparse.ArgumentError: If a value has the wrong type.

    Example:
        >>> from latentmix.experiments.options.command_line import parse_settings
        >>> from latentmix.experiments.options.settings import Measures
        >>> parse_settings(Measures, ["--samples", "10"])
        Measures(samples=10, images=1000)
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, prefix or None)
    parser.set_defaults({f"{prefix}.{name}" if prefix else name: value for name, value in (defaults or {}).items()})
    split = option_words(words, lists)
    known = [name for action in parser._actions for name in action.option_strings if name != "-h"]
    unknown = next((word for word in split if word.startswith("--") and word not in known), None)
    if unknown is not None:
        listed = ", ".join(name for name in known if name not in ("--help", f"--{prefix}") and not name.endswith("+"))
        raise ValueError(f"Expected options out of {listed}; got {unknown}.")
    objects = parser.instantiate(parser.parse_args(split))
    return objects[prefix] if prefix else kind(**vars(objects))


def option_words(words: Sequence[str], lists: Collection[str] = ()) -> list[str]:
    """Options as the parser takes them: `--option=value` as two words, and `1,4,8`, or `1`, as a list.

    Args:
        words: Words of the command line.
        lists: Names of list-valued options, besides those of an experiment.

    Example:
        >>> from latentmix.experiments.options.command_line import option_words
        >>> option_words(["--data.classes=1,4", "--epochs", "3"])
        ['--data.classes', '[1,4]', '--epochs', '3']
    """
    split: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        split += [option, value] if word.startswith("--") and equals else [word]
    refuse_earlier_names(word.removeprefix("--") for word in split if word.startswith("--"))
    options = ["", *split]
    split = [_mixture(word) if option == "--mixture" else word for option, word in zip(options, split, strict=False)]
    known = _list_options() | set(lists)
    return [_bracketed(option, word, known) for option, word in zip(options, split, strict=False)]


def option_value(option: str, text: str) -> str:
    """A value as a word of the command line: a class with arguments as JSON, any other as it is.

    Args:
        option: The option's name, without dashes.
        text: The value, perhaps in call form.

    Example:
        >>> from latentmix.experiments.options.command_line import option_value
        >>> option_value("decoder", "MLPDecoder([64])")
        '{"class_path": "MLPDecoder", "init_args": {"hidden": [64]}}'
        >>> option_value("optimizer.betas", "(0.9, 0.99)")
        '[0.9, 0.99]'
    """
    named = re.fullmatch(r"[A-Za-z_][\w.]*", text.strip()) and option in (*PARTS, "objective")
    whole = named and find_class(text.strip(), option) is not None
    value: Any = call_form(f"{text}()" if whole else text, option) if option in CLASSES else text
    if re.fullmatch(r"\(.*\)", text) and f"--{option}" not in TEXTS:
        value = literal(text)
    return value if isinstance(value, str) else json.dumps(value)


def _mixture(word: str) -> str:
    """Options of mixtures, or a file of them, under today's names."""
    today = renewed({"mixture": word})["mixture"]
    return today if isinstance(today, str) else json.dumps(today)


def _bracketed(option: str, word: str, lists: Collection[str]) -> str:
    several = re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", word) and not word.startswith("--") and option not in TEXTS
    listed = option.startswith("--") and option.strip("-").rpartition(".")[2] in lists
    single = listed and re.fullmatch(r"[\w.+-]+", word)
    return f"[{word}]" if several or (single and word not in ("null", "None")) else word


@cache
def _list_options() -> set[str]:
    """Names of the list-valued arguments, of LatentMix's own parts and of an experiment's settings."""
    classes: list[type] = [Data, Measures, MixtureFits, Training]
    for base in PARTS.values():
        classes += subclasses(base)
    arguments = [item for kind in classes for item in inspect.signature(kind).parameters.items()]
    return {name for name, argument in arguments if re.match(r"(Sequence|list|tuple)\[", str(argument.annotation))}
