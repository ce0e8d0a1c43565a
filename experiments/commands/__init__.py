"""Commands, a module each: its parser, its action and its line of `latentmix --help`.

To add a command `decode`, write `decode.py` here (`ex_post.py` is `ex-post`), with

- `USAGE = Usage(place, "decode RUN FILE [--out FILE]", "mean images of latents")`, and
- `main(words)`, which parses the words after the command, acts and returns the exit code, by default 0.

A command's module imports torch, Pyro and what depends on them within `main`, so that help and refusals are quick.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from latentmix.experiments.hints import did_you_mean
from latentmix.experiments.options.names import BUDGETS
from latentmix.experiments.reading.limits import MAX_DRAWS, MAX_GIB, MAX_PIXELS

MOST_SEEDS = 1000

__all__ = [
    "Usage",
    "UsageError",
    "add_files",
    "add_fit",
    "add_limit",
    "add_numbers",
    "add_run",
    "add_seeds",
    "add_trust",
    "allowed_modules",
    "check_files",
    "check_fit",
    "comma_list",
    "command_parser",
    "complete_run",
    "complete_sweep",
    "new_folder",
    "preset_words",
    "write_result",
]


class Usage(NamedTuple):
    """A command's line of `latentmix --help`.

    Attributes:
        place: Commands are listed in ascending order of it.
        words: The command and its arguments.
        summary: Its purpose, in a few words.
        lasting: Whether it writes a folder, and goes on when nobody reads its output any more.
    """

    place: int
    words: str
    summary: str
    lasting: bool = False


class UsageError(ValueError):
    """A malformed command line; the message is one sentence."""


class _Parser(argparse.ArgumentParser):
    others: frozenset[str] = frozenset()  # options of an experiment that resemble own ones

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = super().parse_known_args(args, namespace)
        own = [option for option in self._option_string_actions if option.startswith("--")]
        for word in rest:
            name = word.partition("=")[0]
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
            if name.startswith("--") and name not in self.others and near:
                self.error(f"unrecognized arguments: {word}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        raise UsageError(f"{_refusal(message, known)} (see `{self.prog} --help`).")


def _refusal(message: str, known: list[str]) -> str:
    """A message of argparse as "Expected ...; got ...", without a full stop."""
    if (match := re.match(r"unrecognized arguments: (\S+)", message)) is not None:
        hint = did_you_mean(match[1].partition("=")[0], known, cutoff=0.7, otherwise="")
        return f"Expected arguments and options of this command; got {match[1]}{hint}"
    if (match := re.match(r"the following arguments are required: (.*)", message)) is not None:
        return f"Expected {match[1].upper()}; got none"
    if (match := re.match(r"argument (\S+): invalid (\w+) value: (.*)", message)) is not None:
        kind = {"int": "a whole number", "float": "a number"}.get(match[2], "another value")
        return f"Expected {kind} for {match[1]}; got {match[3]}"
    if (match := re.match(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message)) is not None:
        choices = match[3].replace("'", "").split(", ")
        hint = did_you_mean(match[2].strip("'"), choices, otherwise="")
        return f"Expected {', '.join(choices)} for {match[1]}; got {match[2]}{hint}"
    if (match := re.match(r"argument (\S+): expected (?:one|at least one) argument", message)) is not None:
        return f"Expected a value after {match[1]}; got none"
    if (match := re.match(r"argument (\S+): ignored explicit argument (.*)", message)) is not None:
        return f"Expected no value for {match[1]}; got {match[2]}"
    return f"Expected another command line; got: {message}"


def command_parser(command: str, epilog: str | None = None, *, others: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parser of a command's words that raises `UsageError`.

    Args:
        command: The command.
        epilog: Text below the help.
        others: Options of an experiment that are taken for no misspelling of the command's own.
    """
    kind = argparse.RawDescriptionHelpFormatter if "\n" in (epilog or "") else argparse.HelpFormatter
    parser = _Parser(prog=f"latentmix {command}", allow_abbrev=False, epilog=epilog, formatter_class=kind)
    parser.others = frozenset(others)
    return parser


