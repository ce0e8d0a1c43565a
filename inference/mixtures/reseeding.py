"""Components that explain nothing are started anew at the points that are explained worst."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.deconvolution import log_joint_under_noise, shrunk
from latentmix.inference.mixtures.density import log_joint
from latentmix.inference.mixtures.points import Points, as_points
from latentmix.inference.mixtures.progress import warn
from latentmix.inference.mixtures.statistics import SufficientStatistics
from latentmix.models.parameters import MixtureParameters

__all__ = ["absorbed", "reseed", "widened"]

_CHUNK = 1_000_000


def reseed(
    points: Tensor | Points,
    parameters: MixtureParameters,
    empty: Tensor,
    variance: Tensor,
    noise: Tensor | None = None,
) -> MixtureParameters:
    """Start empty components anew, each at the worst explained point, as wide as the data.

    Points of weight zero, and points with missing values, are passed over.

    Args:
        points: `n x D` points.
        parameters: The mixture.
        empty: `(K,)` booleans.
        variance: `(D,)` variances of the data.
        noise: Covariances of the noise of the points, as `expectation_under_noise` takes them.
    """
    points = as_points(points)
    alive = MixtureParameters(
        parameters.weights.where(~empty, 0.0), parameters.means, parameters.covariances, parameters.structure
    )
    worst = _worst(points, alive, int(empty.sum()), noise).to(parameters.means)
    places = empty.nonzero().flatten()[: len(worst)]
    means = parameters.means.clone()
    means[places] = worst
    weights = torch.where(empty, 1.0 / len(empty), parameters.weights)
    covariances = parameters.covariances
    if parameters.structure.name != "tied":
        wide = parameters.structure.regularize(torch.zeros_like(covariances), variance)
        covariances = torch.where(empty.reshape(-1, *[1] * (covariances.ndim - 1)), wide, covariances)
    return MixtureParameters(weights / weights.sum(), means, covariances, parameters.structure)


def widened(statistics: SufficientStatistics, variance: Tensor) -> SufficientStatistics:
    """Statistics by which empty components are as wide as the data, not singular: nothing about them was learnt.

    Args:
        statistics: Those of an E step.
        variance: `(D,)` variances of the data.
    """
    empty = statistics.empty
    if statistics.structure.name == "tied" or not bool(empty.any()):
        return statistics
    scatter = statistics.divisors[:, None] * variance
    scatter = scatter.diag_embed() if statistics.scatter.ndim == 3 else scatter
    gone = empty.reshape(-1, *[1] * (scatter.ndim - 1))
    return replace(
        statistics,
        sums=torch.where(empty[:, None], 0.0, statistics.sums),
        scatter=torch.where(gone, scatter, statistics.scatter),
    )


def absorbed(parameters: MixtureParameters, count: int, variance: Tensor) -> MixtureParameters:
    """A fitted mixture whose empty components lie where the nearest other one does, so that they claim no place.

    Empty is what explains less than a hundredth of a point; a warning says so.

    Args:
        parameters: The mixture.
        count: Number of points.
        variance: `(D,)` variances of the data, in which distances are measured.
    """
    empty = parameters.weights * count < 1e-2 * parameters.weights.sum()
    if not bool(empty.any()) or bool(empty.all()):
        return parameters
    warn(
        f"A component was empty in the end: {int(empty.sum())} of {len(empty)} explain less than a hundredth of a "
        "point, and lie where the nearest other one does; fewer components may do."
    )
    held = (~empty).nonzero().flatten()
    places = parameters.means / variance.sqrt()
    order = torch.arange(len(empty), device=empty.device)
    order[empty] = held[torch.cdist(places[empty], places[held]).argmin(1)]
    return parameters.permuted(order, weights=parameters.weights)


def _worst(points: Points, parameters: MixtureParameters, count: int, noise: Tensor | None) -> Tensor:
    """The points of the least density, without their noise, on all processes: at most `count x D`."""
    found = points.gather(lambda: _own_worst(points, parameters, count, noise))
    (density,), (least,) = _least([density for density, _ in found], [row for _, row in found], count)
    return least[density < torch.inf]


def _own_worst(
    points: Points, parameters: MixtureParameters, count: int, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Those of this process, on the CPU, with their densities."""
    n_components, n_features = parameters.means.shape
    densities: list[Tensor] = []
    rows: list[Tensor] = []
    first = 0
    for x, weight in points.chunks(max(1, _CHUNK // (n_components * n_features))):
        part = x.double()
        own = None if noise is None else noise if len(noise) == 1 else noise[first : first + len(x)]
        joint = log_joint(x, parameters) if own is None else log_joint_under_noise(part, parameters, own)
        density = joint.logsumexp(1)
        unfit = density.isnan() if weight is None else density.isnan() | (weight == 0)
        density = density.where(~unfit, torch.inf)
        low = density.argsort(stable=True)[:count]
        moved = part[low] if own is None else shrunk(part[low], parameters, own if len(own) == 1 else own[low])
        densities, rows = _least([*densities, density[low]], [*rows, moved], count)
        first += len(x)
    return torch.cat(densities).cpu(), torch.cat(rows).cpu()


def _least(densities: list[Tensor], rows: list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    density = torch.cat(densities)
    least = density.argsort(stable=True)[:count]
    return [density[least]], [torch.cat(rows)[least]]
