"""Words of the command line: from a preset and `--option value` pairs to a configuration."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.calls import call_form, literal
from latentmix.experiments.options.classes import CLASSES, NAME, find_class, unknown_class
from latentmix.experiments.options.earlier import refuse_earlier_names, renewed
from latentmix.experiments.options.experiment import experiment_parser
from latentmix.experiments.options.included import included, named_file
from latentmix.experiments.options.logger_words import check_addresses, logger_values
from latentmix.experiments.options.messages import blaming
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.options.parser import OptionParser
from latentmix.experiments.options.parts import PARTS, subclasses
from latentmix.experiments.options.settings import Measures, Training
from latentmix.experiments.options.trust import TEXTS, importing, named_modules, trusted_modules
from latentmix.experiments.presets import is_preset, preset_path, presets
from latentmix.experiments.reading.options import read_options
from latentmix.models.process_state import kept_warnings

__all__ = ["UNDESCRIBED", "option_value", "option_words", "parse_experiment", "parse_settings"]

WORDS = {"--data.classes", "--data.columns"}  # lists of words, which may look like other values of YAML
# options that change nothing that a description tells of
UNDESCRIBED = {"name", "description", "data.root", "data.cache", "data.download", "device", "compile", "loggers"}
UNREAD = {f"--{name}" for name in TEXTS} - WORDS


def parse_experiment(preset: str, words: Sequence[str], trust: Iterable[str] = ()) -> Namespace:
    """The configuration of a preset, or of a YAML file, with options that override it.

    The description of a file of one's own is left out where options that it may tell of (all but
    `UNDESCRIBED`) override the file.

    Args:
        preset: A preset, or the path of a YAML file.
        words: Options as words of the command line; a module that they name is trusted.
        trust: Modules that files of options may import besides.

    Raises:
        ValueError: If there is no such preset or file, the file is no mapping of options, exceeds a limit or names a
            class of another module, or an option is unknown or does not take its value.

    Example:
        >>> from latentmix.experiments.options.command_line import parse_experiment
        >>> parse_experiment("digits", ["--epochs", "3", "--prior", "MixturePrior(10)"]).prior.class_path
        'latentmix.models.MixturePrior'
    """
    file = preset_path(preset)
    read_options(file)
    split = option_words(words)
    typed_modules = named_modules(words)
    named = [named_file(word, option[2:], Path()) for option, word in _pairs(split) if option[:2] == "--"]
    sources = [] if is_preset(preset) else [str(file)]
    sources += [str(each) for each in named if each is not None]
    with (
        kept_warnings(),
        importing(" or ".join(sources) or file, trusted_modules([*trust, *typed_modules]), typed_modules),
    ):
        warnings.simplefilter("ignore")
        values = [option_value(name.removeprefix("--"), word) for name, word in _pairs(_with_files(split))]
        config = experiment_parser().parse_args(["--config", str(file), *values])
        check_addresses(config.loggers, " or ".join(sources) or file, words)
    typed = {word for word in split if word.startswith("--")}
    changed = {word.removeprefix("--") for word in typed} - UNDESCRIBED
    if changed and "--description" not in typed and config.description not in presets().values():
        config.description = ""
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
        ValueError: If an option is unknown, or does not take its value.

    Example:
        >>> from latentmix.experiments.options.command_line import parse_settings
        >>> from latentmix.experiments.options.settings import Measures
        >>> parse_settings(Measures, ["--samples", "10"])
        Measures(samples=10, images=1000)
    """
    parser = OptionParser(exit_on_error=False)
    parser.add_class_arguments(kind, prefix or None)
    parser.set_defaults({f"{prefix}.{name}" if prefix else name: value for name, value in (defaults or {}).items()})
    split = option_words(words, lists)
    known = [name for action in parser._actions for name in action.option_strings if name != "-h"]
    unknown = next((word for word in split if word.startswith("--") and word not in known), None)
    if unknown is not None:
        listed = ", ".join(name for name in known if name not in ("--help", f"--{prefix}") and not name.endswith("+"))
        raise ValueError(f"Expected options out of {listed}; got {unknown}{did_you_mean(unknown, known)}")
    with importing("the options"):
        objects = parser.instantiate(parser.parse_args(_with_files(split)))
    return objects[prefix] if prefix else kind(**vars(objects))


