"""Figures of a finished run on a split of its own or of another data set, and those of single test data again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import batch_transform, binarize_static, resolve_binarize
from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.runs.latents import LatentSplit, latents_of
from latentmix.experiments.runs.measures import measure_vae
from latentmix.experiments.runs.metrics import classification
from latentmix.experiments.runs.pointwise import Pointwise, pointwise_of
from latentmix.experiments.runs.run import Run
from latentmix.experiments.runs.run_data import split_of
from latentmix.inference import bound_of
from latentmix.inference.isolation import isolated

__all__ = ["evaluate_run", "measure_run"]


def evaluate_run(run: Run, data: Data, split: str, samples: int = 0) -> dict[str, Any]:
    """Measure the VAE and the mixtures of a finished run.

    Args:
        run: The run.
        data: The data.
        split: `train`, `validation`, `test`, or `all` for these together.
        samples: Samples of q per datum for the importance-weighted log-likelihood; 0 skips it.

    Returns:
        `data`, `split`, `images` (their number), the figures of `measure_vae`, and `mixtures`: by inference and label
        budget, the log-likelihood per latent in nats and, for labelled data, the figures of `classification`.

    Raises:
        ValueError: If the data cannot be read, or their shape, values or classes are not those of the run.
    """
    chosen = split_of(run.known_data.load(data), split)
    binarize = resolve_binarize(data.binarize, run.vae.likelihood)
    seen = binarize_static(chosen.x, data.seed) if binarize == "static" else chosen.x
    transform = batch_transform(binarize)
    with isolated(seed=0):
        run.vae.likelihood.check(transform(seen[:1024]))
    seed = run.config["seed"]
    trained = Experiment.from_config(experiment_parser().parse_object(run.config))
    measured = measure_vae(
        run.vae,
        run.guide,
        chosen,
        seen,
        transform=transform,
        objective=bound_of(trained.objective),
        samples=samples,
        limit=len(chosen),
        seed=seed,
    )
    latents = latents_of(run.guide, chosen, run.config["mixture"]["latents"], seed)
    return {
        "data": asdict(data),
        "split": split,
        "images": len(chosen),
        **measured.figures,
        "mixtures": _measure_mixtures(run, latents),
    }


def measure_run(run: Run) -> Pointwise:
    """Measure the test data of a finished run again, as the run did: for one of an earlier version, without the file.

    Args:
        run: The run.

    Raises:
        ValueError: If its data are no longer there.
    """
    trained = Experiment.from_config(experiment_parser().parse_object(run.config))
    seed, split = trained.training.seed, run.data.test
    binarize = resolve_binarize(trained.data.binarize, run.vae.likelihood)
    place = list(run.data.splits).index("test")
    seen = binarize_static(split.x, trained.data.seed + place) if binarize == "static" else split.x
    measured = measure_vae(
        run.vae,
        run.guide,
        split,
        seen,
        transform=batch_transform(binarize),
        objective=bound_of(trained.objective),
        samples=trained.measure.samples,
        limit=trained.measure.images,
        seed=seed,
    )
    latents = latents_of(run.guide, split, trained.mixture.latents, seed + 1)
    prior_classes = tuple(run.summary.get("prior", {}).get("component_classes", ()))
    return pointwise_of(run.vae, run.mixtures, split, seen, measured, latents, prior_classes)


def _measure_mixtures(run: Run, latents: LatentSplit) -> dict[str, Any]:
    mixtures: dict[str, Any] = {}
    for inference, budgets in run.mixtures.items():
        mixtures[inference] = {}
        for budget, fitted in budgets.items():
            figures: dict[str, Any] = {"log_likelihood": float(fitted.mixture.score(latents.latents))}
            if latents.labels is not None and fitted.classes:
                assigned = np.asarray(fitted.mixture.predict(latents.latents))
                figures |= classification(
                    latents.labels,
                    fitted.predict(latents.latents),
                    assigned,
                    fitted.classes,
                    fitted.class_names,
                )
            mixtures[inference][budget] = figures
    return mixtures
