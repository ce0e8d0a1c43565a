"""Loggers of a run in words, and the addresses that they may log to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from latentmix.experiments.loggers import Logger
from latentmix.experiments.options.calls import call_form, split
from latentmix.experiments.options.classes import NAME, class_names, find_class, unknown_class
from latentmix.experiments.options.messages import blaming

__all__ = ["check_addresses", "logger_values"]


def logger_values(text: str) -> Any:
    """Loggers as the option parser takes them: a list of classes, whose names may be typed in any case.

    Args:
        text: Classes in call form with commas between, or YAML of a list.

    Raises:
        ValueError: If one is no logger, or does not take its arguments.

    Example:
        >>> from latentmix.experiments.options.logger_words import logger_values
        >>> logger_values("tensorboard,WandB(mode=offline)")[1]["init_args"]["mode"]
        'offline'
    """
    text = text.strip()
    if text.startswith("{") or text.lstrip("[ ").startswith("{"):
        return text
    with blaming("--loggers"):
        pieces = split(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
        return [] if text in ("", "null", "None") else [_value(piece) for piece in pieces if piece]


def _value(text: str) -> Any:
    text = text.strip("'\"") if "(" not in text else text
    match = NAME.match(text)
    word = match[0] if match else ""
    name = next((each for each in class_names(Logger) if each.lower() == word.lower()), word)
    call = f"{name}{text[len(word) :]}"
    value = call_form(call if "(" in call else f"{call}()", "loggers") if find_class(name, "loggers") else call
    if isinstance(value, str):
        raise ValueError(unknown_class("loggers", text))
    return value


def check_addresses(loggers: Iterable[Any], source: object, words: Sequence[str] = ()) -> None:
    """Refuse loggers of a file that log elsewhere than the user has said: the file may be a stranger's.

    Args:
        loggers: Loggers of a configuration, as namespaces of `class_path` and `init_args`.
        source: The file, for the message.
        words: Words that the user has typed.

    Raises:
        ValueError: If one has an address that stands in no word, and in no environment variable of its library.
    """
    for logger in loggers:
        kind = find_class(logger.class_path, "loggers")
        arguments = vars(given) if (given := logger.get("init_args")) else {}
        for name, variable in getattr(kind, "addresses", {}).items():
            value = arguments.get(name)
            if value is None or os.environ.get(variable) == value or any(str(value) in word for word in words):
                continue
            raise ValueError(
                f"Expected {name} of a logger as you type it, or as {variable} in the environment, since results are "
                f"sent there; got {value!r:.100} in {source}: if you know it, set {variable}={value!s:.100}."
            )