def option_words(words: Sequence[str], lists: Collection[str] = ()) -> list[str]:
    """Options as the parser takes them: `--option=value` as two words, and `1,4,8`, `1 4 8`, or `1`, as a list.

    Args:
        words: Words of the command line.
        lists: Names of list-valued options, besides those of an experiment.

    Example:
        >>> from latentmix.experiments.options.command_line import option_words
        >>> option_words(["--data.classes=1, 4", "--epochs", "3"])
        ['--data.classes', '[1, 4]', '--epochs', '3']
        >>> option_words(["--data.classes", "1", "4"])
        ['--data.classes', '[1,4]']
    """
    split: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        split += [option, value] if word.startswith("--") and equals else [word]
    refuse_earlier_names(word.removeprefix("--") for word in split if word.startswith("--"))
    options = ["", *split]
    split = [_mixture(word) if option == "--mixture" else word for option, word in zip(options, split, strict=False)]
    known = _list_options() | set(lists)
    joined: list[str] = []
    for word in split:
        if len(joined) > 1 and _is_list(joined[-2], known) and not word.startswith("--"):
            joined[-1] = f"{joined[-1].rstrip(', ')},{word.lstrip(', ')}"
        else:
            joined.append(word)
    return [_bracketed(option, word, known) for option, word in zip(["", *joined], joined, strict=False)]


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
    text = text if f"--{option}" in UNREAD else text.strip()
    named = NAME.fullmatch(text) and option in (*PARTS, "objective")
    whole = named and find_class(text, option) is not None
    value: Any = text
    if option == "loggers":
        value = logger_values(text)
    elif option in CLASSES:
        with blaming(f"--{option}"):
            value = call_form(f"{text}()" if whole else text, option)
        if isinstance(value, str) and not (NAME.fullmatch(value) or value.startswith("{")):
            raise ValueError(unknown_class(option, text))
    elif re.fullmatch(r"\(.*\)", text) and f"--{option}" not in UNREAD:
        value = literal(text)
    elif text == "None" and f"--{option}" not in UNREAD:
        value = "null"
    return value if isinstance(value, str) else json.dumps(value)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Words, each after the one before it."""
    return zip(["", *words], words, strict=False)


def _with_files(words: Sequence[str]) -> list[str]:
    """Words of options, the contents of files of options in the places of their names."""
    values = [
        included(word, option[2:], Path()) if option[:2] == "--" and option != "--config" else word
        for option, word in _pairs(words)
    ]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _mixture(word: str) -> str:
    """Options of mixtures, or a file of them, under today's names."""
    today = renewed({"mixture": included(word, "mixture", Path())})["mixture"]
    return today if isinstance(today, str) else json.dumps(today)


def _is_list(option: str, lists: Collection[str]) -> bool:
    name = option.strip("-")
    return option.startswith("--") and (name if name.startswith("data.") else name.rpartition(".")[2]) in lists


def _bracketed(option: str, word: str, lists: Collection[str]) -> str:
    if option in WORDS and not re.fullmatch(r"[\[(].*|-.*|null|None|\d+(\s*,\s*\d+)*", word.strip()):
        return json.dumps([each.strip() for each in word.split(",")])
    several = re.fullmatch(r"[\w.+-]+(\s*,\s*[\w.+-]+)+", word.strip()) and not word.startswith("--")
    single = _is_list(option, lists) and re.fullmatch(r"[\w.+-]+", word)
    listed = (several and option not in UNREAD) or (single and word not in ("null", "None"))
    return f"[{word.strip()}]" if listed else word


@cache
def _list_options() -> set[str]:
    """Names of the list-valued arguments, of LatentMix's own parts and of an experiment's settings.

    Those of the data are `data.NAME`: networks have `channels`, too.
    """
    classes: list[type] = [Measures, MixtureFits, Training]
    for base in PARTS.values():
        classes += subclasses(base)
    arguments = [item for kind in classes for item in inspect.signature(kind).parameters.items()]
    arguments += [(f"data.{name}", argument) for name, argument in inspect.signature(Data).parameters.items()]
    return {name for name, argument in arguments if re.match(r"(Sequence|list|tuple)\[", str(argument.annotation))}
