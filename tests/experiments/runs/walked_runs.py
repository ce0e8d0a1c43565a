"""Folders of runs that were not trained, with all that a report needs to let its decoder run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.schema import Standardisation
from latentmix.experiments.runs.latents import latents_of
from latentmix.experiments.runs.page_walk import WALK, walk_starts
from latentmix.experiments.runs.pictures import shown_rows
from latentmix.guides import AmortizedGuide, DiagonalNormal, MLPEncoder
from latentmix.models import VAE, Bernoulli, Decoder, Gaussian, Likelihood, MLPDecoder, StandardNormal


def walked_run(
    folder: Path,
    latent_dim: int,
    shape: tuple[int, ...],
    *,
    decoder: Decoder | None = None,
    likelihood: Likelihood | None = None,
    names: tuple[str, str] = ("cat & dog", "<b>bird</b>"),
) -> VAE:
    """Write the files of a run of that size, and give its VAE."""
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
    split = Split(x, torch.arange(40) % 2 + 3)
    units = None if pictorial else Standardisation((10.0,) * shape[0], (2.0,) * shape[0])
    columns = () if pictorial else tuple(f"column {k}" for k in range(shape[0]))
    dataset = Dataset("own", split, split, split, (3, 4), class_names=names, columns=columns, standardisation=units)
    checkpoints = folder / "checkpoints"
    vae.save_pretrained(checkpoints)
    guide.save_pretrained(checkpoints)
    (folder / "figures").mkdir()
    starts = walk_starts(guide, dataset, latents_of(guide, split, "mean", 0), shown_rows(split), seed=0)
    (folder / WALK).write_text(json.dumps(starts))
    (folder / "summary.json").write_text(json.dumps(summary_of(dataset, latent_dim)))
    return vae.eval()


def summary_of(dataset: Dataset, latent_dim: int) -> dict[str, Any]:
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    usage = [float(k % 5) + k / 100 for k in range(latent_dim)]
    return {
        "preset": "walked",
        "data": {"source": dataset.name, "shape": list(dataset.shape), **dataset.schema.as_dict(), **sizes},
        "test": {"elbo": -1.0, "log_likelihood": -1.0, "kl": 0.5, "mse": 0.1, "kl_per_dimension": usage},
    }
