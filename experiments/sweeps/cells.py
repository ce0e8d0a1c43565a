"""The cells of a sweep: their configurations, their runs and their outcomes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.options.classes import CLASSES
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment, experiment_parser, plain
from latentmix.experiments.options.grids import Grid, cells_of, words_of
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.reading.options import read_options
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.locks import FolderLock, LockedError
from latentmix.models.files import inside, write_atomically
from latentmix.models.process_state import kept_warnings

__all__ = [
    "Cell",
    "RunCell",
    "attempt",
    "base_configuration",
    "finished",
    "plan",
    "rehearse",
    "run_or_resume",
    "undescribed",
]

RunCell = Callable[[Experiment, Path, bool], Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One choice of every option that varies.

    Attributes:
        id: A readable identifier, the same for the same configuration.
        options: The values as written in the grid.
        config: The complete configuration; empty if the options do not make one.
        status: `waiting`; `refused` if options do not go together; `failed` after an unexpected error.
        reason: Reason of a refusal or failure.
    """

    id: str
    options: dict[str, str]
    config: dict[str, Any]
    status: str = "waiting"
    reason: str = ""

    @property
    def settings(self) -> str:
        """A digest of the configuration without its seed, the same for cells that differ by their seed alone."""
        settings = {name: value for name, value in undescribed(self.config).items() if name != "seed"}
        return _digest(settings) if self.config else ""


