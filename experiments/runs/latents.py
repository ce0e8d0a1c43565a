"""Latents of a split of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentmix.experiments.data.base import Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.guides import AmortizedGuide
from latentmix.models.display import Displayed

__all__ = ["LatentSplit", "latents_of"]


@dataclass(frozen=True, repr=False)
class LatentSplit(Displayed):
    """Latents and labels of one split.

    Args:
        latents: An `N x latent_dim` float64 array.
        labels: N labels, or `None`.
    """

    latents: NDArray[np.float64]
    labels: NDArray[np.int64] | None


def latents_of(guide: AmortizedGuide, split: Split, which: str, seed: int) -> LatentSplit:
    """Latents of the original data of a split, not of a binary draw of them.

    Args:
        guide: The guide.
        split: The data.
        which: `mean` for the means of q, `sample` for one sample of q each.
        seed: Seed of the samples.
    """
    if which == "mean":
        latents = guide.encode(split.x, transform=ToFloat())
    else:
        latents = guide.draw(split.x, transform=ToFloat(), seed=seed)
    labels = None if split.labels is None else split.labels.cpu().numpy()
    return LatentSplit(latents.cpu().double().numpy(), labels)
