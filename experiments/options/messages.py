"""Errors as one sentence each: expected against given."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from yaml import YAMLError

from latentmix.experiments.options.tensor_words import tensor_fault
from latentmix.experiments.reading.yaml_faults import yaml_fault

__all__ = ["blaming", "condensed", "lacks_memory", "one_line"]

NOISE = ("Does not validate", "Subtypes", "Errors:", "Given value", "Expected a <class 'NoneType'>", "Problem with")
REQUIRED = re.compile(r"the following arguments are required: ([\w., ]+)")
PYTHON = re.compile(r"(?:typing|collections\.abc|types)\.(?=\w)|<class '([\w.]+)'>")


def one_line(error: BaseException) -> str:
    """The message of an error in one line."""
    if isinstance(error, YAMLError):
        return f"Expected YAML; got {yaml_fault(error)}."
    if isinstance(error, json.JSONDecodeError):
        return f"Expected JSON; got {error.msg} in line {error.lineno}, column {error.colno}."
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename or "a file"
        return f"Expected to read or write {name}; got: {error.strerror}."
    text = str(error)
    if (match := REQUIRED.fullmatch(text.strip().rstrip("."))) is not None:
        options = ", ".join(f"--{name}" for name in match[1].split(", "))
        return f"Expected values of {options}; got none: add them to the options, or begin with a preset."
    nested = 'Parser key "' in text or "Does not validate" in text
    return tensor_fault(text) or (condensed(text) if nested else " ".join(text.split()))


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, on the computer or the device."""
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name the option in the sentence of an error that comes of its value, of any kind of exception.

    Args:
        option: The option, with dashes.

    Raises:
        ValueError: In place of every exception, except for a lack of memory; it ends in the option, unless it names it
            already.

    Example:
        >>> from latentmix.experiments.options.messages import blaming
        >>> with blaming("--likelihood"):
        ...     raise ValueError("Expected var_x > 0; got -1.")
        Traceback (most recent call last):
        ValueError: Expected var_x > 0; got -1 (option --likelihood).
    """
    try:
        yield
    except Exception as error:
        if lacks_memory(error):
            raise  # whatever the option, the words of `latentmix` say what to do
        text = one_line(error)
        if not isinstance(error, ValueError | OSError) or not text.startswith("Expected"):
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            text = f"Expected other values of {option}; got {kind}{text or 'no reason'}"
        if not re.search(r"--\w", text):
            text = f"{text.rstrip('.')} (option {option})."
        raise ValueError(text) from error


def condensed(text: str) -> str:
    """A report of the option parser in one line: its cause, without the names of Python's types."""
    untyped = re.search(r"Parameter '(\w+)' from '([\w.]+)\.__init__' does not specify a type", text)
    if untyped is not None:
        return (
            f"Expected a class whose required arguments have a type; got {untyped[2]}, whose {untyped[1]!r} has none: "
            "call it from Python."
        )
    option = re.search(r'Parser key "([\w.]+)"', text)
    lines = [line.strip(" -") for line in re.sub(r'Parser key "[\w.]+":', "", text).splitlines() if line.strip(" -")]
    kept = [line for line in lines if not line.startswith(NOISE)] or lines or ["no reason given"]
    reason = PYTHON.sub(lambda match: match[1] or "", " ".join(kept[-1].split())).rstrip(".")
    return f"Expected another value of --{option[1]}; got: {reason}." if option else reason