def base_configuration(preset: str, words: Sequence[str], trust: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration that a grid varies, as plain values.

    Args:
        preset: A preset, or a YAML file of options.
        words: Options of all cells, as words of the command line.
        trust: Modules that a file of options may import.
    """
    config = parse_experiment(preset, words, trust)
    config.name = config.name or Path(preset).stem
    return plain(experiment_parser(), config)


def plan(
    preset: str,
    words: Sequence[str],
    grid: Grid,
    base: Mapping[str, Any],
    known: Iterable[str] = (),
    trust: Iterable[str] = (),
) -> list[Cell]:
    """The cells of a grid, each with its configuration or with the reason why there is none.

    Values that lead to the same configuration, such as a class and the class with its defaults, are one cell.

    Args:
        preset: A preset, or a YAML file of options.
        words: Options of all cells.
        grid: The values of every option that varies.
        base: The configuration that the grid varies.
        known: Identifiers of cells of an earlier grid, which are kept.
        trust: Modules that a file of options may import.

    Raises:
        ValueError: If a value of the grid is none of its option, whatever the other options are.
    """
    names = {_digest_of(name): name for name in known}
    cells: dict[str, Cell] = {}
    readable: set[tuple[str, str]] = set()
    for options in cells_of(grid):
        config: dict[str, Any] = {}
        status, reason = "waiting", ""
        try:
            parsed = parse_experiment(preset, [*words, *words_of(options)], trust)
            readable.update(options.items())
            parsed.name = parsed.name or base["name"]
            config = Experiment.from_config(parsed, checked=False).config  # `rehearse` checks what has an identifier
        except ValueError as error:
            status, reason = "refused", one_line(error)
        except Exception as error:
            status, reason = "failed", _describe(error)
        name = _identify(options, undescribed(config) or {"base": undescribed(base), "options": options})
        digest = _digest_of(name)
        cells.setdefault(digest, Cell(names.get(digest, name), options, config, status, reason))
    _refuse_impossible(
        preset, words, {item for cell in cells.values() for item in cell.options.items()} - readable, cells, trust
    )
    return list(cells.values())


def _refuse_impossible(
    preset: str,
    words: Sequence[str],
    unread: Iterable[tuple[str, str]],
    cells: Mapping[str, Cell],
    trust: Iterable[str],
) -> None:
    """Refuse a grid for a value that no cell could be read with and that is refused by itself, too."""
    for name, value in sorted(unread):
        try:
            parse_experiment(preset, [*words, f"--{name}", value], trust)
        except ValueError as error:
            reasons = [cell.reason for cell in cells.values() if cell.options[name] == value]
            raise ValueError(next((reason for reason in reasons if repr(value) in reason), str(error))) from error


def rehearse(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Build cells on their data, without training.

    Each data set is read once, whatever the number of its cells.

    Yields:
        Every cell, with its reason if its parts, objective, optimizer, schedule and data do not go together.
    """
    from latentmix.experiments.runs.pipeline import Session

    by_data: dict[str, list[Cell]] = {}
    for cell in cells:
        by_data.setdefault(json.dumps(cell.config["data"]), []).append(cell)
    for alike in by_data.values():
        dataset: Dataset | None = None
        for cell in alike:
            try:
                experiment = Experiment.from_config(experiment_parser().parse_object(cell.config))
                dataset = dataset or experiment.data.load()
                with kept_warnings():
                    warnings.simplefilter("ignore")
                    Session.prepare(experiment, _silent, dataset)
            except ValueError as error:
                yield replace(cell, status="refused", reason=one_line(error))
            except Exception as error:
                yield replace(cell, status="failed", reason=_describe(error))
            else:
                yield cell


def run_or_resume(experiment: Experiment, path: Path, pictures: bool) -> Mapping[str, Any]:
    """Run an experiment in a folder, or resume it from the last complete epoch there.

    Args:
        experiment: The experiment.
        path: The folder; a run in it that cannot be resumed is removed.
        pictures: Whether to draw figures and write the report.

    Raises:
        ValueError: If another process writes the folder, or that of the sweep was moved or removed.
    """
    from latentmix.experiments.runs.pipeline import Session, run_experiment

    if not path.parent.is_dir():
        raise LockedError(f"Expected the folder of the sweep to stay in its place; got no {path.parent} any more.")
    if _holds(path, experiment.config) and not (path / "error.txt").exists():
        with RunFolder(path).locked() as folder:
            session = Session.prepare(experiment, _silent)
            return session.run(folder, progress=False, pictures=pictures)
    if path.exists():
        with FolderLock(path):
            shutil.rmtree(path)
    return run_experiment(experiment, path, progress=False, pictures=pictures, tell=_silent)


def attempt(cell: Cell, path: Path, threads: int | None, pictures: bool, run: RunCell) -> tuple[Cell, dict[str, Any]]:
    """Run a cell, possibly in a worker process.

    Args:
        cell: The cell.
        path: Its folder; a failure leaves its traceback in `error.txt`, a refusal leaves no folder.
        threads: Number of torch threads to set in this process; by default it is left as it is.
        pictures: Whether to draw figures and write the report.
        run: Runs the experiment.

    Returns:
        The cell, and its `status`, `reason`, `seconds`, `warnings` and, if it is done, `summary`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    began = time.perf_counter()
    outcome: dict[str, Any] = {"status": "done", "reason": ""}
    with kept_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.simplefilter("default", RuntimeWarning)
        try:
            experiment = Experiment.from_config(experiment_parser().parse_object(cell.config))
            outcome["summary"] = dict(run(experiment, path, pictures))
        except LockedError as error:
            outcome |= {"status": "failed", "reason": str(error)}
        except Exception as error:
            unwritten = not (path / "config.yaml").exists()  # a refusal comes before the first file
            if unwritten and isinstance(error, ValueError):
                shutil.rmtree(path, ignore_errors=True)
                outcome |= {"status": "refused", "reason": one_line(error)}
            else:
                path.mkdir(exist_ok=True)
                write_atomically(path / "error.txt", traceback.format_exc().encode())
                outcome |= {"status": "failed", "reason": _describe(error)}
    messages = dict.fromkeys(" ".join(str(warning.message).split())[:200] for warning in caught)
    return cell, {**outcome, "seconds": time.perf_counter() - began, "warnings": list(messages)[:10]}


def finished(cell: Cell, path: Path, pictures: bool = False) -> dict[str, Any] | None:
    """The summary of a cell's run, if its folder holds a finished run of that configuration, with pictures if asked."""
    folder = RunFolder(path)
    done = bool(cell.config) and folder.finished(pictures=pictures) and _holds(path, cell.config)
    return folder.read_summary() if done else None


def _holds(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds a run of that configuration."""
    try:
        return undescribed(read_options(inside(path, "config.yaml"))) == undescribed(config)
    except ValueError:
        return False


def _identify(options: Mapping[str, str], config: Mapping[str, Any]) -> str:
    labels = [
        re.sub(r"[\w.]+\.(?=\w+(\(|$))", "", value, count=1) if name in CLASSES else f"{name}={value}"
        for name, value in options.items()
    ]
    slug = "-".join(re.sub(r"[^\w.+=]+", "_", label).strip("_") for label in labels)
    return f"{slug[:100]}-{_digest(config)}"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def undescribed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its description, which changes nothing."""
    return {name: value for name, value in config.items() if name != "description"}


def _digest_of(name: str) -> str:
    return name.rpartition("-")[2]


def _describe(error: Exception) -> str:
    text = one_line(error)
    return f"{type(error).__name__}: {text:.300}" if text else type(error).__name__


def _silent(_: str) -> None:
    """Ignore a sentence."""
