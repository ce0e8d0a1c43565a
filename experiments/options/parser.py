"""The option parser: it reads files of earlier versions too, and refuses a value in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from yaml import MappingNode, SafeDumper, SafeLoader, SequenceNode, YAMLError, compose, dump, safe_load

from latentmix.experiments.options.earlier import renewed
from latentmix.experiments.options.faults import Pair, first_fault, flat
from latentmix.experiments.options.messages import condensed, yaml_fault
from latentmix.experiments.options.unknown import unknown_option

__all__ = ["OptionParser", "read_options"]


def read_options(file: Path) -> dict[str, Any]:
    """The options of a YAML file.

    Raises:
        ValueError: If the file cannot be read, is no YAML, or holds no options by name.
    """
    try:
        text = file.read_text()
        node = compose(text, Loader=SafeLoader)
    except OSError as error:
        raise ValueError(f"Expected a file of options; got {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a file of options in YAML; got {file}, which is no text.") from error
    except YAMLError as error:
        raise ValueError(f"Expected options in YAML in {file}; got {yaml_fault(error)}.") from error
    if not isinstance(node, MappingNode):
        kind = "nothing" if node is None else "a list" if isinstance(node, SequenceNode) else "a single value"
        raise ValueError(f"Expected options by their names, as in `epochs: 5`, in {file}; got {kind}.")
    with suppress(ValueError, YAMLError):  # as of a date that there is not, which is a word to the parser
        return dict(safe_load(text))
    return {}


class _Quoted(SafeDumper):
    """Dumps words in quotes, so that they stay words."""


_Quoted.add_representer(str, lambda dumper, word: dumper.represent_scalar("tag:yaml.org,2002:str", word, style='"'))


class OptionParser(ArgumentParser):
    """A parser of options whose refusals are sentences that name the option, what it takes and what it was given."""

    def parse_args(self, args: Sequence[str], *arguments: Any, **options: Any) -> Namespace:  # type: ignore[override]
        try:
            return super().parse_args(args, *arguments, **options)
        except ArgumentError as error:
            raise ValueError(self._refusal(list(_pairs(self, args)), error)) from error

    def parse_object(self, obj: Namespace | dict[str, Any], *arguments: Any, **options: Any) -> Namespace:
        try:
            return super().parse_object(renewed(obj), *arguments, **options)
        except ArgumentError as error:
            raise ValueError(self._refusal(list(flat(self, renewed(obj))), error)) from error

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        loaded = None
        with suppress(YAMLError, ValueError):  # `read_options` names the place
            loaded = safe_load(content)
        if (today := renewed(loaded)) != loaded:
            content = dump(today, Dumper=_Quoted, sort_keys=False)
        return super().parse_string(content, *arguments, **options)

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
        for file in (Path(value) for name, value in pairs if name == "config"):
            if first_fault(self, flat(self, renewed(read_options(file)))) == fault:
                return f"{fault[:-1]} (in {file})." if fault.endswith(".") else f"{fault} (in {file})"
        return fault


def _pairs(parser: ArgumentParser, words: Sequence[str]) -> Iterator[Pair]:
    """The options that words of the command line set, those of a file in its place, each with its value."""
    for option, value in pairwise(words):
        if option == "--config":
            yield "config", value
            yield from flat(parser, renewed(read_options(Path(value))))
        elif option.startswith("--"):
            yield option.removeprefix("--"), value
