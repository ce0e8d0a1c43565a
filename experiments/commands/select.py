"""How many components, for the latents of a run or a file of points: table, picture and mode report in a folder."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.figures.selection import selection_panels
from latentmix.experiments.figures.style import save
from latentmix.experiments.runs.artifacts import RunFolder, load_run
from latentmix.inference.mixtures.analysis.candidates import CRITERIA, LOWER, NAMES, Candidate, Criterion, Selection
from latentmix.inference.mixtures.analysis.modes import ModeReport, modes
from latentmix.inference.mixtures.analysis.selection import check_sizes, remeasured, select
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure

__all__ = ["Choice", "choose", "component_counts", "read_points"]

Array = NDArray[np.float64]
TYPES: tuple[CovarianceType, ...] = ("full", "diag", "tied", "spherical")


@dataclass(frozen=True)
class Choice:
    """What is compared.

    Args:
        n_components: Numbers of components.
        covariance_types: Covariance types.
        criteria: Criteria that are measured.
        criterion: The one that chooses the mixture of the mode report; by default BIC, or the first of `criteria`.
        points: Most points that are taken; of more, a draw.
        starts: Starts of every fit.
        mode_starts: Starts of the mode report.
        folds: Folds of the held-out log-likelihood.
        draws: Posterior draws for PSIS-LOO, under weak conjugate priors.
        seed: Seed of everything.
        n_jobs: Fits at a time; -1 for as many as there are cores.

    Raises:
        ValueError: If one is out of its range.
    """

    n_components: Sequence[int] = tuple(range(1, 11))
    covariance_types: Sequence[CovarianceType] = TYPES
    criteria: Sequence[Criterion] = CRITERIA
    criterion: Criterion | None = None
    points: int = 5000
    starts: int = 5
    mode_starts: int = 20
    folds: int = 5
    draws: int = 1000
    seed: int = 0
    n_jobs: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.criteria if name not in CRITERIA]
        if unknown:
            raise ValueError(f"Expected criteria out of {', '.join(CRITERIA)}; got {unknown[0]!r}.")
        known = [name for name in self.criteria if name != "dirichlet_process"]
        if not known or self.criterion not in (None, *known):
            raise ValueError(f"Expected a criterion to choose by out of {', '.join(known)}; got {self.criterion!r}.")
        for kind in self.covariance_types:
            covariance_structure(kind)
        least = {"points": 4, "starts": 1, "mode_starts": 2, "folds": 2, "draws": 50, "seed": 0}
        for option, fewest in least.items():
            if getattr(self, option) < fewest:
                raise ValueError(f"Expected {option} of at least {fewest}; got {getattr(self, option)}.")
        if self.seed >= 2**32 or self.n_jobs == 0:
            raise ValueError(f"Expected a seed below 2**32 and n_jobs other than 0; got {self.seed}, {self.n_jobs}.")

    @property
    def choosing(self) -> Criterion:
        """The criterion that chooses."""
        first: Criterion = next(name for name in self.criteria if name != "dirichlet_process")
        return self.criterion or ("bic" if "bic" in self.criteria else first)


def component_counts(text: str) -> list[int]:
    """The numbers that `1..10` or `2,5,8` or a mix of both stands for.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> from latentmix.experiments.commands.select import component_counts
        >>> component_counts("1..3,10")
        [1, 2, 3, 10]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        if not first.strip().isdecimal() or (dots and not last.strip().isdecimal()):
            raise ValueError(f"Expected numbers of components as 1..10 or 2,5,8; got {text!r}.")
        found += range(int(first), int(last if dots else first) + 1)
    if not found or min(found) < 1:
        raise ValueError(f"Expected numbers of components from 1, as 1..10 or 2,5,8; got {text!r}.")
    return sorted(set(found))


def read_points(source: Path) -> Array:
    """The training latents of a finished run, or the points of a file: `n x D`.

    Args:
        source: The folder of a run, a `.npy` file of an `n x D` array (or of `n` numbers), or a `.csv` file of numbers
            with or without a line of names.

    Raises:
        ValueError: If it is none of these, or holds NaN or infinity.
    """
    if source.is_dir():
        return _latents(source)
    if not source.is_file() or source.suffix not in (".npy", ".csv"):
        raise ValueError(f"Expected the folder of a run, or a .npy or .csv file of points; got {str(source)!r}.")
    points = _array(source) if source.suffix == ".npy" else _rows(source)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or len(points) < 4 or not points.shape[1]:
        raise ValueError(f"Expected at least four points, n x D, in {str(source)!r}; got shape {points.shape}.")
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise ValueError(f"Expected finite points in {str(source)!r}; got NaN or infinity in row {int(bad.argmax())}.")
    return points


def _latents(folder: Path) -> Array:
    from latentmix.experiments.runs.pipeline import latents_of

    run = load_run(folder)
    data = Data(**run.config["data"]).load()
    latents = latents_of(run.guide, data.train, run.config["mixture"]["latents"], run.config["seed"]).latents
    return np.asarray(latents, dtype=np.float64)


