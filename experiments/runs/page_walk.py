"""The part of a run's report in which its decoder runs: where the latents lie, and what the page needs of them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.figures.style import GREY, class_styles, shortened
from latentmix.experiments.runs.captions import groups
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.page import PACKAGE
from latentmix.experiments.runs.page_decoder import describe_decoder
from latentmix.experiments.runs.page_values import (
    column_names,
    dark_colour,
    is_pictorial,
    labelled_classes,
    latent_use,
    without_paths,
)
from latentmix.guides import AmortizedGuide
from latentmix.models import Decoder, Likelihood
from latentmix.models.files import inside
from latentmix.models.pretrained import load_pretrained
from latentmix.models.reading import damaged, read_json
from latentmix.models.words import plural

__all__ = ["WALK", "walk_scripts", "walk_section", "walk_starts"]

WALK = "figures/walk.json"
SAMPLED = 2000  # test data whose samples of q tell how far the latents reach
DOTS = 500  # latents in the plane
SLIDERS = 12  # shown at once
STANDARD = 3.0  # reach of a latent of which nothing is known
MOST_VALUES = 100  # values of a point, which the page lists
MOST_SHOWN = 24
MOST_PIXELS = 300_000  # bytes of test images, unless two have more


def walk_starts(
    guide: AmortizedGuide, dataset: Dataset, latents: LatentSplit, rows: Tensor, *, seed: int
) -> dict[str, Any]:
    """The range of the latents of a run and starting points among them, for `walk.json`.

    Args:
        guide: The guide.
        dataset: The data.
        latents: Latents of the test data.
        rows: Rows of the test data to start from; of large images the first are taken.
        seed: Seed of samples of q.

    Returns:
        The ends of each latent over samples of q, `low` and `high`, which leave out one in two hundred at either side
        and then a little is added, their mean `centre`, the `latents` and `labels` of the rows, their `pixels` if they
        are images (base64 of bytes), and of two dimensions a sample of all, the `plane`, with their labels.
    """
    split = dataset.test
    samples = guide.draw(split.first(SAMPLED).x, transform=ToFloat(), seed=seed).cpu().double()
    low, high = samples.quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
    margin = (0.1 * (high - low)).maximum(1e-3 * (1 + samples.mean(0).abs()))
    shown = split.take(rows[: max(2, MOST_PIXELS // math.prod(dataset.shape))].to(split.x.device))
    starts: dict[str, Any] = {
        "low": _rounded(low - margin),
        "high": _rounded(high + margin),
        "centre": _rounded(samples.mean(0)),
        "latents": _rounded(guide.encode(shown.x, transform=ToFloat()).cpu().double()),
        "labels": None if shown.labels is None else shown.labels.cpu().tolist(),
    }
    if dataset.pictorial:
        starts["pixels"] = base64.b64encode(shown.x.cpu().numpy().tobytes()).decode()
    if latents.latents.shape[1] == 2:
        places = np.linspace(0, len(latents.latents) - 1, min(DOTS, len(latents.latents))).astype(int)
        of_labels = None if latents.labels is None else latents.labels[places].tolist()
        starts["plane"] = {"latents": _rounded(latents.latents[places]), "labels": of_labels}
    return starts


def walk_section(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of `walk.html`, from the files of a run; `None` of a run without weights.

    Args:
        folder: The folder of the run; its decoder is that of `checkpoints/`, and its latents those of `walk.json`.
        summary: The contents of `summary.json`.

    Returns:
        A mapping whose `reason` is a sentence where the decoder cannot run in a page; else `data` is what the script
        reads, and the rest is for the page's elements.

    Raises:
        ValueError: If a file is a link.
    """
    checkpoints, starts_file = inside(folder, "checkpoints"), inside(folder, WALK)
    if not all(inside(checkpoints, f"vae.{ending}").exists() for ending in ("json", "safetensors")):
        return None
    try:
        described = _read_decoder(checkpoints)
    except ValueError as error:
        return {"reason": without_paths(str(error), folder)}
    classes, latent_dim, shape = labelled_classes(summary), described["latent_dim"], described["shape"]
    pictorial, values = is_pictorial(shape), math.prod(shape)
    starts, note = _no_starts(latent_dim), ""
    if starts_file.exists():
        try:
            starts = _read_starts(starts_file, latent_dim, values)
        except ValueError:
            note = "Where test data lie cannot be read from walk.json."
    usage = latent_use(summary, latent_dim)
    order = sorted(range(latent_dim), key=lambda k: -usage[k]) if usage else range(latent_dim)
    sliders = [
        {
            "index": k,
            "name": f"z{k + 1}",
            "usage": usage[k] if usage else None,
            **{end: starts[end][k] for end in ("low", "high", "centre")},
        }
        for k in order
    ]
    group = groups(summary)[0]
    names = [_name(row, label, classes, group) for row, label in enumerate(starts["labels"], 1)]
    plane = starts.get("plane")
    colours = _colours(classes, plane["labels"] if plane else ())
    return {
        "reason": "",
        "note": note,
        "megabytes": described["bytes"] / 1e6,
        "pictorial": pictorial,
        "first": sliders[:SLIDERS],
        "more": sliders[SLIDERS:],
        "names": names,
        "plane": bool(plane),
        "legend": [(shortened(classes[label]), light, dark) for label, light, dark in colours if label is not None],
        "features": [] if pictorial else column_names(summary, values),
        "data": {
            "decoder": described,
            "low": starts["low"],
            "high": starts["high"],
            "centre": starts["centre"],
            "latents": starts["latents"],
            "pixels": starts.get("pixels", "") if pictorial else "",
            "plane": plane,
            "colours": {str(label): [light, dark] for label, light, dark in colours},
            "units": None if pictorial else _units(summary, values),
        },
    }


