"""Empty components are reset to the points that the mixture explains worst."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import EStep
from latentmix.inference.mixtures.progress import warn
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["reset_empty", "warn_of_empty"]

# Densities of points, the points, and their likeliest components.
_Rows = tuple[Tensor, Tensor, Tensor]


def reset_empty(e_step: EStep, parameters: MixtureParameters, empty: Tensor) -> MixtureParameters:
    """Move empty components to the points of the least density, with the covariance of each one's likeliest component.

    A component as wide as the data would take all points between narrow components, however small its weight became.
    Points of weight zero, and points with missing values, are skipped.

    Args:
        e_step: The E step of the fit.
        parameters: The mixture.
        empty: `(K,)` booleans.
    """
    alive = replace(parameters, weights=parameters.weights.where(~empty, 0.0), factors=parameters.precisions_cholesky)
    count = int(empty.sum())
    density, worst, nearest = _least(e_step.points.gather(lambda: _local_least(e_step, alive, count)), count)
    worst, nearest = worst[density < torch.inf], nearest[density < torch.inf]
    places = empty.nonzero().flatten()[: len(worst)]
    means = parameters.means.clone()
    means[places] = worst.to(means)
    weights = torch.where(empty, 1.0 / len(empty), parameters.weights)
    order = torch.arange(len(empty), device=empty.device)
    order[places] = nearest.to(places)
    return replace(parameters.permuted(order), weights=weights / weights.sum(), means=means)


def warn_of_empty(count: int, *, reset: bool = True) -> None:
    """Warn of empty components, whether or not they were reset."""
    done = "were reset to the points explained worst" if reset else "remain, of weight 0"
    warn(f"{count} empty components {done}: fewer components may do.")


def _local_least(e_step: EStep, parameters: MixtureParameters, count: int) -> _Rows:
    """This process's points of the least density, on the CPU."""
    kept: list[_Rows] = []
    for joint, points, weight in e_step.scored(parameters):
        density = joint.logsumexp(1)
        unfit = density.isnan() if weight is None else density.isnan() | (weight == 0)
        density = density.where(~unfit, torch.inf)
        low = density.argsort(stable=True)[:count]
        kept = [_least([*kept, (density[low], points[low], joint[low].argmax(1))], count)]
    density, rows, nearest = kept[0]
    return density.cpu(), rows.cpu(), nearest.cpu()


def _least(parts: list[_Rows], count: int) -> _Rows:
    density, rows, nearest = map(torch.cat, zip(*parts, strict=True))
    least = density.argsort(stable=True)[:count]
    return density[least], rows[least], nearest[least]
