"""The pictures of a run: which data go into which figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from latentmix.experiments import plots
from latentmix.experiments.data import Split, ToFloat
from latentmix.experiments.metrics import reconstruct
from latentmix.experiments.mixtures import BUDGETS, FITS, FittedMixture, LatentSplit
from latentmix.guides import AmortizedGuide
from latentmix.inference.effects import isolated
from latentmix.models import VAE

__all__ = ["draw_mixtures", "draw_vae"]


def draw_vae(
    folder: Path,
    vae: VAE,
    guide: AmortizedGuide,
    split: Split,
    history: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    *,
    seed: int,
) -> None:
    """Draw losses, reconstructions, generated images and, for a plane of latents, what it decodes to.

    Args:
        folder: Where the pictures go.
        vae: The model.
        guide: The guide.
        split: Test images.
        history: One mapping per epoch.
        figures: `mse` and `ssim` of the split.
        seed: Seed of the generated images.
    """
    plots.save(plots.losses(history), folder / "losses.png")
    images = split.x[_shown(split)]
    plots.save(
        plots.reconstructions(
            ToFloat()(images), reconstruct(vae, guide, images), mse=figures["mse"], ssim=figures["ssim"]
        ),
        folder / "reconstructions.png",
    )
    plots.save(plots.generated(vae.generate(64, seed=seed)), folder / "generated.png")
    if vae.latent_dim == 2:
        values = norm.ppf((np.arange(20) + 0.5) / 20)
        second, first = np.meshgrid(values, values, indexing="ij")
        plane = torch.from_numpy(np.stack([first, second], -1).reshape(-1, 2)).float()
        images = vae.decode(plane.to(next(vae.parameters()).device))
        plots.save(plots.decoded_grid(images, values), folder / "decoded_grid.png")


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
) -> None:
    """Draw latents under the components of both fits, confusion matrices, and EM against SVI.

    Args:
        folder: Where the pictures go.
        latents: Latents of the test images.
        mixtures: Fitted mixtures by inference and budget of labels.
        figures: What `fit_mixtures` measured.
        classes: The classes.
    """
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
                    latents.latents, latents.labels, components, classes, heading=HEADINGS[budget]
                )
            plots.save(scatter, folder / f"latents_{budget}.png")
        if classes:
            matrices = {
                name: np.asarray(figures["mixtures"][inference][budget]["confusion"])
                for inference, name in FITS.items()
            }
            confusion = plots.confusion_matrices(matrices, classes, heading=CONFUSIONS[budget])
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
