"""Finished runs to compare: folders of runs, the cells of a sweep, and runs in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentmix.experiments.options.experiment import experiment_parser, plain
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.run import Run, load_run
from latentmix.experiments.runs.stored import read_history
from latentmix.models.display import Displayed
from latentmix.models.files import inside
from latentmix.models.reading import damaged, read_json

__all__ = ["Source", "is_sweep", "read_sources"]

SWEEP = "sweep.json"


@dataclass(frozen=True, repr=False)
class Source(Displayed):
    """A finished run as a comparison takes it: its configuration and figures; its networks where they are needed.

    Args:
        name: Its name in the comparison.
        path: Its folder; `None` for a run in memory that was read from none.
        config: The complete configuration.
        summary: The figures of `summary.json`.
        history: The records of its epochs.
        trust: Modules that its configuration may import.
        loaded: The run, if it was given in memory.
    """

    name: str
    path: Path | None
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    trust: tuple[str, ...] = ()
    loaded: Run | None = field(default=None, repr=False)

    @property
    def importance_samples(self) -> int:
        """Samples of the importance-weighted log-likelihood of its test data; 0 where it was not measured."""
        weighted = self.summary["test"].get("iw")
        samples = weighted.get("samples") if isinstance(weighted, Mapping) else None
        return samples if isinstance(samples, int) else 0

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that it was made with."""
        versions = self.summary.get("versions")
        return {str(name): str(each) for name, each in versions.items()} if isinstance(versions, Mapping) else {}

    def load(self) -> Run:
        """The run with its networks and mixtures; raises as `load_run` does."""
        if self.loaded is not None:
            return self.loaded
        assert self.path is not None
        return load_run(self.path, self.trust)


def is_sweep(path: Path) -> bool:
    """Whether a path is the folder of a sweep."""
    return inside(path, SWEEP).is_file()


def read_sources(runs: Sequence[str | Path | Run], trust: Iterable[str] = ()) -> tuple[list[Source], list[str]]:
    """Read finished runs; a sweep stands for its finished cells.

    Args:
        runs: Folders of runs or of sweeps, or runs.
        trust: Modules of a user's own that configurations may name.

    Returns:
        The runs, of unique names; and sentences on cells that are left out.

    Raises:
        ValueError: If a folder is none of a finished run, or one stands there twice.
    """
    trust = tuple(trust)
    places: list[Path | Run] = []
    refusals: list[str] = []
    for run in runs:
        if isinstance(run, Run):
            places.append(run)
        elif is_sweep(path := Path(run)):
            cells, left_out = _cells(path)
            places += cells
            refusals += left_out
        else:
            places.append(path)
    _refuse_repeated(places)
    names = _names([place.path if isinstance(place, Run) else place for place in places])
    return [_read(name, place, trust) for name, place in zip(names, places, strict=True)], refusals


def _read(name: str, place: Path | Run, trust: tuple[str, ...]) -> Source:
    if isinstance(place, Run):
        known = place.path is not None and inside(place.path, "metrics.jsonl").is_file()
        return Source(name, place.path, place.config, place.summary, place.history if known else [], trust, place)
    folder = RunFolder.existing(place, trust)
    summary = folder.read_summary()
    config = plain(experiment_parser(), folder.read_config())
    return Source(name, place, config, summary, read_history(inside(place, "metrics.jsonl")), trust)


def _cells(path: Path) -> tuple[list[Path], list[str]]:
    """The folders of the finished cells of a sweep, and a sentence on the others."""
    file = inside(path, SWEEP)
    results = read_json(file, "the results of a sweep")
    finished: list[Path] = []
    others: dict[str, list[str]] = {}
    with damaged(file, "the results of a sweep"):
        for record in results["cells"]:
            name, status = str(record["id"]), str(record["status"])
            if status == "done" and inside(path, f"cells/{name}/summary.json").is_file():
                finished.append(inside(path, f"cells/{name}"))
            else:
                others.setdefault("unfinished" if status in ("waiting", "done") else status, []).append(name)
    if not finished:
        raise ValueError(f"Expected a sweep with finished cells; got {path}, which has none: finish the sweep first.")
    sentences = [f"Cells of {path} left out, {status}: {', '.join(names)}." for status, names in sorted(others.items())]
    return finished, sentences


def _refuse_repeated(places: Sequence[Path | Run]) -> None:
    seen: dict[Any, Path | Run] = {}
    for place in places:
        path = place.path if isinstance(place, Run) else place
        key: Any = id(place) if path is None else path.resolve()
        if key in seen:
            shown = "one twice" if path is None else f"{path} twice"
            raise ValueError(f"Expected different runs to compare; got {shown}: name each once.")
        seen[key] = place


def _names(paths: Sequence[Path | None]) -> list[str]:
    """The shortest ends of paths that tell them apart, of as many parts in each; `run N` without a path."""
    parts = [() if path is None else path.resolve().parts[1:] for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(each[-length:]) if each else f"run {number}" for number, each in enumerate(parts, 1)]
        if len(set(names)) == len(names):
            return names
    return [f"run {number}" for number in range(1, len(paths) + 1)]
