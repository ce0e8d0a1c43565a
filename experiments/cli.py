"""The command line: it dispatches to the modules of `commands` and turns errors into sentences."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Protocol, cast

from latentmix.experiments import commands
from latentmix.experiments.commands import Usage, UsageError
from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.reading.limits import YAML_LIMITS, limit_variable, yaml_limit
from latentmix.experiments.signals import EndingSignals
from latentmix.experiments.streams import StandardStreams

__all__ = ["main"]

PRINTING = frozenset({"-h", "--help", "--print_config"})  # with which a command does nothing but print
CLOSING = """
Begin with `latentmix run digits --epochs 5`. `latentmix COMMAND --help` explains a command; `latentmix run --help`
lists every option of an experiment. After any command, --debug shows the traceback of an error, and --max_yaml_values N
and --max_yaml_mib N raise the limits on files of options (default: {limits}); --version.
Exit codes: 0 done, 1 a cell of a sweep or a run of several was refused or failed, or an entry of a gallery failed, 2
refused or failed, 130 interrupted, 143 terminated, 141 the reader of the output has gone.
"""


class Command(Protocol):
    """A module of `commands`."""

    USAGE: Usage

    def main(self, words: list[str]) -> int | None:
        """Run the command on the words after its name; the exit code, by default 0."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `latentmix`; by default those of the process.

    Returns:
        0; 1 if a cell of a sweep was refused or failed, or an entry of a gallery failed; 2 after a refusal or an
        error; 130 after an interruption, 143 or 129 after SIGTERM or SIGHUP; 141 where nobody reads the output any
        more, unless the command has more to do than to print.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    path = list(sys.path)
    safe = {"PYTHONSAFEPATH": "1"}  # for worker processes: the working folder shadows no module
    with StandardStreams() as streams, EndingSignals() as signals, _environment(safe):
        try:
            try:
                code = dispatch(words, streams)
            except SystemExit:  # of a parser that has printed its help
                streams.output.check()
                raise
            streams.output.check()
        except KeyboardInterrupt as interrupt:
            signals.ignore()
            print(f"latentmix: {signals.word}{interrupt}", file=sys.stderr)
            return signals.code
        except Exception as error:
            if error is streams.output.error and isinstance(error, BrokenPipeError):
                return 141
            if debug:
                traceback.print_exc()
            print(f"latentmix: {sentence(error)}", file=sys.stderr)
            return 2
        finally:
            sys.path[:] = path
    return code


def dispatch(words: list[str], streams: StandardStreams) -> int:
    """Run the command that the first word names; the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"latentmix {version('latentmix')}")
        return 0
    command = find_command(words[0])
    words, limits = _raised_limits(words)
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "Expected a working folder that is there; got one that was removed: change to another."
        ) from error
    streams.output.lasting = command.USAGE.lasting and not PRINTING.intersection(words)
    with warnings.catch_warnings(), _environment(limits):
        for name in YAML_LIMITS:
            yaml_limit(name)
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # within Pyro
        warnings.showwarning = _print_warning
        return command.main(words[1:]) or 0


def find_commands() -> dict[str, Command]:
    """The commands by name, in the order of the help."""
    modules = {
        module.name: cast("Command", importlib.import_module(f"{commands.__name__}.{module.name}"))
        for module in pkgutil.iter_modules(commands.__path__)
    }
    ordered = sorted(modules.items(), key=lambda item: item[1].USAGE.place)
    return {name.replace("_", "-"): module for name, module in ordered}


def find_command(name: str) -> Command:
    """The command of that name.

    Raises:
        UsageError: If there is none.
    """
    known = find_commands()
    if name not in known:
        hint = did_you_mean(name.lower(), known, cutoff=0.5)
        raise UsageError(f"Expected a command out of {', '.join(known)}; got {name!r}{hint}")
    return known[name]


def usage() -> str:
    """The text of `latentmix --help`."""
    lines = [f"  {command.USAGE.words:41}   {command.USAGE.summary}\n" for command in find_commands().values()]
    limits = ", ".join(f"{limit:,}" for limit in YAML_LIMITS.values())
    return "".join(["usage: latentmix COMMAND ...\n\n", *lines, CLOSING.format(limits=limits)])


def sentence(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    from latentmix.experiments.options.messages import lacks_memory, one_line

    if isinstance(error, ArgumentError | ValueError | ArithmeticError | OSError):
        return one_line(error)
    text = " ".join(str(error).split()) or "no reason given"
    if lacks_memory(error):
        return f"Expected memory for what was asked; got no more ({text:.200}): take fewer data, samples or components."
    return f"{type(error).__name__}: {text:.300} (--debug shows where)"


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"latentmix: warning: {message}", file=sys.stderr)


def _raised_limits(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words without the options that raise limits on files of options, and what these put into the environment.

    Raises:
        UsageError: If one has no value; `yaml_limit` refuses one that is no number.
    """
    rest: list[str] = []
    limits: dict[str, str] = {}
    following = iter(words)
    for word in following:
        option, equals, value = word.partition("=")
        if (name := option.removeprefix("--")) not in YAML_LIMITS or name == option:
            rest.append(word)
            continue
        value = value if equals else next(following, "")
        if not value:
            raise UsageError(f"Expected a whole number above 0 after {option}; got none.")
        limits[limit_variable(name)] = value
    return rest, limits


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A block with environment variables, which are afterwards what they were before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
