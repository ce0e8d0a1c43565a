"""The option parser: it reads options of earlier versions too, and refuses a value in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentError, Namespace
from jsonargparse._actions import previous_config_context
from jsonargparse._util import merge_config
from yaml import SafeDumper, YAMLError, dump

from latentmix.experiments.options.earlier import renewed
from latentmix.experiments.options.faults import Pair, first_fault, flat
from latentmix.experiments.options.included import included_options
from latentmix.experiments.options.loader import check_classes
from latentmix.experiments.options.messages import condensed
from latentmix.experiments.options.sealed import SealedParser
from latentmix.experiments.options.unknown import unknown_option
from latentmix.experiments.reading.options import parse_yaml
from latentmix.experiments.reading.paths import user_path

__all__ = ["OptionParser", "OptionsFile"]


class _Quoted(SafeDumper):
    """Dumps words in quotes, so that they stay words."""


_Quoted.add_representer(str, lambda dumper, word: dumper.represent_scalar("tag:yaml.org,2002:str", word, style='"'))


class OptionsFile(argparse.Action):
    """An option whose value is a file of options, which later options override."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        text = dump(included_options(user_path(values)), Dumper=_Quoted, sort_keys=False)
        with previous_config_context(namespace):
            given = parser.parse_string(text, env=False, defaults=False, _skip_validation=True)
        namespace.__dict__.update(merge_config(parser, given, namespace).__dict__)


class OptionParser(SealedParser):
    """A parser of options whose refusals are sentences that name the option, what it takes and what it was given."""

    def parse_args(self, args: Sequence[str], *arguments: Any, **options: Any) -> Namespace:  # type: ignore[override]
        try:
            return super().parse_args(args, *arguments, **options)
        except ArgumentError as error:
            raise ValueError(self._refusal(list(_pairs(self, args)), error)) from error

    def parse_object(self, obj: Namespace | dict[str, Any], *arguments: Any, **options: Any) -> Namespace:
        check_classes(obj)
        self._check_groups(renewed(obj))
        try:  # the base class changes lists of classes in place
            return super().parse_object(deepcopy(renewed(obj)), *arguments, **options)
        except ArgumentError as error:
            raise ValueError(self._refusal(list(flat(self, renewed(obj))), error)) from error

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        loaded = None
        with suppress(YAMLError, ValueError, RecursionError):  # `read_options` names the place
            loaded = parse_yaml(content)
        if (today := renewed(loaded)) != loaded:
            content = dump(today, Dumper=_Quoted, sort_keys=False)
        self._check_groups(today)
        return super().parse_string(content, *arguments, **options)

    def _check_groups(self, values: Any) -> None:
        """Refuse values of groups of options that are neither mappings nor words: the base class takes any."""
        given = vars(values) if isinstance(values, Namespace) else values
        if isinstance(given, Mapping) and "config" in given:
            raise ValueError("Expected options of an experiment; got config: add a file of options by --config.")
        for name, group in (self.groups or {}).items() if isinstance(given, Mapping) else ():
            value = given.get(name, {})
            if hasattr(group, "group_class") and not isinstance(value, Mapping | Namespace | str):
                raise ValueError(f"Expected options of {name} by their names, or a file of them; got {value!r:.80}.")

    def _refusal(self, pairs: Sequence[Pair], error: ArgumentError) -> str:
        text = str(error)
        if "unrecognized arguments: " in text:
            return unknown_option(self, text.partition("unrecognized arguments: ")[2].split())
        if "expected one argument" in text:
            return f"Expected a value after {text.split()[1].rstrip(':')}; got none."
        untyped = "does not specify a type" in text
        fault = None if untyped else first_fault(self, [pair for pair in pairs if pair[0] != "config"])
        if fault is None:
            return condensed(text)
        for file in (user_path(value) for name, value in pairs if name == "config"):
            if first_fault(self, flat(self, renewed(included_options(file)))) == fault:
                return f"{fault[:-1]} (in {file})." if fault.endswith(".") else f"{fault} (in {file})"
        return fault


def _pairs(parser: OptionParser, words: Sequence[str]) -> Iterator[Pair]:
    """The options that words of the command line set, those of a file in its place, each with its value."""
    for option, value in pairwise(words):
        if option == "--config":
            yield "config", value
            yield from flat(parser, renewed(included_options(user_path(value))))
        elif option.startswith("--"):
            yield option.removeprefix("--"), value
