"""The pictures of a run: its data and results, drawn by `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from latentmix.experiments import figures
from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.options.names import BUDGETS, FITS
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.metrics import reconstruct
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.projections import project
from latentmix.experiments.runs.walks import attribute_vector, chosen_attributes, slerp, straight, walk
from latentmix.guides import AmortizedGuide
from latentmix.inference.isolation import isolated
from latentmix.models import VAE, MixtureParameters

__all__ = ["draw_mixtures", "draw_vae"]

MAPPED = 1000
CONFUSIONS = {
    "none": "Test images by class: no label, components matched to classes one to one",
    "few": "Test images by class: components seeded by the first draw of a few labelled images",
    "all": "Test images by class: components of the fit without labels, by their majority class",
}
HEADINGS = {
    "none": "Test latents and the mixtures fitted without labels",
    "few": "Test latents and the mixtures seeded by a few labelled images",
}


def draw_vae(
    folder: Path,
    vae: VAE,
    guide: AmortizedGuide,
    dataset: Dataset,
    history: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    *,
    attribute: str | None = None,
    seed: int,
) -> None:
    """Draw losses and, by the kind of data, images reconstructed, generated and interpolated, or points and samples.

    Args:
        folder: Folder of the pictures.
        vae: The model.
        guide: The guide.
        dataset: The data.
        history: One mapping per epoch.
        summary: The figures of the run.
        attribute: The attribute that the experiment uses as labels, if any.
        seed: Seed of samples from the prior.
    """
    figures.save(figures.losses(history), folder / "losses.png")
    test = summary["test"]
    if "kl_per_dimension" in test and vae.latent_dim > 2:
        usage = figures.latent_usage(test["kl_per_dimension"], test["active"])
        figures.save(usage, folder / "usage.png")
    if dataset.pictorial:
        _draw_images(folder, vae, guide, dataset, test, seed=seed)
        _draw_interpolation(folder, vae, guide, dataset.test)
        _draw_attributes(folder, vae, guide, dataset, attribute)
    elif dataset.truth is not None and dataset.shape == (3,):
        _draw_points(folder, vae, dataset, dataset.truth, summary["coverage"], seed=seed)
    _draw_map(folder, vae, guide, dataset, attribute, seed=seed)


def _draw_images(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, measured: Mapping[str, Any], *, seed: int
) -> None:
    split = dataset.test
    images = split.x[_shown(split)]
    figures.save(
        figures.reconstructions(
            ToFloat()(images), reconstruct(vae, guide, images), mse=measured["mse"], ssim=measured["ssim"]
        ),
        folder / "reconstructions.png",
    )
    figures.save(
        figures.generated(vae.generate(64 if dataset.shape[0] == 1 else 20, seed=seed)), folder / "generated.png"
    )
    if vae.latent_dim == 2:
        values = norm.ppf((np.arange(20) + 0.5) / 20)
        second, first = np.meshgrid(values, values, indexing="ij")
        plane = torch.from_numpy(np.stack([first, second], -1).reshape(-1, 2)).float()
        images = vae.decode(plane.to(next(vae.parameters()).device))
        figures.save(figures.decoded_grid(images, values), folder / "decoded_grid.png")


def _draw_interpolation(folder: Path, vae: VAE, guide: AmortizedGuide, split: Split, steps: int = 9) -> None:
    pair = split.x[_shown(split)[:2]]
    if len(pair) < 2:
        return
    start, end = guide.encode(pair, transform=ToFloat())
    ways = (vae.decode(way(start, end, steps)) for way in (straight, slerp))
    figures.save(figures.interpolations(ToFloat()(pair), *ways), folder / "interpolation.png")


def _draw_attributes(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, attribute: str | None, images: int = 3
) -> None:
    columns = chosen_attributes(dataset, attribute)
    if not columns:
        return
    steps = (-2.0, -1.0, 0.0, 1.0, 2.0)
    chosen = dataset.test.x[:images]
    start = guide.encode(chosen, transform=ToFloat())
    rows = {
        dataset.attributes[column]: walk(vae, start, attribute_vector(guide, dataset.train, column), steps)
        for column in columns
    }
    figures.save(figures.attribute_vectors(ToFloat()(chosen), rows, steps), folder / "attributes.png")


def _draw_points(
    folder: Path, vae: VAE, dataset: Dataset, truth: MixtureParameters, measured: Mapping[str, Any], *, seed: int
) -> None:
    real = dataset.test.x.cpu().double()
    sampled = vae.generate(len(real), mean=False, seed=seed).cpu().double()
    of_real, of_sampled = (truth.log_joint(x).argmax(1) for x in (real, sampled))
    energy = measured["energy"]
    caption = f"Energy distance {energy['statistic']:.4f}, p = {energy['p_value']:.3f} by permutations"
    components = figures.Components(truth.means, truth.expanded_covariances())
    figures.save(
        figures.points_in_space(real, sampled, of_real, of_sampled, caption=caption), folder / "points_in_space.png"
    )
    pairwise = figures.points_pairwise(real, sampled, of_real, of_sampled, components, caption=caption)
    figures.save(pairwise, folder / "points_pairwise.png")
    bars = figures.coverage(
        measured["shares"], measured["expected"], measured["covered_components"], outside=measured["outside"]
    )
    figures.save(bars, folder / "coverage.png")


def _draw_map(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, attribute: str | None, *, seed: int
) -> None:
    split = dataset.test
    columns = chosen_attributes(dataset, attribute)
    if vae.latent_dim < 2 or len(split) < 4 or (split.labels is None and not columns):
        return
    projections = project(guide.encode(split.x, transform=ToFloat()), limit=MAPPED, seed=seed)
    rows = torch.from_numpy(projections.rows)
    if columns and split.attributes is not None:
        values, name = split.attributes[:, columns[0]].cpu()[rows].numpy(), dataset.attributes[columns[0]]
    else:
        assert split.labels is not None
        values, name = split.labels.cpu()[rows].numpy(), "class" if dataset.truth is None else "component"
    numbered = None if dataset.truth is None else {label: str(label + 1) for label in dataset.classes}
    picture = figures.latent_map(
        projections.points,
        values,
        name=name,
        names_of_values=numbered,
        explained=projections.explained,
        total=len(split),
    )
    figures.save(picture, folder / "map.png")


def _shown(split: Split, count: int = 12) -> torch.Tensor:
    """Rows of the first images, the classes in turn."""
    if split.labels is None:
        return torch.arange(min(count, len(split)))
    labels = split.labels.cpu()
    by_class = [(labels == label).nonzero().flatten() for label in labels.unique()]
    turns = [rows[turn] for turn in range(count) for rows in by_class if turn < len(rows)]
    return torch.stack(turns[:count])


def draw_mixtures(
    folder: Path,
    latents: LatentSplit,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    results: Mapping[str, Any],
    classes: Sequence[int],
    *,
    pictorial: bool = True,
) -> None:
    """Draw latents under the components of both fits, confusion matrices, and EM against SVI.

    Args:
        folder: Folder of the pictures.
        latents: Latents of the test images.
        mixtures: Fitted mixtures by inference and label budget.
        results: The figures of `fit_mixtures`.
        classes: The classes.
        pictorial: Whether the data are images, and not points.
    """

    def worded(heading: str) -> str:
        return heading if pictorial else heading.replace("image", "point")

    for budget in BUDGETS:
        fitted = {name: mixtures[inference].get(budget) for inference, name in FITS.items()}
        if any(fit is None for fit in fitted.values()):
            continue
        if budget != "all" and latents.latents.shape[1] > 1:
            components = {
                name: figures.Components(parameters.means, parameters.expanded_covariances(), fit.component_classes)
                for name, fit in fitted.items()
                if fit is not None and (parameters := fit.mixture.parameters_)
            }
            with isolated():
                scatter = figures.latent_scatter(
                    latents.latents, latents.labels, components, classes, heading=worded(HEADINGS[budget])
                )
            figures.save(scatter, folder / f"latents_{budget}.png")
        if classes:
            matrices = {
                name: np.asarray(results["mixtures"][inference][budget]["confusion"])
                for inference, name in FITS.items()
            }
            confusion = figures.confusion_matrices(matrices, classes, heading=worded(CONFUSIONS[budget]))
            figures.save(confusion, folder / f"confusion_{budget}.png")

    agreement = results["agreement"]["none"]
    em = mixtures["em"]["none"]
    svi = mixtures["svi"]["none"]
    picture = figures.em_against_svi(
        {name: results["mixtures"][name]["none"]["curve"] for name in FITS},
        results["mixtures"],
        {
            "em": em.mixture.parameters_.weights,
            "svi": svi.mixture.parameters_.weights[torch.tensor(agreement["order"])],
        },
        agreement["means_per_component"],
        assigned_alike=agreement["assigned_alike"],
        names=em.component_classes or None,
    )
    figures.save(picture, folder / "em_against_svi.png")
