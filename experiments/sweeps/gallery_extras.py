"""Pictures of a gallery that no run draws: of sweeps, selections, attributes and calibration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from latentmix.experiments import figures
from latentmix.experiments.comparison.compare import compare_runs
from latentmix.experiments.comparison.pictures import comparison_pictures
from latentmix.experiments.data.base import Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.runs.run import load_run
from latentmix.experiments.runs.selection import Choice, choose
from latentmix.experiments.runs.walks import attribute_vector, walk
from latentmix.experiments.sweeps.sweep import sweep
from latentmix.inference.diagnostics.calibration import Fitted, calibrate

__all__ = ["EXTRAS", "Extra", "Job"]

QUICK_SWEEP = [
    *("--data.limit", "600", "--epochs", "5", "--measure.images", "100"),
    *("--mixture.draws", "1", "--mixture.n_init", "1", "--mixture.svi.epochs", "50"),
]


@final
@dataclass(frozen=True)
class Job:
    """The arguments of an extra's drawing.

    Args:
        folder: Its folder.
        out: The folder of the gallery, with its runs.
        full: Whether to draw at full length.
        n_jobs: Number of processes.
    """

    folder: Path
    out: Path
    full: bool
    n_jobs: int


@final
@dataclass(frozen=True)
class Extra:
    """Pictures that no run draws.

    Args:
        command: The command that draws one, or the function.
        needs: The run that it starts from, if it does from one.
        draw: Draws them.
        captions: By file name without its ending, caption and alternative text.
    """

    command: str
    needs: str
    draw: Callable[[Job], None]
    captions: Mapping[str, tuple[str, str]]


def _sweep(job: Job) -> None:
    grid = {"prior": ["StandardNormal", "MixturePrior"], "latent_dim": ["2", "5", "10"]}
    results = sweep("digits", [] if job.full else QUICK_SWEEP, grid, job.folder, n_jobs=job.n_jobs, tell=lambda _: None)
    places = {}
    for cell in results["cells"]:
        if cell["status"] == "done":
            test = json.loads((job.folder / "cells" / cell["id"] / "summary.json").read_text())["test"]
            places[", ".join(cell["options"].values())] = (test["kl"], -test["log_likelihood"])
    figures.save(figures.rate_distortion(places, measure="mass on {0, 1}"), job.folder / "rate_distortion.png")


def _comparison(job: Job) -> None:
    """The cells of the sweep, side by side."""
    captions = EXTRAS["comparison"].captions
    for picture in comparison_pictures(compare_runs([job.out / "sweep"])):
        if picture.stem in captions:
            figures.save(picture.figure, job.folder / f"{picture.stem}.png")


def _select(job: Job) -> None:
    quick = Choice((2, 6, 10, 14), points=500, starts=1, mode_starts=4, folds=2, draws=50, n_jobs=job.n_jobs)
    choose(job.out / "digits", Choice(range(1, 21), n_jobs=job.n_jobs) if job.full else quick, job.folder)


def _attributes(job: Job) -> None:
    """Vectors of attributes that follow from the class of a digit."""
    run = load_run(job.out / "digits")
    dataset = run.data
    rows = {}
    start = run.guide.encode(dataset.test.x[:3], transform=ToFloat())
    steps = (-2.0, -1.0, 0.0, 1.0, 2.0)
    for name, digits in {"Closed_loop": (0, 6, 8, 9), "Is_a_one": (1,)}.items():
        split = _with_attribute(dataset.train, digits)
        rows[name] = walk(run.vae, start, attribute_vector(run.guide, split, 0), steps)
    images = ToFloat()(dataset.test.x[:3])
    figures.save(figures.attribute_vectors(images, rows, steps), job.folder / "attributes.png")


def _with_attribute(split: Split, classes: Sequence[int]) -> Split:
    assert split.labels is not None
    return replace(split, attributes=torch.isin(split.labels, torch.tensor(list(classes)))[:, None])


def _calibration(job: Job) -> None:
    """Ranks among draws of the posterior of a normal mean, and among draws that are too narrow."""

    def simulate(seed: int) -> tuple[Any, Any]:
        mean, noise = np.random.default_rng(seed).normal(size=2)
        return mean, mean + noise

    def fit(scale: float) -> Callable[[Any, int], Fitted[Any]]:
        deviation = scale * np.sqrt(0.5)
        return lambda x, seed: Fitted(x / 2 + deviation * np.random.default_rng(seed).normal(size=19))

    def quantities(mean: Any, x: Any) -> dict[str, Any]:
        return {"mean": mean, "log-likelihood": -0.5 * (x - mean) ** 2}

    reports = {
        name: calibrate(simulate, fit(scale), quantities, n_draws=19)
        for name, scale in {"exact posterior": 1.0, "too narrow": 0.6}.items()
    }
    figures.save(figures.ecdf_differences(reports), job.folder / "calibration.png")


EXTRAS = {
    "sweep": Extra(
        "latentmix sweep digits --grid prior=StandardNormal,MixturePrior --grid latent_dim=2,5,10",
        "",
        _sweep,
        {
            "sweep": (
                "Every cell of a grid of priors and latent dimensions.",
                "A panel per figure, a row per prior, a column per latent dimension, shaded by the figure.",
            ),
            "learning_curves": (
                "The negative ELBO of every cell on validation data, epoch by epoch.",
                "A line per cell, which falls along the epochs.",
            ),
            "rate_distortion": (
                "Rate and distortion of the cells, against one measure.",
                "A point per cell of the sweep: distortion falls as the rate rises, along lines of equal ELBO.",
            ),
        },
    ),
    "comparison": Extra(
        "latentmix compare SWEEP",
        "",
        _comparison,
        {
            "means": (
                "Figures of the cells of the sweep, side by side; of several seeds with intervals over these.",
                "Rows of marks for six configurations, a panel per figure.",
            ),
            "differences": (
                "Differences of the cells from the first, on the same test images.",
                "Rows of marks with intervals about a line at 0, a panel per figure.",
            ),
            "learning_curves": (
                "Learning curves of the cells over one another.",
                "Falling curves of six configurations, on training and on validation data.",
            ),
        },
    ),
    "select": Extra(
        "latentmix select digits",
        "digits",
        _select,
        {
            "selection": (
                "Criteria against the number of components, for the latents of the digits.",
                "A panel per criterion with a line per covariance type and a ring at the best number of components.",
            )
        },
    ),
    "attributes": Extra(
        "latentmix.experiments.figures.attribute_vectors",
        "digits",
        _attributes,
        {
            "attributes": (
                "Attributes that follow from the class of a digit; the preset celeba draws those of faces.",
                "Rows of digits as the vector of an attribute is added to their latents, from left to right.",
            )
        },
    ),
    "calibration": Extra(
        "latentmix.experiments.figures.ecdf_differences",
        "",
        _calibration,
        {
            "calibration": (
                "Calibration of exact posterior draws of a normal mean, and of draws that are too narrow.",
                "Above, curves within their bands; below, curves of draws too narrow that leave their bands.",
            )
        },
    ),
}
