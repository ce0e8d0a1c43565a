"""The points, images and fits of the map in a run's report, as one file of bounded size."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.figures.planes import latent_plane
from latentmix.experiments.figures.style import Array
from latentmix.experiments.options.names import fit_name
from latentmix.experiments.runs.component_names import component_names
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.packed import pack
from latentmix.experiments.runs.projections import Projections
from latentmix.inference.isolation import isolated

__all__ = ["MAP", "MOST_POINTS", "STEPS", "map_points"]

MAP = "figures/map.json"
MOST_POINTS = 10_000
MOST_BYTES = 4_000_000  # of latents, responsibilities and values, before packing
MOST_SPRITE = 2_000_000  # bytes of the images
MOST_PIXELS = 12_000_000  # of the images that a first sprite holds
MOST_PARAMETERS = 600_000  # numbers in the means and covariances of all fits
MOST_VALUES = 100  # values of a point
LONGEST_SIDE = 16_383  # pixels of a WebP picture
STEPS = 16_383  # from one end of the widest latent to the other


def map_points(
    dataset: Dataset,
    latents: LatentSplit,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    agreement: Mapping[str, Any],
    projections: Projections | None,
) -> dict[str, Any] | None:
    """The contents of `map.json`: test latents, their images, and each fit's responsibilities and components.

    Of many test data evenly spaced ones are taken, so that the file stays small: at most 10,000, and fewer where each
    has many latents or there are many components. Responsibilities are those of the latents (plug-in).

    Args:
        dataset: The data.
        latents: Latents of the test data.
        mixtures: Fitted mixtures by inference and label budget.
        agreement: The figures of that name in a summary, whose order of components gives these their names.
        projections: Projections of some latents; their t-SNE becomes a choice of axes.

    Returns:
        A mapping of plain values, arrays packed by `pack`: `count` points out of `total`; `latents`, int16 multiples
        of `step` from `centre`, a latent after the other; `labels`, places among the classes; `plane`, origin and
        directions of the principal components above two dimensions; `tsne` with its `rows`; `images`, a WebP picture of
        `columns` images side by side, with their `rows`; or `values` of points; and `fits`. `None` of latents with less
        than two dimensions.
    """
    total, size = latents.latents.shape
    if size < 2 or not total:
        return None
    groups = list(_groups(mixtures))
    components = sum(next(iter(budgets.values())).mixture.n_components for _, budgets in groups)
    width = math.prod(dataset.shape) if _valued(dataset) else 0
    count = min(total, MOST_POINTS, max(1, MOST_BYTES // (2 * size + components + 4 * width)))
    rows = np.linspace(0, total - 1, count).astype(np.int64)
    z = latents.latents[rows]
    centre = (z.max(axis=0) + z.min(axis=0)) / 2
    step = float(max(np.ptp(z, axis=0).max() / STEPS, 1e-12))
    values: dict[str, Any] = {
        "count": count,
        "total": total,
        "centre": centre.tolist(),
        "step": step,
        "latents": pack(np.rint((z - centre) / step).T, "<i2"),
        "labels": None,
        "plane": None,
        "tsne": None,
        "images": None,
        "values": None,
        "fits": _fits(groups, z, agreement),
    }
    if latents.labels is not None and dataset.classes:
        values["labels"] = pack(np.searchsorted(dataset.classes, latents.labels[rows]), "<u2")
    if size > 2:
        plane = latent_plane(latents.latents)
        values["plane"] = {"origin": plane.origin.tolist(), "directions": plane.directions.T.tolist()}
        values["plane"]["explained"] = list(plane.explained)
        if projections is not None and "t-SNE" in projections.points:
            values["tsne"] = _tsne(rows, projections)
    taken = torch.from_numpy(rows)
    if dataset.pictorial and dataset.shape[0] in (1, 3):
        values["images"] = _images(dataset.test.x, taken)
    elif width:
        restored = dataset.restore(dataset.test.x[taken.to(dataset.test.x.device)])
        values["values"] = pack(restored.cpu().numpy().T, "<f4")
    return values


def _valued(dataset: Dataset) -> bool:
    return not dataset.pictorial and math.prod(dataset.shape) <= MOST_VALUES


def _tsne(rows: NDArray[np.int64], projections: Projections) -> dict[str, Any] | None:
    """Places of those points that are projected, from 0 to 65,535 on either axis."""
    shared, places, among = np.intersect1d(rows, projections.rows, return_indices=True)
    if not len(shared):
        return None
    points = projections.points["t-SNE"][among]
    low, extent = points.min(axis=0), max(float(np.ptp(points, axis=0).max()), 1e-12)
    return {
        "count": len(shared),
        "rows": pack(places, "<u2"),
        "points": pack(np.rint((points - low) / extent * 65_535).T, "<u2"),
    }


def _images(x: Tensor, rows: Tensor) -> dict[str, Any]:
    """A sprite of the images of these rows, or of evenly spaced ones among them."""
    count = min(len(rows), max(1, MOST_PIXELS // math.prod(x.shape[1:])))
    while True:
        places = np.linspace(0, len(rows) - 1, count).astype(np.int64)
        images = x[rows[places].to(x.device)].cpu().numpy()
        columns, data = _sprite(images)
        if columns and (len(data) <= MOST_SPRITE or count == 1):
            break
        count = max(1, min(count - 1, int(0.95 * count * (MOST_SPRITE / len(data) if columns else 0.5))))
    return {"columns": columns, "count": count, "rows": pack(places, "<u2"), "data": base64.b64encode(data).decode()}


def _sprite(images: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Images side by side as a lossless picture, and how many a row holds; 0 if the sides would be too long."""
    count, channels, height, width = images.shape
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    lines = -(-count // columns)
    if columns * width > LONGEST_SIDE or lines * height > LONGEST_SIDE:
        return 0, b""
    filled = np.zeros((lines * columns, channels, height, width), np.uint8)
    filled[:count] = images
    pixels = filled.reshape(lines, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:4], 3)).reshape(lines * height, columns * width, 3)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", lossless=True, quality=30, method=1)
    return columns, buffer.getvalue()


