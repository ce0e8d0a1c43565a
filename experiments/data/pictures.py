"""Images in files of any kind, arrays and pictures, in one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentmix.experiments.data.folders import image_names
from latentmix.experiments.data.sources.arrays import load_file
from latentmix.experiments.reading.limits import MAX_GIB, MAX_PIXELS
from latentmix.experiments.reading.pictures import decode, picture_limit
from latentmix.models.reading import one_sentence

__all__ = ["load_images"]


def load_images(
    files: Sequence[Path], shape: tuple[int, ...], *, max_pixels: int = MAX_PIXELS, max_gib: float = MAX_GIB
) -> tuple[list[str], Tensor]:
    """Images from files, pictures decoded as those of training are.

    Args:
        files: `.npy` or `.npz` files of arrays, picture files, or folders of these.
        shape: Channels, height and width; pictures are cropped and resized to it, arrays must have it.
        max_pixels: Most pixels of a picture before it is resized.
        max_gib: Most memory of an array, in GiB.

    Returns:
        A name for each of the N images, and an `N x C x H x W` uint8 tensor.

    Raises:
        ValueError: If a file cannot be read, or its images have another shape.
    """
    names: list[str] = []
    parts: list[Tensor] = []
    for file in files:
        if file.suffix in (".npy", ".npz"):
            images, _ = load_file(str(file), max_gib=max_gib, option="--max_gib")
            names += [f"{file.name}:{index}" for index in range(len(images))]
        elif file.is_dir():
            listed = image_names(file)
            images = torch.cat([_decode(file / name, shape, max_pixels) for name in listed])
            names += listed
        else:
            images = _decode(file, shape, max_pixels)
            names.append(file.name)
        if tuple(images.shape[1:]) != shape:
            raise ValueError(f"Expected images of shape {shape} for this run; got {tuple(images.shape[1:])} in {file}.")
        parts.append(images)
    return names, torch.cat(parts)


def _decode(file: Path, shape: tuple[int, ...], max_pixels: int) -> Tensor:
    channels, height, width = shape
    try:
        with picture_limit(max_pixels):
            decoded = decode(file, (height, width), channels=channels, max_pixels=max_pixels, option="--max_pixels")
            return torch.tensor(decoded)[None]
    except FileNotFoundError:
        raise ValueError(f"Expected a picture, .npy or .npz file; got {file}, which is not there.") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds on what is no image
        cause = one_sentence(error).rstrip(".")
        raise ValueError(
            f"Expected a picture, .npy or .npz file; got {file}, which cannot be read as one ({cause})."
        ) from error
