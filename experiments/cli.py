"""The command line: it dispatches to the modules of `commands` and turns errors into sentences."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol, cast

from latentmix.experiments import commands
from latentmix.experiments.commands import Usage, UsageError

__all__ = ["main"]

CLOSING = """
  --version, --help; --debug after any command shows the traceback of an error; `latentmix run --help` lists
  every option of an experiment.
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
        0; 1 after a sweep with failed cells; 2 after a refusal or an error; 130 after an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"latentmix {version('latentmix')}")
        return 0
    path, code = list(sys.path), None
    sys.path.insert(0, os.getcwd())  # for a user's own classes
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # within Pyro
            warnings.showwarning = _print_warning
            code = find_command(words[0]).main(words[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        print(f"latentmix: interrupted{interrupt}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"latentmix: {sentence(error)}", file=sys.stderr)
        return 2
    finally:
        sys.path[:] = path
    return code or 0


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
        raise UsageError(f"Expected a command out of {', '.join(known)}; got {name!r}.")
    return known[name]


def usage() -> str:
    """The text of `latentmix --help`."""
    lines = [f"  {command.USAGE.words:41}   {command.USAGE.summary}\n" for command in find_commands().values()]
    return "".join(["usage: latentmix COMMAND ...\n\n", *lines, CLOSING])


def sentence(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    if isinstance(error, ArgumentError | ValueError | ArithmeticError | OSError):
        from latentmix.experiments.options.messages import one_line

        return one_line(error)
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"Expected memory for what was asked; got no more ({text:.200}): take fewer data, samples or components."
    return f"{type(error).__name__}: {text:.300} (--debug shows where)"


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"latentmix: warning: {message}", file=sys.stderr)
