"""Errors as one sentence each: expected against given."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence

__all__ = ["one_line", "unknown_option"]

NOISE = ("Does not validate", "Subtypes", "Errors:", "Given value", "Expected a <class 'NoneType'>", "Problem with")


def one_line(error: BaseException) -> str:
    """The message of an error in one line, nested reports of the option parser condensed to their cause."""
    text = str(error)
    unknown = re.search(r"unrecognized arguments: (.*)", text)
    if unknown is not None:
        return unknown_option(unknown[1].split())
    option = re.search(r'Parser key "([\w.]+)"', text)
    untyped = re.search(r"Parameter '(\w+)' from '([\w.]+)\.__init__' does not specify a type", text)
    if untyped is not None:
        return (
            f"Expected a class whose required arguments have a type; got {untyped[2]}, whose {untyped[1]!r} has none: "
            "call it from Python."
        )
    if option is None and "Given value" in text:
        stated = [line.strip(" -") for line in text.splitlines() if line.strip().startswith("- ")]
        inner = [line for line in stated if not line.startswith(NOISE)]
        return " ".join((inner or [text])[-1].split())
    if option is None:
        return " ".join(text.split())
    reasons = [line.strip(" -") for line in text.splitlines()[1:] if line.strip()]
    kept = [line for line in reasons if not line.startswith(NOISE)] or reasons or [text]
    given = re.search(r"Given value: (.*)", text)
    key, value = option[1], given[1] if given else ""
    nested = re.search(r"NestedArg\(key='(\w+)', val='?(.*?)'?\)", text)
    if nested:
        key, value = f"{key}.{nested[1]}", nested[2]
    from latentmix.experiments.options.parts import PARTS, subclasses

    refused = re.search(r"class_path '([\w.]+)'.*Option '(\w+)' is not accepted", text, re.DOTALL)
    if refused:
        return _unknown_argument(key, value, refused[1], refused[2])
    if "Expected a dot import path string" in text and key in PARTS:
        known = ", ".join(kind.__name__ for kind in subclasses(PARTS[key]) if not inspect.isabstract(kind))
        return f"Expected --{key} to be {known}, or the import path of a class of your own; got {value}."
    reason = (
        " ".join(kept[-1].split())
        .replace("<class '", "")
        .replace("'>", "")
        .replace("Expected a int", "Expected an int")
    )
    return f"--{key}: {reason}" + (f" (got {value})" if value and value not in reason and len(value) < 80 else "")


def unknown_option(words: Sequence[str]) -> str:
    """The sentence that refuses words which are no options of an experiment, with the nearest one that is."""
    from latentmix.experiments.options.experiment import experiment_parser

    options = [name for action in experiment_parser()._actions for name in action.option_strings]
    near = difflib.get_close_matches(words[0], options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"Expected options of an experiment; got {' '.join(words)}: {hint}`latentmix run --help` lists them."


def _unknown_argument(key: str, value: str, path: str, argument: str) -> str:
    from latentmix.experiments.options.parts import LINKED, import_object

    if argument in LINKED:
        return (
            f"Expected no --{key}: {argument} follows from the experiment (--latent_dim, the data, the likelihood) "
            f"for every part; got {value}."
        )
    parameters = inspect.signature(import_object(path)).parameters.values()
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    accepted = [item.name for item in parameters if item.name not in LINKED and item.kind not in open_ended]
    part, name, known = key.rpartition(".")[0] or key, path.rpartition(".")[2], ", ".join(accepted) or "none"
    return f"Expected --{part}.NAME with an argument of {name} ({known}); got {argument!r}."