def walk_scripts() -> list[Markup]:
    """The scripts of the section, in their order."""
    folder = resources.files(PACKAGE)
    return [Markup(folder.joinpath(name).read_text("utf-8")) for name in ("decoder.js", "walk.js")]


def _read_decoder(checkpoints: Path) -> dict[str, Any]:
    """The decoder of a run for the script; the classes of its other parts may be unknown.

    Raises:
        ValueError: If it cannot be read, or cannot run in a page.
    """
    file = inside(checkpoints, "vae.json")
    with damaged(file, "the description of a VAE"):
        parts = read_json(file, "the description of a VAE")["init_args"]
        own = {name: str(parts[name]["class_path"]) for name in ("decoder", "likelihood")}
    for name, path in own.items():
        if not path.startswith("latentmix."):
            raise ValueError(f"Its {name} is of the class {path:.100}, for which there is no JavaScript.")
    described = describe_decoder(
        load_pretrained(checkpoints, "vae", Decoder, part="decoder"),  # type: ignore[type-abstract]
        load_pretrained(checkpoints, "vae", Likelihood, part="likelihood"),  # type: ignore[type-abstract]
    )
    if not is_pictorial(described["shape"]) and math.prod(described["shape"]) > MOST_VALUES:
        raise ValueError(
            f"Expected grey or colour images, or points of at most {MOST_VALUES} values; got {described['shape']}."
        )
    return described


def _rounded(values: Tensor | NDArray[np.float64]) -> Any:
    """Nested lists of five significant digits."""
    rounded = np.vectorize(lambda value: float(f"{value:.5g}"), otypes=[float])(np.asarray(values))
    return rounded.tolist()


def _no_starts(latent_dim: int) -> dict[str, Any]:
    """Latents of a standard normal, in a run of an earlier version."""
    ends = {"low": -STANDARD, "high": STANDARD, "centre": 0.0}
    return {**{name: [end] * latent_dim for name, end in ends.items()}, "latents": [], "labels": []}


def _read_starts(file: Path, size: int, values: int) -> dict[str, Any]:
    """The values of `walk_starts`, read and checked."""
    starts = read_json(file, "where latents lie")
    try:
        ends = {name: _matrix([starts[name]], 1, size)[0] for name in ("low", "high", "centre")}
        latents = _matrix(starts["latents"], MOST_SHOWN, size)
        checked: dict[str, Any] = {**ends, "latents": latents, "labels": _labels(starts["labels"], len(latents))}
        if not all(low < high for low, high in zip(ends["low"], ends["high"], strict=True)):
            raise ValueError
        if "pixels" in starts:
            pixels = base64.b64decode(starts["pixels"], validate=True)
            if len(pixels) != len(latents) * values:
                raise ValueError
            checked["pixels"] = base64.b64encode(pixels).decode()
        if "plane" in starts and size == 2:
            places = _matrix(starts["plane"]["latents"], DOTS, size)
            checked["plane"] = {"latents": places, "labels": _labels(starts["plane"]["labels"], len(places))}
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(
            f"Expected where latents of {plural(size, 'dimension')} lie in {file}; got something else."
        ) from error
    return checked


def _matrix(rows: Any, most: int, width: int) -> list[list[float]]:
    values = np.asarray(rows, dtype=np.float64).reshape(len(rows), width)
    if len(values) > most or not (np.abs(values) < 1e6).all():
        raise ValueError
    return values.tolist()


def _labels(labels: Any, count: int) -> list[int | None]:
    if labels is None:
        return [None] * count
    if len(labels) != count or not all(isinstance(label, int) for label in labels):
        raise ValueError
    return list(labels)


def _name(row: int, label: int | None, classes: Mapping[int, str], group: str) -> str:
    return str(row) if label is None else f"{row}, {group} {shortened(classes.get(label, str(label)))}"


def _colours(classes: Mapping[int, str], labels: Sequence[int | None]) -> list[tuple[int | None, str, str]]:
    """Colours of labels on light and on dark pages, of one that is no class in grey."""
    present = [label for label in classes if label in labels]
    named = dict(zip(classes, class_styles(len(classes)), strict=True))
    return [(label, light := named[label][0], dark_colour(light)) for label in present] or [
        (None, GREY, dark_colour(GREY))
    ]


def _units(summary: Mapping[str, Any], count: int) -> dict[str, Any] | None:
    """Centre and scale of the data's own units, of points that are standardised."""
    units = (summary.get("data") or {}).get("standardisation")
    if not units or len(units["centre"]) != count:
        return None
    return {"centre": units["centre"], "scale": units["scale"]}
