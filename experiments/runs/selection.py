"""The number of components for the latents of a run or a file of points: table, picture and mode report in a folder."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from latentmix.experiments.data.tables import SUFFIXES, read_table
from latentmix.experiments.figures.selection import selection_panels
from latentmix.experiments.figures.style import save
from latentmix.experiments.options.messages import blaming
from latentmix.experiments.places import another, remove_unfinished
from latentmix.experiments.reading.limits import MAX_GIB, check_count
from latentmix.experiments.runs.folders import claimed
from latentmix.experiments.runs.latents import latents_of
from latentmix.experiments.runs.run import load_run
from latentmix.inference.mixtures.analysis.candidates import Candidate
from latentmix.inference.mixtures.analysis.criteria import CRITERIA, Criterion, find_criterion
from latentmix.inference.mixtures.analysis.modes import ModeReport, modes
from latentmix.inference.mixtures.analysis.selected import Selection
from latentmix.inference.mixtures.analysis.selection import check_sizes, remeasured, select
from latentmix.models.arguments import check_n_jobs
from latentmix.models.files import inside, write_atomically
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.reading import damaged, read_json
from latentmix.models.words import plural

__all__ = ["Choice", "choose", "read_points"]

Array = NDArray[np.float64]
MARK, PICTURE = "selection.json", "selection.png"
TYPES: tuple[CovarianceType, ...] = ("full", "diag", "tied", "spherical")


@dataclass(frozen=True)
class Choice:
    """Mixtures to compare, and criteria to compare them by.

    Args:
        n_components: Numbers of components.
        covariance_types: Covariance types.
        criteria: Criteria to measure.
        criterion: The criterion that chooses the mixture of the mode report; by default BIC, or the first of
            `criteria`.
        points: Most points; more are subsampled.
        starts: Starts of every fit.
        mode_starts: Starts of the mode report.
        folds: Folds of the held-out log-likelihood.
        draws: Posterior draws for PSIS-LOO, under weak conjugate priors.
        seed: Seed of subsample, starts, folds and draws.
        n_jobs: Fits at a time; -1 for as many as there are cores.

    Raises:
        ValueError: If an option is out of its range.
    """

    n_components: Sequence[int] = tuple(range(1, 11))
    covariance_types: Sequence[CovarianceType] = TYPES
    criteria: Sequence[str] = CRITERIA
    criterion: str | None = None
    points: int = 5000
    starts: int = 5
    mode_starts: int = 20
    folds: int = 5
    draws: int = 1000
    seed: int = 0
    n_jobs: int = 1

    def __post_init__(self) -> None:
        known = self._choosable()
        if not known:
            raise ValueError(
                f"Expected one of the --criteria to choose a mixture by, such as bic; got {', '.join(self.criteria)}."
            )
        if self.criterion not in (None, *known):
            raise ValueError(f"Expected --criterion to choose by out of {', '.join(known)}; got {self.criterion!r}.")
        for kind in self.covariance_types:
            with blaming("--covariance_types"):
                covariance_structure(kind)
        least = {"points": 4, "starts": 1, "mode_starts": 2, "folds": 2, "draws": 50, "seed": 0}
        for option, fewest in least.items():
            check_count(f"--{option}", getattr(self, option), fewest)
        check_n_jobs(self.n_jobs, "--n-jobs")

    @property
    def choosing(self) -> str:
        """The criterion that chooses."""
        return self.criterion or ("bic" if "bic" in self.criteria else self._choosable()[0])

    def _choosable(self) -> list[str]:
        return [name for name in self.criteria if find_criterion(name).model == "mixture"]


def choose(
    source: Path,
    settings: Choice,
    out: Path,
    tell: Callable[[str], None] = lambda _: None,
    *,
    trust: Sequence[str] = (),
    label: str | None = None,
    columns: Sequence[str] | None = None,
    max_gib: float = MAX_GIB,
) -> tuple[Selection, ModeReport]:
    """Compare mixtures of some points by every criterion, and write the comparison into a folder.

    Args:
        source: A run's folder or a file of points, as for `read_points`.
        settings: Mixtures and criteria.
        out: A new folder, for `selection.json`, `modes.json` and `selection.png`, which are written in this order at
            the end; one without the picture, of a selection of the same source and settings that was interrupted, is
            measured anew.
        tell: Called with a sentence on each step.
        trust: Modules that the run may import.
        label: See `read_points`.
        columns: See `read_points`.
        max_gib: See `read_points`.

    Returns:
        The selection, and the mode report of the mixture that `settings.choosing` prefers.

    Raises:
        ValueError: If the folder holds anything else, the source cannot be read, an option is out of range or no fit
            succeeds.
        LockedError: If another process fills the folder.
    """
    with claimed(out, MARK, "a selection without its picture") as lock:
        _check_interrupted(out, source, settings)
        points = read_points(source, trust=trust, label=label, columns=columns, max_gib=max_gib)
        selection, report = _compare(points, settings, tell)
        chosen = selection.best(settings.choosing)
        values = {
            "source": str(source),
            "points": selection.n_points,
            "features": selection.n_features,
            "settings": asdict(settings),
            "chosen": {"n_components": chosen.n_components, "covariance_type": chosen.covariance_type},
            "preferences": selection.preferences(),
            "candidates": selection.as_rows(),
        }
        lock.check()
        remove_unfinished(out)
        for name, content in ((MARK, values), ("modes.json", report.as_dict())):
            write_atomically(inside(out, name), json.dumps(content, indent=2).encode())
        what = f"the latents of {source.resolve().name}" if source.is_dir() else source.name
        sizes = f"{plural(selection.n_points, 'point')}, {plural(selection.n_features, 'feature')}"
        panels = selection_panels(selection, heading=f"How many components for {what}? {sizes}")
        save(panels, inside(out, PICTURE))
    return selection, report


def read_points(
    source: Path,
    *,
    trust: Sequence[str] = (),
    label: str | None = None,
    columns: Sequence[str] | None = None,
    max_gib: float = MAX_GIB,
) -> Array:
    """The training latents of a finished run, or the points of a file: `n x D`.

    Args:
        source: The folder of a run, or a file as for `read_table`.
        trust: Modules that the run may import.
        label: A column of labels, which is left out.
        columns: The columns that are features; by default all others.
        max_gib: Most memory of the points of a file, in GiB.

    Raises:
        ValueError: If it is neither, holds NaN or infinity, or all points of the file are equal.
    """
    if source.is_dir():
        run = load_run(source, trust)
        latents = latents_of(run.guide, run.data.train, run.config["mixture"]["latents"], run.config["seed"]).latents
        return np.asarray(latents, dtype=np.float64)
    if not source.exists() or source.suffix not in SUFFIXES:
        raise ValueError(
            f"Expected the folder of a run, or a {', '.join(SUFFIXES)} file of points; got {str(source)!r}."
        )
    points = read_table(source, label=label, columns=columns, max_gib=max_gib, option="--max_gib").values
    if len(points) < 4:
        raise ValueError(f"Expected at least four points in {str(source)!r}; got {len(points)}.")
    if np.array_equal(points, np.broadcast_to(points[0], points.shape)):
        raise ValueError(f"Expected points that differ; got {len(points):,} equal ones in {str(source)!r}.")
    return points


def _check_interrupted(out: Path, source: Path, settings: Choice) -> None:
    """Refuse the folder of a selection that has its picture, or was of another source or of other settings."""
    if not inside(out, MARK).is_file():
        return
    if os.path.lexists(out / PICTURE):
        raise ValueError(f"Expected a new folder; got {out}, a selection that exists already: {another()}.")
    file, asked = inside(out, MARK), json.loads(json.dumps(asdict(settings)))
    with damaged(file, "a selection", remedy=f"remove it, or {another()}"):
        earlier = read_json(file, "a selection", remedy=f"remove it, or {another()}")
        was = {**earlier["settings"], "n_jobs": settings.n_jobs}
        same = was == asked and Path(earlier["source"]).name == source.name
    if not same:
        raise ValueError(
            f"Expected a new folder, or that of a selection of the same source and options; got {out}, one of others "
            f"that has no picture: {another()}."
        )


def _compare(points: Array, settings: Choice, tell: Callable[[str], None]) -> tuple[Selection, ModeReport]:
    """Every candidate for some of the points, and the optima of the chosen one."""
    taken, counted = _subsample(points, settings), plural(len(points), "point")
    if len(taken) < len(points):
        counted = f"{len(taken):,} of {counted}, drawn with seed {settings.seed} (--points)"
    tell(f"{counted}, {plural(points.shape[1], 'feature')}")
    check_sizes(settings.n_components, len(taken), settings.criteria, settings.folds)
    return _measure(taken, settings, tell)


def _subsample(points: Array, settings: Choice) -> Array:
    if len(points) <= settings.points:
        return points
    rows = np.random.RandomState(settings.seed).choice(len(points), settings.points, replace=False)
    return points[np.sort(rows)]


def _measure(points: Array, settings: Choice, tell: Callable[[str], None]) -> tuple[Selection, ModeReport]:
    """Every candidate, and the optima of the chosen one."""
    processes = any(find_criterion(name).model == "dirichlet_process" for name in settings.criteria)
    total = len(settings.covariance_types) * (len(settings.n_components) + processes)
    criterion, done = find_criterion(settings.choosing), 0

    def progress(candidate: Candidate) -> None:
        nonlocal done
        done += 1
        tell(f"[{done:{len(str(total))}}/{total}] {_describe(candidate, criterion)} ({candidate.seconds:.1f} s)")

    selection = select(
        points,
        settings.n_components,
        settings.covariance_types,
        criteria=settings.criteria,
        n_init=settings.starts,
        random_state=settings.seed,
        held_out=settings.folds,
        draws=settings.draws,
        n_jobs=settings.n_jobs,
        report=progress,
    )
    reports: dict[tuple[int, CovarianceType], ModeReport] = {}
    while True:
        chosen = selection.best(criterion.name)
        n_components, covariance_type = key = chosen.n_components, chosen.covariance_type
        if key in reports:
            return selection, reports[key]
        tell(f"modes of K = {n_components}, {covariance_type}: {plural(settings.mode_starts, 'start')}")
        with warnings.catch_warnings():  # the report has them
            warnings.simplefilter("ignore", ConvergenceWarning)
            reports[key] = modes(
                points,
                n_components,
                n_starts=settings.mode_starts,
                covariance_type=covariance_type,
                random_state=settings.seed,
                known=chosen.mixture,
                n_jobs=settings.n_jobs,
            )
        best = reports[key].mixture
        selection = remeasured(selection, points, best, draws=settings.draws, random_state=settings.seed)
        improved = next((candidate for candidate in selection.candidates if candidate.mixture is best), chosen)
        # A better optimum may have a worse ICL or PSIS-LOO, so that another candidate is chosen.
        if (description := _describe(improved, criterion)) != _describe(chosen, criterion):
            tell(f"a start fits better, {description}")


def _describe(candidate: Candidate, criterion: Criterion) -> str:
    if candidate.model == "dirichlet_process":
        name = f"Dirichlet process of at most {candidate.n_components}, {candidate.covariance_type}"
        effective = candidate.reason if candidate.n_effective is None else plural(candidate.n_effective, "component")
        return f"{name}: {effective}"
    value = criterion.value(candidate)
    measured = candidate.reason if value is None else f"{criterion.label} {value:,.{criterion.digits}f}"
    return f"K = {candidate.n_components}, {candidate.covariance_type}: {measured}"