def add_run(parser: argparse.ArgumentParser, *, trust: bool = True) -> None:
    """Add the folder of a run and, unless the command imports no class that it names, the modules it may import."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of the run")
    if trust:
        add_trust(parser, "the run")


def add_trust(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the modules that a run, or a file of options, may import."""
    text = f"a module of your own whose classes {what} may name; repeatable (default: those of your configuration)"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=text)


def allowed_modules(trust: Sequence[str], words: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules that a run or a file of options may import.

    With any, the working folder is searched for modules, after all other places, until the command ends.

    Args:
        trust: The values of --trust.
        words: Options whose values the user has typed, so that modules that they name are trusted.

    Raises:
        ValueError: If one is no import path, or the user's configuration is malformed.
    """
    from latentmix.experiments.options.trust import named_modules, trusted_modules

    modules = trusted_modules([*trust, *named_modules(words)])
    if modules:
        sys.path.append(os.getcwd())
    return modules


def write_result(out: Path | None, text: str | bytes) -> None:
    """Write a result to its file in one step, if there is to be one."""
    from latentmix.models.files import write_atomically

    if out is not None:
        write_atomically(out, text.encode() if isinstance(text, str) else text)


def add_numbers(parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int | None, str]]) -> None:
    """Add integer options: by name, the default and the help."""
    for name, (default, text) in numbers.items():
        told = text if default is None else f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=told)


class _Seeds(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if not 2 <= values <= MOST_SEEDS:
            raise UsageError(
                f"Expected --seeds from 2 to {MOST_SEEDS:,}, to tell how far figures vary between seeds; got {values}."
            )
        namespace.seeds = values


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the number of seeds of each cell, and the number of cells at a time."""
    text = "run each cell with N seeds, --seed and those that follow it; tables give means with intervals over seeds"
    parser.add_argument("--seeds", type=int, metavar="N", help=text, action=_Seeds)
    text = "cells at a time; -1 for as many as there are cores (default: 1)"
    parser.add_argument("--n-jobs", type=int, metavar="N", help=text)


class _Limit(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if not values > 0:
            raise UsageError(f"Expected --{self.dest} above 0; got {values}.")
        setattr(namespace, self.dest, values)


def add_limit(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    """Add a limit above 0, whole if the default is."""
    words = f"{text} (default: {f'{default:,}'.removesuffix('.0')})"
    parser.add_argument(f"--{name}", type=type(default), default=default, metavar="N", help=words, action=_Limit)


def add_files(parser: argparse.ArgumentParser, count: str) -> None:
    """Add files of images or points, as many as `nargs=count` takes, and the limits on them."""
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs=count,
        help=".npy or .npz arrays; picture files or folders of them; for a run on points .csv or .parquet tables",
    )
    add_limit(parser, "max_pixels", MAX_PIXELS, "most pixels of a picture before it is resized")
    add_limit(parser, "max_gib", MAX_GIB, "most memory of an array or a table, in GiB")


def check_files(files: Sequence[Path]) -> None:
    """Refuse files of images or points that are missing.

    Raises:
        UsageError: If one is.
    """
    for file in files:
        if not file.exists():
            raise UsageError(f"Expected files that are there; got {file}, which is missing.")


def add_fit(parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int | None, str]]) -> None:
    """Add the fit of a mixture and what its probabilities are averaged over, with `draws` and `seed` as `numbers`."""
    parser.add_argument(
        "--inference",
        metavar="FIT",
        default="em",
        help="which fit of the mixture: em, svi, posterior or nuts (default: em)",
    )
    parser.add_argument(
        "--labels",
        choices=BUDGETS,
        help="the fit by how many labels: none, a few per class, or all (default: few, or none without classes)",
    )
    parser.add_argument(
        "--average",
        choices=("draws", "noise", "none"),
        default="draws",
        help="probabilities as means over draws of q(z|x), and of the mixture's posterior where the fit keeps some; "
        "under the mixture convolved with q's covariance (noise); or at q's mean (none) (default: draws)",
    )
    add_numbers(parser, numbers)


