"""Values of a summary that the interactive parts of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentmix.experiments.figures.dark import dark_colours

__all__ = ["column_names", "dark_colour", "is_pictorial", "labelled_classes", "latent_use", "without_paths"]


def labelled_classes(summary: Mapping[str, Any]) -> dict[int, str]:
    """The name of each label."""
    data = summary.get("data") or {}
    labels = data.get("classes") or ()
    return dict(zip(labels, map(str, data.get("class_names") or labels), strict=True))


def dark_colour(colour: str) -> str:
    """A colour on white, such as `#0072b2`, as it is on a dark page."""
    light = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.uint8)
    return "#" + bytes(dark_colours(light[None])[0]).hex()


def latent_use(summary: Mapping[str, Any], latent_dim: int) -> list[float]:
    """KL divergence of each latent in nats; empty where it was not measured."""
    values = (summary.get("test") or {}).get("kl_per_dimension")
    if not isinstance(values, list) or len(values) != latent_dim:
        return []
    return [float(value) for value in values] if all(isinstance(value, int | float) for value in values) else []


def column_names(summary: Mapping[str, Any], count: int) -> list[str]:
    """The names of the values of a point."""
    columns = (summary.get("data") or {}).get("columns") or ()
    return [str(name) for name in columns] if len(columns) == count else [f"x{k + 1}" for k in range(count)]


def without_paths(sentence: str, folder: Path) -> str:
    """A sentence in which the folder is not spelled out, as a report may be passed on."""
    return sentence.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")


def is_pictorial(shape: Sequence[int]) -> bool:
    """Whether data of that shape are grey or colour images."""
    return len(shape) == 3 and shape[0] in (1, 3)