def _array(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
        if np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array):
            return np.asarray(array, dtype=np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"Expected an array of numbers in {str(path)!r}; got something else.") from error
    raise ValueError(f"Expected an array of numbers in {str(path)!r}; got one of {array.dtype}.")


def _rows(path: Path) -> Array:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Expected comma-separated numbers in {str(path)!r}; got something else.") from error
    named = bool(lines) and not any(map(_is_number, lines[0][1]))
    points: list[list[float]] = []
    for number, row in lines[1 if named else 0 :]:
        if not all(map(_is_number, row)) or len(row) != len(lines[0][1]):
            raise ValueError(
                f"Expected {len(lines[0][1])} numbers in every line of {str(path)!r}; got "
                f"{','.join(row)[:60]!r} in line {number}."
            )
        points.append([float(word) for word in row])
    return np.array(points, dtype=np.float64).reshape(len(points), len(lines[0][1]) if lines else 0)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def choose(
    source: Path, settings: Choice, out: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[Selection, ModeReport]:
    """Compare mixtures of some points by every criterion, and write what they say.

    Args:
        source: What `read_points` reads.
        settings: What is compared.
        out: A new folder, for `selection.json`, `selection.png` and `modes.json`.
        tell: Is called with a sentence on each step.

    Returns:
        The selection, and the mode report of the mixture that `settings.choosing` prefers.

    Raises:
        ValueError: If the folder is there, the source cannot be read, an option is out of range or no fit succeeds.
    """
    RunFolder.refuse_existing(out)
    points = read_points(source)
    taken, counted = _taken(points, settings), f"{len(points):,} points"
    if len(taken) < len(points):
        counted = f"{len(taken):,} of {counted}, drawn with seed {settings.seed} (--points)"
    tell(f"{counted}, {points.shape[1]} feature{'s' * (points.shape[1] > 1)}")
    check_sizes(settings.n_components, len(taken), settings.criteria, settings.folds)
    folder = RunFolder.create(out)
    try:
        selection, report = _measured(taken, settings, tell)
    except BaseException:
        folder.path.rmdir()
        raise
    chosen = selection.best(settings.choosing)
    folder.write_json(
        "selection.json",
        {
            "source": str(source),
            "points": selection.n_points,
            "features": selection.n_features,
            "settings": asdict(settings),
            "chosen": {"n_components": chosen.n_components, "covariance_type": chosen.covariance_type},
            "preferences": selection.preferences(),
            "candidates": selection.as_rows(),
        },
    )
    folder.write_json("modes.json", report.as_dict())
    what = f"the latents of {source.resolve().name}" if source.is_dir() else source.name
    heading = f"How many components for {what}? {selection.n_points:,} points, {selection.n_features} "
    save(
        selection_panels(selection, heading=f"{heading}feature{'s' * (selection.n_features > 1)}"),
        folder.path / "selection.png",
    )
    return selection, report


def _taken(points: Array, settings: Choice) -> Array:
    if len(points) <= settings.points:
        return points
    rows = np.random.RandomState(settings.seed).choice(len(points), settings.points, replace=False)
    return points[np.sort(rows)]


def _measured(points: Array, settings: Choice, tell: Callable[[str], None]) -> tuple[Selection, ModeReport]:
    """Every candidate, and the optima of the one that is chosen."""
    total = len(settings.covariance_types) * (len(settings.n_components) + ("dirichlet_process" in settings.criteria))
    done = 0

    def progress(one: Candidate) -> None:
        nonlocal done
        done += 1
        tell(f"[{done:{len(str(total))}}/{total}] {_told(one, settings.choosing)} ({one.seconds:.1f} s)")

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
        chosen = selection.best(settings.choosing)
        n_components, covariance_type = asked = chosen.n_components, chosen.covariance_type
        if asked in reports:
            return selection, reports[asked]
        tell(f"modes of K = {n_components}, {covariance_type}: {settings.mode_starts} starts")
        with warnings.catch_warnings():  # they stand in the report
            warnings.simplefilter("ignore", ConvergenceWarning)
            reports[asked] = modes(
                points,
                n_components,
                n_starts=settings.mode_starts,
                covariance_type=covariance_type,
                random_state=settings.seed,
                known=chosen.mixture,
                n_jobs=settings.n_jobs,
            )
        best = reports[asked].mixture
        selection = remeasured(selection, points, best, draws=settings.draws, random_state=settings.seed)
        found = next((one for one in selection.candidates if one.mixture is best), chosen)
        # Of a better optimum ICL and PSIS-LOO may be worse, and another candidate be chosen.
        if (said := _told(found, settings.choosing)) != _told(chosen, settings.choosing):
            tell(f"a start fits better, {said}")


def _told(one: Candidate, criterion: Criterion) -> str:
    """A candidate in a few words."""
    if one.model == "dirichlet_process":
        name = f"Dirichlet process of at most {one.n_components}, {one.covariance_type}"
        return f"{name}: {one.reason if one.n_effective is None else f'{one.n_effective} components'}"
    value = getattr(one, criterion)
    said = one.reason if value is None else f"{NAMES[criterion]} {value:,.{1 if criterion in LOWER else 4}f}"
    return f"K = {one.n_components}, {one.covariance_type}: {said}"
