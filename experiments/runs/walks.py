"""Walks through the latents of images: between two of them, and along the vector of an attribute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.guides import AmortizedGuide
from latentmix.models import VAE

__all__ = ["attribute_vector", "chosen_attributes", "slerp", "straight", "walk"]

WELL_KNOWN = ("Blond_Hair", "Smiling", "Eyeglasses", "Male")


def straight(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Latents on the line between two, both included: `steps x latent_dim`."""
    fractions = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    return start + fractions * (end - start)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Latents on the great arc between two, both included, with linearly changing norm: `steps x latent_dim`.

    In many dimensions N(0, I) concentrates near a sphere, whose inside a straight line crosses (White, *Sampling
    generative networks*, 2016, section 2.1). Between parallel or opposite latents, and from or to the origin, the arc
    is the straight line.

    Example:
        >>> import torch
        >>> from latentmix.experiments.runs.walks import slerp
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3)[1]
        tensor([0.7071, 0.7071])
    """
    lengths = start.norm(), end.norm()
    cosine = (start @ end / (lengths[0] * lengths[1]).clamp_min(1e-12)).clamp(-1, 1)
    angle = cosine.arccos()
    if float(angle.sin()) < 1e-4 or not float(min(lengths)):
        return straight(start, end, steps)
    fractions = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    directions = (
        ((1 - fractions) * angle).sin() * start / lengths[0] + (fractions * angle).sin() * end / lengths[1]
    ) / angle.sin()
    return directions * ((1 - fractions) * lengths[0] + fractions * lengths[1])


def attribute_vector(guide: AmortizedGuide, split: Split, column: int, *, limit: int = 5000) -> Tensor:
    """Mean latent of the images with an attribute minus that of those without: `(latent_dim,)`.

    Args:
        guide: The guide.
        split: Images with attributes.
        column: The attribute's column.
        limit: Most images, the first ones.

    Raises:
        ValueError: If all of these images have the attribute, or none.
    """
    assert split.attributes is not None
    has = split.attributes[:limit, column].cpu()
    if bool(has.all()) or not bool(has.any()):
        raise ValueError(f"Expected images with and without the attribute in column {column}; got one kind alone.")
    latents = guide.encode(split.x[:limit], transform=ToFloat())
    has = has.to(latents.device)
    return latents[has].mean(0) - latents[~has].mean(0)


def chosen_attributes(dataset: Dataset, requested: str | None, count: int = 3) -> list[int]:
    """Columns of the attributes to show: the requested one, well-known ones, then the most balanced ones.

    Attributes that all or none of the training images have are skipped.
    """
    attributes = dataset.train.attributes
    if attributes is None:
        return []
    frequencies = attributes[:5000].double().mean(0).cpu()
    names = list(dataset.attributes)
    first = [names.index(name) for name in dict.fromkeys([requested, *WELL_KNOWN]) if name in names]
    balanced = (frequencies - 0.5).abs().argsort(stable=True).tolist()
    return [column for column in dict.fromkeys([*first, *balanced]) if 0 < frequencies[column] < 1][:count]


def walk(vae: VAE, start: Tensor, vector: Tensor, steps: Sequence[float]) -> Tensor:
    """Mean images at `start[i] + steps[j] * vector`: `n x m x C x H x W` from `n x latent_dim` latents."""
    weights = torch.tensor(list(steps), dtype=start.dtype, device=start.device)
    return vae.decode(start[:, None] + weights[:, None] * vector)
