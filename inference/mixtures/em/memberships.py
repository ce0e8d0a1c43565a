"""Mixtures by one M step from given assignments or responsibilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentmix.inference.mixtures.em.e_step import ExactPoints
from latentmix.inference.mixtures.em.empty import reset_empty, warn_of_empty
from latentmix.inference.mixtures.em.kernels import Centred, Expanded, Kernel, accurate
from latentmix.inference.mixtures.em.m_step import keep_empty, maximize
from latentmix.inference.mixtures.em.statistics import SufficientStatistics
from latentmix.inference.mixtures.points.points import Points, as_points
from latentmix.models.mixture.covariances import CovarianceStructure, covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["Membership", "from_assignments", "from_memberships", "from_responsibilities", "from_seeds"]

# Called at the start of a pass over this process's points. It returns a function from a chunk of them and their rows to
# their assignments, `(b,)`, or responsibilities, `b x K`.
Membership = Callable[[], Callable[[Tensor, slice], Tensor]]


def from_seeds(
    x: Tensor | Points,
    seeds: Tensor,
    structure: CovarianceStructure,
    *,
    metric: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from all points, each assigned to the nearest of `K x D` seeds.

    Args:
        x: `n x D` points.
        seeds: `K x D`.
        structure: What the covariances share.
        metric: A `D x D` map under which distances are Euclidean; by default the identity.
        sample_weight: `(n,)` weights; `Points` hold their own.
        reg_covar: Variance added to the diagonals.
    """
    points = as_points(x, sample_weight)
    seeds = seeds.double()
    targets = seeds - points.location if metric is None else (seeds - points.location) @ metric
    halves = targets.square().sum(1)[:, None] / 2

    def nearest(part: Tensor, _: slice) -> Tensor:
        moved = part - points.location
        moved = moved if metric is None else moved @ metric
        return torch.addmm(halves, targets, moved.mT, beta=-1).max(0).indices

    return from_memberships(points, lambda: nearest, seeds, structure, reg_covar)


def from_assignments(
    x: Tensor | Points,
    assignments: Tensor,
    n_components: int,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from `(n,)` hard assignments of this process's points."""
    points = as_points(x, sample_weight)
    centres = points.location.expand(n_components, -1)
    return from_memberships(points, lambda: lambda _, rows: assignments[rows], centres, structure, reg_covar)


def from_responsibilities(
    x: Tensor | Points,
    responsibilities: Tensor,
    structure: CovarianceStructure,
    *,
    sample_weight: Tensor | None = None,
    reg_covar: float = 1e-6,
) -> MixtureParameters:
    """One M step from `n x K` responsibilities of this process's points."""
    points = as_points(x, sample_weight)
    centres = points.location.expand(responsibilities.shape[1], -1)
    return from_memberships(points, lambda: lambda _, rows: responsibilities[rows], centres, structure, reg_covar)


def from_memberships(
    points: Points, membership: Membership, centres: Tensor, structure: CovarianceStructure, reg_covar: float
) -> MixtureParameters:
    """One M step, with moments about the location where that is accurate, else about the means of a first pass.

    Args:
        points: `n x D` points.
        membership: Assignments or responsibilities, pass by pass.
        centres: `K x D`, anything near the means.
        structure: What the covariances share.
        reg_covar: Variance added to the diagonals.
    """
    wide = _as_wide_as(points, centres, structure)
    if not _expands(points, wide):
        wide = _as_wide_as(points, centres, covariance_structure("diag"))
    statistics = _statistics(points, membership, Expanded(wide, points.location))
    parameters, _ = maximize(statistics, reg_covar, points.variance)
    if statistics.structure is not structure or not _expands(points, parameters):
        statistics = _statistics(points, membership, Centred(_as_wide_as(points, parameters.means, structure)))
        parameters, _ = maximize(statistics, reg_covar, points.variance)
    if bool(statistics.empty.any()):
        parameters = reset_empty(ExactPoints(points), parameters, statistics.empty)
        warn_of_empty(int(statistics.empty.sum()))
    return parameters


def _as_wide_as(points: Points, means: Tensor, structure: CovarianceStructure) -> MixtureParameters:
    """Components as wide as the points, of the same weight."""
    n_components = len(means)
    covariances = means.new_zeros(structure.covariance_shape(*means.shape))
    wide = structure.regularize(covariances, points.variance)
    return MixtureParameters(means.new_full((n_components,), 1 / n_components), means, wide, structure)


def _expands(points: Points, parameters: MixtureParameters) -> bool:
    return points.processes.agree(accurate(parameters, points.location, points.variance, points.radius))


def _statistics(points: Points, membership: Membership, kernel: Kernel) -> SufficientStatistics:
    """Statistics of all points under their membership."""
    return keep_empty(points.reduce(lambda: _local(points, membership, kernel)))


@torch.no_grad()
def _local(points: Points, membership: Membership, kernel: Kernel) -> SufficientStatistics:
    """Statistics of this process's points."""
    first, members_of = 0, membership()
    for x, weight in points.chunks(kernel.rows):
        kernel.log_joint(x)
        members = members_of(x.double(), slice(first, first + len(x))).to(x.device)
        responsibilities = kernel.responsibilities
        if members.ndim == 1:
            responsibilities.zero_().scatter_(0, members.long()[None], 1.0)
        else:
            responsibilities.copy_(members.mT)
        if weight is not None:
            responsibilities.mul_(weight)
        kernel.add(weight)
        first += len(x)
    return kernel.statistics()
