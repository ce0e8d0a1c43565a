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

TELLING = ("Blond_Hair", "Smiling", "Eyeglasses", "Male")


def straight(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Latents on the line between two, both included: `steps x latent_dim`."""
    shares = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    return start + shares * (end - start)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Latents on the great arc between two, their lengths changing evenly, both included: `steps x latent_dim`.

    In many dimensions N(0, I) lies near a sphere, which a straight line cuts (White, *Sampling generative networks*,
    2016, section 2.1). For latents of one direction, or of opposite ones, and from or to the origin, it is the line.

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
    shares = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    directions = (((1 - shares) * angle).sin() * start / lengths[0] + (shares * angle).sin() * end / lengths[1]) / (
        angle.sin()
    )
    return directions * ((1 - shares) * lengths[0] + shares * lengths[1])


def attribute_vector(guide: AmortizedGuide, split: Split, column: int, *, limit: int = 5000) -> Tensor:
    """Mean latent of the images with an attribute less that of those without: `(latent_dim,)`.

    Args:
        guide: The guide.
        split: Images with attributes.
        column: Which attribute.
        limit: Most images, the first ones.

    Raises:
        ValueError: If all of these images have it, or none.
    """
    assert split.attributes is not None
    has = split.attributes[:limit, column].cpu()
    if bool(has.all()) or not bool(has.any()):
        raise ValueError(f"Expected images with and without the attribute in column {column}; got one kind alone.")
    latents = guide.encode(split.x[:limit], transform=ToFloat())
    has = has.to(latents.device)
    return latents[has].mean(0) - latents[~has].mean(0)


def chosen_attributes(dataset: Dataset, asked: str | None, count: int = 3) -> list[int]:
    """Columns of the attributes that are shown: the one asked for, telling ones, then the most even ones.

    Attributes that all or none of the training images have are left out.
    """
    attributes = dataset.train.attributes
    if attributes is None:
        return []
    shares = attributes[:5000].double().mean(0).cpu()
    names = list(dataset.attributes)
    first = [names.index(name) for name in dict.fromkeys([asked, *TELLING]) if name in names]
    even = (shares - 0.5).abs().argsort(stable=True).tolist()
    return [column for column in dict.fromkeys([*first, *even]) if 0 < shares[column] < 1][:count]


def walk(vae: VAE, start: Tensor, vector: Tensor, steps: Sequence[float]) -> Tensor:
    """Mean images at `start[i] + steps[j] * vector`: `n x m x C x H x W` from `n x latent_dim` latents."""
    weights = torch.tensor(list(steps), dtype=start.dtype, device=start.device)
    return vae.decode(start[:, None] + weights[:, None] * vector)
