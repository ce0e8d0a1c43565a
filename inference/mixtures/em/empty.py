"""Empty components are started anew at the worst explained points."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.deconvolution import log_joint_under_noise, shrunk
from latentmix.inference.mixtures.em.density import log_joint
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.inference.mixtures.progress import warn
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["occupied", "reseed", "warn_of_empty"]

_CHUNK = 1_000_000
# Densities of points, the points, and their likeliest components.
_Rows = tuple[Tensor, Tensor, Tensor]


def reseed(
    points: Tensor | Points,
    parameters: MixtureParameters,
    empty: Tensor,
    noise: Tensor | None = None,
) -> MixtureParameters:
    """Start empty components anew, each at a worst explained point with the covariance of its likeliest component.

    One as wide as the data would claim whatever lies between narrow components, however small its weight became.
    Points of weight zero, and points with missing values, are skipped.

    Args:
        points: `n x D` points.
        parameters: The mixture.
        empty: `(K,)` booleans.
        noise: Covariances of the noise of the points, as `expectation_under_noise` takes them.
    """
    points = as_points(points)
    alive = replace(parameters, weights=parameters.weights.where(~empty, 0.0), factors=parameters.precisions_cholesky)
    worst, nearest = _worst(points, alive, int(empty.sum()), noise)
    places = empty.nonzero().flatten()[: len(worst)]
    means = parameters.means.clone()
    means[places] = worst.to(means)
    weights = torch.where(empty, 1.0 / len(empty), parameters.weights)
    order = torch.arange(len(empty), device=empty.device)
    order[places] = nearest.to(places)
    copies = parameters.permuted(order)
    return replace(copies, weights=weights / weights.sum(), means=means)


def occupied(statistics: SufficientStatistics) -> SufficientStatistics:
    """Statistics by which empty components have the mean and covariance of the heaviest one.

    Nothing was learnt about them, and this changes no density: their counts stay as they are.
    """
    empty = statistics.empty
    if not bool(empty.any()):
        return statistics
    heaviest = statistics.counts.argmax()
    share = statistics.divisors / statistics.divisors[heaviest]

    def copied(values: Tensor, factor: Tensor) -> Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        return torch.where(empty.reshape(shape), values[heaviest] * factor.reshape(shape), values)

    tied = statistics.structure.name == "tied"
    return replace(
        statistics,
        centres=copied(statistics.centres, torch.ones_like(share)),
        sums=copied(statistics.sums, share),
        scatter=statistics.scatter if tied else copied(statistics.scatter, share),
    )


def warn_of_empty(count: int, *, again: bool = True) -> None:
    """Warn of empty components, whether or not they were started again."""
    done = "were started anew at the worst explained points" if again else "remain, of weight 0"
    warn(f"{count} empty components {done}: fewer components may do.")


def _worst(points: Points, parameters: MixtureParameters, count: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The points of the least density, without their noise, on all processes, and their likeliest components."""
    found = points.gather(lambda: _own_worst(points, parameters, count, noise))
    density, rows, nearest = _least(found, count)
    return rows[density < torch.inf], nearest[density < torch.inf]


def _own_worst(points: Points, parameters: MixtureParameters, count: int, noise: Tensor | None) -> _Rows:
    """Those of this process, on the CPU."""
    n_components, n_features = parameters.means.shape
    found: list[_Rows] = []
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
        found = [_least([*found, (density[low], moved, joint[low].argmax(1))], count)]
        first += len(x)
    density, rows, nearest = found[0]
    return density.cpu(), rows.cpu(), nearest.cpu()


def _least(found: list[_Rows], count: int) -> _Rows:
    density, rows, nearest = map(torch.cat, zip(*found, strict=True))
    least = density.argsort(stable=True)[:count]
    return density[least], rows[least], nearest[least]
