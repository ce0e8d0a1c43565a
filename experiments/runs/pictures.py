"""The pictures of a run: which data go into which figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from latentmix.experiments import figures as plots
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
    """Draw losses and what the data allow: images rebuilt, generated and interpolated, or points and samples.

    Args:
        folder: Where the pictures go.
        vae: The model.
        guide: The guide.
        dataset: The data.
        history: One mapping per epoch.
        summary: The figures of the run.
        attribute: The attribute that the experiment is about, if any.
        seed: Seed of what is drawn from the prior.
    """
    plots.save(plots.losses(history), folder / "losses.png")
    figures = summary["test"]
    if "kl_per_dimension" in figures and vae.latent_dim > 2:
        usage = plots.latent_usage(figures["kl_per_dimension"], figures["active"])
        plots.save(usage, folder / "usage.png")
    if dataset.pictorial:
        _draw_images(folder, vae, guide, dataset, figures, seed=seed)
        _draw_interpolation(folder, vae, guide, dataset.test)
        _draw_attributes(folder, vae, guide, dataset, attribute)
    elif dataset.truth is not None and dataset.shape == (3,):
        _draw_points(folder, vae, dataset, dataset.truth, summary["coverage"], seed=seed)
    _draw_map(folder, vae, guide, dataset, attribute, seed=seed)


def _draw_images(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, figures: Mapping[str, Any], *, seed: int
) -> None:
    split = dataset.test
    images = split.x[_shown(split)]
    plots.save(
        plots.reconstructions(
            ToFloat()(images), reconstruct(vae, guide, images), mse=figures["mse"], ssim=figures["ssim"]
        ),
        folder / "reconstructions.png",
    )
    plots.save(plots.generated(vae.generate(64 if dataset.shape[0] == 1 else 20, seed=seed)), folder / "generated.png")
    if vae.latent_dim == 2:
        values = norm.ppf((np.arange(20) + 0.5) / 20)
        second, first = np.meshgrid(values, values, indexing="ij")
        plane = torch.from_numpy(np.stack([first, second], -1).reshape(-1, 2)).float()
        images = vae.decode(plane.to(next(vae.parameters()).device))
        plots.save(plots.decoded_grid(images, values), folder / "decoded_grid.png")


def _draw_interpolation(folder: Path, vae: VAE, guide: AmortizedGuide, split: Split, steps: int = 9) -> None:
    pair = split.x[_shown(split)[:2]]
    if len(pair) < 2:
        return
    start, end = guide.encode(pair, transform=ToFloat())
    ways = (vae.decode(way(start, end, steps)) for way in (straight, slerp))
    plots.save(plots.interpolations(ToFloat()(pair), *ways), folder / "interpolation.png")


def _draw_attributes(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, asked: str | None, images: int = 3
) -> None:
    columns = chosen_attributes(dataset, asked)
    if not columns:
        return
    steps = (-2.0, -1.0, 0.0, 1.0, 2.0)
    chosen = dataset.test.x[:images]
    start = guide.encode(chosen, transform=ToFloat())
    rows = {
        dataset.attributes[column]: walk(vae, start, attribute_vector(guide, dataset.train, column), steps)
        for column in columns
    }
    plots.save(plots.attribute_vectors(ToFloat()(chosen), rows, steps), folder / "attributes.png")


def _draw_points(
    folder: Path, vae: VAE, dataset: Dataset, truth: MixtureParameters, figures: Mapping[str, Any], *, seed: int
) -> None:
    real = dataset.test.x.cpu().double()
    sampled = vae.generate(len(real), mean=False, seed=seed).cpu().double()
    of_real, of_sampled = (truth.log_joint(x).argmax(1) for x in (real, sampled))
    energy = figures["energy"]
    caption = f"Energy distance {energy['statistic']:.4f}, p = {energy['p_value']:.3f} by permutations"
    components = plots.Components(truth.means, truth.expanded_covariances())
    plots.save(
        plots.points_in_space(real, sampled, of_real, of_sampled, caption=caption), folder / "points_in_space.png"
    )
    pairwise = plots.points_pairwise(real, sampled, of_real, of_sampled, components, caption=caption)
    plots.save(pairwise, folder / "points_pairwise.png")
    bars = plots.coverage(
        figures["shares"], figures["expected"], figures["covered_components"], outside=figures["outside"]
    )
    plots.save(bars, folder / "coverage.png")


def _draw_map(folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, asked: str | None, *, seed: int) -> None:
    split = dataset.test
    columns = chosen_attributes(dataset, asked)
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
    picture = plots.latent_map(
        projections.points,
        values,
        name=name,
        names_of_values=numbered,
        explained=projections.explained,
        total=len(split),
    )
    plots.save(picture, folder / "map.png")


def _shown(split: Split, count: int = 12) -> torch.Tensor:
    """The first images of each class in turn."""
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
    figures: Mapping[str, Any],
    classes: Sequence[int],
    *,
    pictorial: bool = True,
) -> None:
    """Draw latents under the components of both fits, confusion matrices, and EM against SVI.

    Args:
        folder: Where the pictures go.
        latents: Latents of the test images.
        mixtures: Fitted mixtures by inference and budget of labels.
        figures: What `fit_mixtures` measured.
        classes: The classes.
        pictorial: Whether the data are images, and not points.
    """

    def worded(heading: str) -> str:
        return heading if pictorial else heading.replace("image", "point")

    for budget in BUDGETS:
        fitted = {name: mixtures[inference].get(budget) for inference, name in FITS.items()}
        if any(one is None for one in fitted.values()):
            continue
        if budget != "all" and latents.latents.shape[1] > 1:
            components = {
                name: plots.Components(parameters.means, parameters.expanded_covariances(), one.component_classes)
                for name, one in fitted.items()
                if one is not None and (parameters := one.mixture.parameters_)
            }
            with isolated():
                scatter = plots.latent_scatter(
                    latents.latents, latents.labels, components, classes, heading=worded(HEADINGS[budget])
                )
            plots.save(scatter, folder / f"latents_{budget}.png")
        if classes:
            matrices = {
                name: np.asarray(figures["mixtures"][inference][budget]["confusion"])
                for inference, name in FITS.items()
            }
            confusion = plots.confusion_matrices(matrices, classes, heading=worded(CONFUSIONS[budget]))
            plots.save(confusion, folder / f"confusion_{budget}.png")

    agreement = figures["agreement"]["none"]
    em = mixtures["em"]["none"]
    svi = mixtures["svi"]["none"]
    picture = plots.em_against_svi(
        {name: figures["mixtures"][name]["none"]["curve"] for name in FITS},
        figures["mixtures"],
        {
            "em": em.mixture.parameters_.weights,
            "svi": svi.mixture.parameters_.weights[torch.tensor(agreement["order"])],
        },
        agreement["means_per_component"],
        assigned_alike=agreement["assigned_alike"],
        names=em.component_classes or None,
    )
    plots.save(picture, folder / "em_against_svi.png")


CONFUSIONS = {
    "none": "Test images by class: no label, components matched to classes one to one",
    "few": "Test images by class: components seeded by the first draw of a few labelled images",
    "all": "Test images by class: components of the fit without labels, by their majority class",
}
HEADINGS = {
    "none": "Test latents and the mixtures fitted without labels",
    "few": "Test latents and the mixtures seeded by a few labelled images",
}
