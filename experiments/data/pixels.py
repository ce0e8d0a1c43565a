"""Pixels as a likelihood needs them: bytes, floats in [0, 1], and binary draws of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from latentmix.models import Likelihood

__all__ = [
    "Binarization",
    "DynamicBinarization",
    "ToFloat",
    "batch_transform",
    "binarize_static",
    "resolve_binarize",
    "to_bytes",
]

Binarization = Literal["none", "static", "dynamic"]

CONVERT = "convert them to a torch tensor of uint8 in 0..255, or of floats in [0, 1]"


@final
@dataclass(frozen=True)
class ToFloat:
    """Map a batch of any shape to floats in [0, 1]: bytes are divided by 255, True is 1, and floats are unchanged.

    Raises:
        ValueError: On integers other than bytes, whose range is unknown.

    Example:
        >>> import torch
        >>> from latentmix.experiments.data import ToFloat
        >>> ToFloat()(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """

    def __call__(self, batch: Tensor) -> Tensor:
        """The batch as floats: float32 for bytes and booleans."""
        if isinstance(batch, Tensor):
            if batch.is_floating_point():
                return batch
            if batch.dtype == torch.bool:
                return batch.to(torch.float32)
            if batch.dtype == torch.uint8:
                return batch.to(torch.float32) / 255.0
        kind = getattr(batch, "dtype", type(batch).__name__)
        raise ValueError(f"Expected a tensor of uint8, booleans or floats; got {kind}: {CONVERT}.")


@final
@dataclass(frozen=True)
class DynamicBinarization:
    """Map a batch of any shape to float32 zeros and ones, drawn at every call; floats are unchanged.

    A pixel is 1 with probability `batch / 255` for bytes, and if it is True for booleans; draws come from torch's
    global random state (Salakhutdinov and Murray, 2008, "On the quantitative analysis of deep belief networks",
    https://doi.org/10.1145/1390156.1390266).

    Raises:
        ValueError: As `ToFloat` does.

    Example:
        >>> import torch
        >>> from latentmix.experiments.data import DynamicBinarization
        >>> DynamicBinarization()(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """

    def __call__(self, batch: Tensor) -> Tensor:
        """One draw of the batch."""
        rates = ToFloat()(batch)
        return torch.bernoulli(rates) if batch.dtype == torch.uint8 else rates


def batch_transform(binarize: Binarization) -> ToFloat | DynamicBinarization:
    """The transform of every batch in training; `static` images have been drawn before, by `binarize_static`."""
    return DynamicBinarization() if binarize == "dynamic" else ToFloat()


def resolve_binarize(binarize: Literal["auto", "none", "static", "dynamic"], likelihood: Likelihood) -> Binarization:
    """Resolve `auto` for a likelihood: `dynamic` if its `support` is `"binary"`, `none` otherwise.

    Raises:
        ValueError: If images are to be binarized for a likelihood of other data.
    """
    if binarize in ("static", "dynamic") and likelihood.support != "binary":
        raise ValueError(
            f"Expected --data.binarize none (or auto) for {type(likelihood).__name__}, whose data are not binary; got "
            f"{binarize}."
        )
    if binarize == "auto":
        return "dynamic" if likelihood.support == "binary" else "none"
    return binarize


def binarize_static(images: Tensor, seed: int) -> Tensor:
    """One fixed draw of binary images.

    Args:
        images: An `N x C x H x W` tensor of grey images, uint8 or boolean.
        seed: Seed of the draw; the global random state is not touched.

    Returns:
        A uint8 tensor of the same shape: 255 with probability `images / 255`, else 0; 255 where a boolean is True.

    Raises:
        ValueError: If the images are of another type.
    """
    if images.dtype == torch.bool:
        return images.to(torch.uint8) * 255
    if images.dtype != torch.uint8:
        raise ValueError(f"Expected uint8 or boolean images; got {images.dtype}: {CONVERT}.")
    generator = torch.Generator(images.device).manual_seed(seed)
    draw = torch.randint(0, 255, images.shape, dtype=torch.uint8, device=images.device, generator=generator)
    return (draw < images).to(torch.uint8) * 255


def to_bytes(images: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8 in 0..255, rounded."""
    return (images * 255.0).round().clamp(0, 255).to(torch.uint8)
