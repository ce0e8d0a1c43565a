"""Folders of runs that were not trained, with all that a report needs to let its decoder run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.schema import Standardisation
from latentmix.experiments.runs.latents import latents_of
from latentmix.experiments.runs.map_points import MAP, map_points
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.page_walk import WALK, walk_starts
from latentmix.experiments.runs.pictures import shown_rows
from latentmix.experiments.runs.projections import project
from latentmix.guides import AmortizedGuide, DiagonalNormal, MLPEncoder
from latentmix.inference import GaussianMixture
from latentmix.models import VAE, Bernoulli, Decoder, Gaussian, Likelihood, MLPDecoder, StandardNormal


@dataclass
class Mapped:
    """A run with a map, and what it was made of."""

    vae: VAE
    dataset: Dataset
    latents: np.ndarray
    mixtures: dict[str, dict[str, FittedMixture]]


class OwnDecoder(Decoder):
    """A decoder of a user's own, of images of 6 x 6 pixels, for which there is no JavaScript."""

    def __init__(self, latent_dim: int, shape: tuple[int, ...], outputs: int = 1) -> None:
        super().__init__(latent_dim, shape, outputs)
        self.layer = nn.Linear(latent_dim, 36)

    def decode(self, z: Tensor) -> Tensor:
        return self.layer(z).unflatten(1, (1, 1, 6, 6))


def walked_run(folder: Path, latent_dim: int, shape: tuple[int, ...], **options: Any) -> VAE:
    """Write the files of a run of that size, with options of `made_run`, and give its VAE."""
    return made_run(folder, latent_dim, shape, **options)[0]


def made_run(
    folder: Path,
    latent_dim: int,
    shape: tuple[int, ...],
    *,
    decoder: Decoder | None = None,
    likelihood: Likelihood | None = None,
    names: tuple[str, str] = ("cat & dog", "<b>bird</b>"),
    labelled: bool = True,
) -> tuple[VAE, AmortizedGuide, Dataset]:
    """Write the files of a run of that size, and give its parts."""
    torch.manual_seed(0)
    pictorial = len(shape) == 3
    likelihood = likelihood or (Bernoulli() if pictorial else Gaussian())
    decoder = decoder or MLPDecoder(latent_dim, (32,), shape, outputs=likelihood.outputs)
    vae = VAE(decoder, StandardNormal(latent_dim), likelihood)
    guide = AmortizedGuide(MLPEncoder(latent_dim, (32,), shape), DiagonalNormal())
    with torch.no_grad():
        for parameter in [*vae.parameters(), *guide.encoder.parameters()]:
            if parameter.dim() > 1:
                parameter.mul_(3)
    x = torch.randint(0, 256, (40, *shape), dtype=torch.uint8) if pictorial else torch.randn(40, *shape)
    split = Split(x, torch.arange(40) % 2 + 3 if labelled else None)
    units = None if pictorial else Standardisation((10.0,) * shape[0], (2.0,) * shape[0])
    columns = () if pictorial else tuple(f"column {k}" for k in range(shape[0]))
    known = {"classes": (3, 4), "class_names": names} if labelled else {}
    dataset = Dataset("own", split, split, split, columns=columns, standardisation=units, **known)
    checkpoints = folder / "checkpoints"
    vae.save_pretrained(checkpoints)
    guide.save_pretrained(checkpoints)
    (folder / "figures").mkdir()
    starts = walk_starts(guide, dataset, latents_of(guide, split, "mean", 0), shown_rows(split), seed=0)
    (folder / WALK).write_text(json.dumps(starts))
    (folder / "summary.json").write_text(json.dumps(summary_of(dataset, latent_dim)))
    return vae.eval(), guide, dataset


def mapped_run(folder: Path, latent_dim: int, shape: tuple[int, ...], **options: Any) -> Mapped:
    """Write a run with a map of its latents, under mixtures of three components."""
    vae, guide, dataset = made_run(folder, latent_dim, shape, **options)
    latents = latents_of(guide, dataset.test, "mean", 0)
    first, second = (GaussianMixture(3, random_state=seed).fit(latents.latents) for seed in (0, 1))
    classes = {"none": (3, 4, 3), "all": (4, 4, 3), "few": (4, 3, 3)} if dataset.classes else {"none": ()}
    mixtures = {
        name: {
            budget: FittedMixture(second if budget == "few" else mixture, dataset.classes, of, dataset.class_names)
            for budget, of in classes.items()
        }
        for name, mixture in (("em", first), ("svi", second))
    }
    agreement = {budget: {"order": [2, 0, 1]} for budget in ("none", "few")}
    projections = project(latents.latents, limit=20) if latent_dim > 2 else None
    values = map_points(dataset, latents, mixtures, agreement, projections)
    (folder / MAP).write_text(json.dumps(values))
    return Mapped(vae, dataset, latents.latents, mixtures)


def summary_of(dataset: Dataset, latent_dim: int) -> dict[str, Any]:
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    usage = [float(k % 5) + k / 100 for k in range(latent_dim)]
    return {
        "preset": "walked",
        "data": {"source": dataset.name, "shape": list(dataset.shape), **dataset.schema.as_dict(), **sizes},
        "test": {"elbo": -1.0, "log_likelihood": -1.0, "kl": 0.5, "mse": 0.1, "kl_per_dimension": usage},
    }