def _groups(
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
) -> Iterator[tuple[str, dict[str, FittedMixture]]]:
    """Inference and label budgets of each mixture; budgets that only give its components classes share one."""
    for inference, budgets in mixtures.items():
        shared: list[dict[str, FittedMixture]] = []
        for budget, fitted in budgets.items():
            for group in shared:
                if _same(next(iter(group.values())), fitted):
                    group[budget] = fitted
                    break
            else:
                shared.append({budget: fitted})
        for group in shared:
            yield inference, group


def _same(first: FittedMixture, second: FittedMixture) -> bool:
    """Whether two mixtures have the same parameters."""
    with isolated():
        one, other = first.mixture.parameters_, second.mixture.parameters_
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("weights", "means", "covariances"))


def _fits(
    groups: Sequence[tuple[str, dict[str, FittedMixture]]], z: Array, agreement: Mapping[str, Any]
) -> list[dict[str, Any]]:
    ems = {budget: fitted for inference, group in groups if inference == "em" for budget, fitted in group.items()}
    left, fits = MOST_PARAMETERS, []
    for inference, group in groups:
        mixture = next(iter(group.values())).mixture
        with isolated():
            parameters = mixture.parameters_
            means, covariances = parameters.means.cpu().numpy(), parameters.expanded_covariances().cpu().numpy()
        responsibilities = mixture.predict_proba(z)
        described: dict[str, Any] = {
            "inference": inference,
            "components": mixture.n_components,
            "responsibilities": pack(np.rint(255 * np.sqrt(responsibilities)).T, "<u1"),
            "assigned": pack(responsibilities.argmax(axis=1), "<u2"),
            "means": None,
            "scales": None,
            "covariances": None,
            "budgets": {
                budget: _budget(inference, budget, fitted, responsibilities, ems, agreement)
                for budget, fitted in group.items()
            },
        }
        lower = np.tril_indices(means.shape[1])
        if (numbers := len(means) * (means.shape[1] + len(lower[0]))) <= left:
            left -= numbers
            described["means"] = pack(means, "<f4")
            scales = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2).max(axis=0))
            described["scales"] = scales.astype(np.float64).tolist()
            described["covariances"] = pack((covariances / np.outer(scales, scales))[:, *lower], "<f2")
        fits.append(described)
    return fits


def _budget(
    inference: str,
    budget: str,
    fitted: FittedMixture,
    responsibilities: Array,
    ems: Mapping[str, FittedMixture],
    agreement: Mapping[str, Any],
) -> dict[str, Any]:
    """Class, name and predictions of a mixture under a budget: places among the classes."""
    places = {label: place for place, label in enumerate(fitted.classes)}
    predicted = fitted.by_class(responsibilities).argmax(axis=1)
    return {
        "names": _names(inference, budget, fitted, ems, agreement),
        "classes": [places[label] for label in fitted.component_classes],
        "predicted": pack(predicted, "<u2") if fitted.classes else None,
    }


def _names(
    inference: str,
    budget: str,
    fitted: FittedMixture,
    ems: Mapping[str, FittedMixture],
    agreement: Mapping[str, Any],
) -> list[str]:
    """Names of components: those of EM that they are aligned with, unless they stand for another class."""
    count, shown = fitted.mixture.n_components, dict(zip(fitted.classes, fitted.class_names, strict=True))
    own = component_names(fitted.component_classes, shown, count)
    fit = "few" if budget == "few" else "none"
    key = fit if inference == "svi" else f"none, EM and {fit_name(inference)}"
    order, em = agreement.get(key, {}).get("order"), ems.get(budget)
    if inference == "em" or em is None or order is None or len(order) != count or em.mixture.n_components != count:
        return own
    like, names = component_names(em.component_classes, shown, count), list(own)
    for k, place in enumerate(order):
        if not fitted.classes or fitted.component_classes[place] == em.component_classes[k]:
            names[place] = like[k]
        else:
            names[place] = shown[fitted.component_classes[place]]
    return names