def check_fit(arguments: argparse.Namespace) -> None:
    """Refuse numbers of `add_fit` that are out of range, and replace the word `none` of --average by `None`.

    Raises:
        UsageError: If one is.
    """
    if arguments.draws is not None and not 1 <= arguments.draws <= MAX_DRAWS:
        raise UsageError(f"Expected --draws from 1 to {MAX_DRAWS:,}; got {arguments.draws}.")
    if arguments.seed < 0:
        raise UsageError(f"Expected --seed of at least 0; got {arguments.seed}.")
    arguments.average = None if arguments.average == "none" else arguments.average


def comma_list(option: str, text: str) -> list[Any]:
    """The words between the commas of an option's value, around which spaces are allowed.

    Raises:
        UsageError: If one is empty.

    Example:
        >>> from latentmix.experiments.commands import comma_list
        >>> comma_list("--criteria", "bic, icl")
        ['bic', 'icl']
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"Expected words with commas between them for {option}, as in a,b; got {text!r}.")
    return words


def preset_words(words: list[str], example: str) -> None:
    """Refuse words that begin with an option instead of a preset.

    Raises:
        UsageError: If they do.
    """
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        raise UsageError(f"Expected the preset first, as in `latentmix {example}`; got {words[0]}.")


def new_folder(name: str) -> Path:
    """The default folder of results: `runs/NAME-DATE-TIME`, to a millisecond, so that simultaneous runs differ."""
    return Path("runs") / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')[:-3]}"


def complete_run(run: Callable[[], dict[str, Any]], path: Path) -> None:
    """Run an experiment in a folder to its end, then print its figures and, last, the folder.

    Args:
        run: Runs the experiment and returns the figures of `summary.json`.
        path: The folder.

    Raises:
        KeyboardInterrupt: With a hint to resume, if there is a run to resume.
        OSError: With such a hint, if a file cannot be written.
    """
    from latentmix.experiments.runs.report import closing_words

    try:
        summary = run()
    except KeyboardInterrupt as interrupt:
        hint = f"; `latentmix resume {path}` finishes it" if path.exists() else ""
        raise KeyboardInterrupt(hint) from interrupt
    except OSError as error:
        if not error.strerror or not path.exists():
            raise
        hint = f"{error.strerror}; once that is mended, `latentmix resume {path}` finishes the run"
        raise OSError(error.errno, hint, error.filename) from error
    print(f"\n{closing_words(summary)}\nreport: {path / 'report.html'}\n{path}")


def complete_sweep(
    preset: str,
    options: Sequence[str],
    grid: Mapping[str, list[str]],
    out: Path,
    arguments: argparse.Namespace,
    *,
    backend: str = "loky",
    pictures: bool,
) -> int:
    """Run a sweep in a folder to its end, then print its tables and, last, the folder.

    Args:
        preset: A preset, or a YAML file of options.
        options: Options of all cells.
        grid: The values of every option that varies, but for the seed.
        out: The folder.
        arguments: Those of `add_seeds` and `add_trust`.
        backend: joblib's back end.
        pictures: Whether every cell draws its figures and writes its report.

    Returns:
        The exit code: 1 if a cell of the grid was refused or failed.
    """
    from latentmix.experiments.sweeps.sweep import sweep

    typed = [word for name, values in grid.items() for value in values for word in (f"--{name}", value)]
    results = sweep(
        preset,
        options,
        dict(grid),
        out,
        seeds=arguments.seeds,
        n_jobs=1 if arguments.n_jobs is None else arguments.n_jobs,
        backend=backend,
        pictures=pictures,
        trust=allowed_modules(arguments.trust, [*options, *typed]),
    )
    print(out)
    asked = set(results["asked"])
    return 0 if all(cell["status"] == "done" for cell in results["cells"] if cell["id"] in asked) else 1
