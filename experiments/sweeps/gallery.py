"""A gallery: every picture of every preset, and of variants with few classes and dimensions, in one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

import joblib

from latentmix.experiments.options.messages import one_line
from latentmix.experiments.places import another, remove_unfinished
from latentmix.experiments.presets import presets
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.folders import claimed
from latentmix.experiments.runs.page import Picture, load_picture, write_page
from latentmix.experiments.runs.page_contents import run_pictures
from latentmix.experiments.sweeps.cells import Cell, attempt, base_configuration, finished, run_or_resume
from latentmix.experiments.sweeps.gallery_extras import EXTRAS, Extra, Job
from latentmix.inference.workers import tied
from latentmix.models.arguments import check_n_jobs
from latentmix.models.files import inside, write_atomically
from latentmix.models.reading import read_json

__all__ = ["DRAWN", "VARIANTS", "Outcome", "gallery"]

Tell = Callable[[str], None]

DRAWN = {
    "attribute_vectors": "attributes",
    "confusion_matrices": "confusion_none",
    "coverage": "coverage",
    "decoded_components": "components_none",
    "decoded_grid": "decoded_grid",
    "ecdf_differences": "calibration",
    "em_against_svi": "em_against_svi",
    "generated": "generated",
    "group_means": "means",
    "interpolations": "interpolation",
    "latent_map": "map",
    "latent_scatter": "latents_none",
    "latent_usage": "usage",
    "learning_curves": "learning_curves",
    "losses": "losses",
    "paired_differences": "differences",
    "points_in_space": "points_in_space",
    "points_pairwise": "points_pairwise",
    "posterior_forest": "posterior_forest",
    "prior_against_posterior": "prior",
    "rate_distortion": "rate_distortion",
    "reconstructions": "reconstructions",
    "reliability": "reliability_none",
    "selection_panels": "selection",
    "sweep_overview": "sweep",
    "traversals": "traversals",
    "worst_reconstructions": "worst",
}
VARIANTS = {
    "digits-2-classes": ("digits", ["--data.classes", "3,8"]),
    "digits-3-classes": ("digits", ["--data.classes", "1,4,8"]),
    "digits-diag": ("digits", ["--mixture.covariance_type", "diag"]),
    "digits_mlp2-2-classes": ("digits_mlp2", ["--data.classes", "3,8"]),
    "digits_mlp2-3-classes": ("digits_mlp2", ["--data.classes", "1,4,8"]),
    "gmm3d-2-dimensions": ("gmm3d", ["--latent_dim", "2"]),
    "gmm3d-mixture-prior": (
        "gmm3d",
        ["--prior", "MixturePrior(10, covariance_type=full)", "--start_prior", "20"],
    ),
}
QUICK = [
    *("--data.limit", "1000", "--mixture.draws", "3", "--mixture.n_init", "2", "--mixture.svi.epochs", "300"),
    *("--measure.images", "100"),
]
EPOCHS = {"digits": 30, "digits_mlp2": 30, "gmm3d": 40, "points": 200}
FEW_EPOCHS = 3
MARK = "gallery.json"


@final
@dataclass(frozen=True)
class Outcome:
    """One entry of a gallery.

    Attributes:
        name: Its name, and that of its folder.
        command: The command that does the same.
        status: `done`; `refused`, with the reason, for instance because its data are not here; or `failed`.
        reason: The reason.
        pictures: Its pictures.
    """

    name: str
    command: str
    status: str
    reason: str = ""
    pictures: tuple[Picture, ...] = ()


def gallery(
    out: Path,
    *,
    names: Sequence[str] | None = None,
    full: bool = False,
    n_jobs: int = 1,
    tell: Tell = print,
) -> list[Outcome]:
    """Run presets and variants of them, draw what runs do not draw, and write every picture into `gallery.html`.

    Every run is a run folder within `out`. Repeating the call runs only what is not finished.

    Args:
        out: The folder, new or that of an interrupted gallery.
        names: Presets; by default all. Variants are those of these presets.
        full: Whether to run presets at their full length, and not on at most 1,000 data for a few epochs.
        n_jobs: Runs at a time, -1 for as many as there are cores.
        tell: Called with a line on each finished entry.

    Returns:
        The entries in the order of the page.

    Raises:
        ValueError: If a preset is unknown, the number of runs at a time is out of its range, or the folder holds
            something else.
        KeyboardInterrupt: With a hint to continue.
    """
    check_n_jobs(n_jobs, "--n-jobs")
    known = list(presets())
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"Expected presets out of {', '.join(known)}; got {', '.join(unknown)}.")
    chosen = list(dict.fromkeys(names or known))
    runs = {name: (name, _quick(name, full)) for name in chosen}
    runs |= {name: (of, [*_quick(of, full), *words]) for name, (of, words) in VARIANTS.items() if of in chosen}
    outcomes = []
    with claimed(out, MARK, "a gallery"):
        _mark(out, full)
        try:
            for outcome in _run(runs, out, n_jobs, tell):
                outcomes.append(outcome)
            for name, extra in EXTRAS.items():
                outcomes.append(_draw(name, extra, out, full, n_jobs))
                tell(f"{name}: {outcomes[-1].status} {outcomes[-1].reason}".rstrip())
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"; the same command with --out {out} continues") from interrupt
        order = [*runs, *EXTRAS]
        outcomes.sort(key=lambda outcome: order.index(outcome.name))
        _write(out, outcomes, full)
    return outcomes


def _mark(out: Path, full: bool) -> None:
    """Note the length of the gallery in its folder, or refuse the folder of one of another length."""
    mark = inside(out, MARK)
    if mark.is_file() and read_json(mark, "the mark of a gallery") != {"full": full}:
        raise ValueError(
            f"Expected a new folder, or that of a gallery {'with' if full else 'without'} --full; got {out}, that of "
            f"another length: {another()}."
        )
    remove_unfinished(out)
    write_atomically(mark, json.dumps({"full": full}).encode())


def _quick(preset: str, full: bool) -> list[str]:
    return [] if full else [*QUICK, "--epochs", str(EPOCHS.get(preset, FEW_EPOCHS))]


def _run(runs: Mapping[str, tuple[str, list[str]]], out: Path, n_jobs: int, tell: Tell) -> Iterator[Outcome]:
    """Run what is not finished, `n_jobs` runs at a time."""
    cells, commands = [], {}
    for name, (preset, words) in runs.items():
        commands[name] = " ".join(["latentmix run", preset, *(f"'{word}'" if " " in word else word for word in words)])
        cells.append(Cell(name, {}, base_configuration(preset, words)))
    waiting = [cell for cell in cells if finished(cell, out / cell.id, pictures=True) is None]
    for cell in cells:
        if cell not in waiting:
            tell(f"{cell.id}: finished before")
            yield _outcome(cell.id, commands[cell.id], out)
    work = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)(
        joblib.delayed(tied(attempt))(cell, out / cell.id, None, True, run_or_resume) for cell in waiting
    )
    with closing(work):
        for count, (cell, result) in enumerate(work, 1):
            line = f"{result['status']}, {result['seconds']:.1f} s. {result['reason']}".rstrip(" .")
            tell(f"[{count}/{len(waiting)}] {cell.id}: {line}")
            if result["status"] == "done":
                yield _outcome(cell.id, commands[cell.id], out)
            else:
                yield Outcome(cell.id, commands[cell.id], result["status"], result["reason"])


def _outcome(name: str, command: str, out: Path) -> Outcome:
    run = RunFolder(out / name)
    pictures = run_pictures(run.path, run.read_summary(complete=False), run.read_metrics(), prefix=name)
    return Outcome(name, command, "done", pictures=tuple(pictures))


def _draw(name: str, extra: Extra, out: Path, full: bool, n_jobs: int) -> Outcome:
    folder = out / name
    if extra.needs and not (out / extra.needs / "report.html").is_file():
        return Outcome(name, extra.command, "refused", f"It needs the run {extra.needs}, which is not here.")
    if not all((folder / f"{stem}.png").is_file() for stem in extra.captions):
        try:
            extra.draw(Job(folder, out, full, n_jobs))
        except Exception as error:  # the page shows the other entries
            return Outcome(name, extra.command, "failed", one_line(error))
    pictures = [
        load_picture(folder / f"{stem}.png", stem.replace("_", " ").capitalize(), caption, alternative, prefix=name)
        for stem, (caption, alternative) in extra.captions.items()
    ]
    return Outcome(name, extra.command, "done", pictures=tuple(pictures))


def _write(out: Path, outcomes: Sequence[Outcome], full: bool) -> None:
    """Write the page: contents by entry and by picture, then every picture."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        for picture in outcome.pictures:
            by_name.setdefault(picture.name, []).append((outcome.name, picture.anchor))
    shown = {stem for outcome in outcomes for stem in _stems(out / outcome.name)}
    values = {
        "outcomes": [outcome for outcome in outcomes if outcome.status == "done"],
        "left_out": [outcome for outcome in outcomes if outcome.status != "done"],
        "by_name": by_name,
        "not_drawn": [name for name, stem in DRAWN.items() if stem not in shown],
        "full": full,
        "descriptions": presets(),
    }
    write_page(out / "gallery.html", "gallery.html", values)


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in (*folder.glob("*.png"), *folder.glob("figures/*.png"))}
