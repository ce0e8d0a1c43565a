r"""Scores and observed information of a Gaussian mixture, in weights, means and covariances.

The observed information is that of the complete data less the missing information: with complete-data scores
:math:`s_{ik}`, scores :math:`s_i` and responsibilities :math:`r_{ik}`,

.. math:: I = -\nabla^2 Q - \sum_i \Bigl(\sum_k r_{ik} s_{ik} s_{ik}^\top - s_i s_i^\top\Bigr)

(Louis, *Finding the observed information matrix when using the EM algorithm*, 1982): a block for each of the
:math:`K` components, and the outer products of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.arrays import slices
from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["REMEDY", "Layout", "SingularInformationError", "derivatives", "inverse_information"]

REMEDY = "fit fewer components, a simpler covariance_type or another start; the bootstrap may still serve"

_SINGULAR = 1e-9  # smallest pivot of the information, scaled to a unit diagonal
_CHUNK = 4_000_000  # doubles of one chunk's scores


@dataclass(frozen=True)
class Layout:
    """Places of the free parameters in a vector, and in blocks `[weight, mean, variances or lower triangle]`.

    Args:
        n_components: Number of components `K`.
        n_features: Number of features `D`.
        structure: The covariance structure.
    """

    n_components: int
    n_features: int
    structure: CovarianceStructure

    @classmethod
    def of(cls, parameters: MixtureParameters) -> Layout:
        """The layout of a mixture's parameters."""
        n_components, n_features = parameters.means.shape
        return cls(n_components, n_features, parameters.structure)

    @property
    def places(self) -> Tensor:
        """Rows and columns of the free entries of a covariance, its lower triangle or its diagonal: `2 x width`."""
        if self.structure.correlated:
            return torch.tril_indices(self.n_features, self.n_features)
        return torch.arange(self.n_features).expand(2, -1)

    def matrix(self, lower: Tensor) -> Tensor:
        """Symmetric `... x D x D` matrices of lower triangles."""
        rows, columns = self.places
        place = torch.empty(self.n_features, self.n_features, dtype=torch.long)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        return lower[..., place]

    def free(self, parameters: MixtureParameters) -> Tensor:
        """The `(p,)` free parameters."""
        covariances = parameters.covariances
        if self.structure.correlated:
            rows, columns = self.places
            covariances = covariances[..., rows, columns]
        return torch.cat([parameters.weights[:-1], parameters.means.flatten(), covariances.flatten()])

    def natural(self, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Changes of weights, means and covariances, in stored shape, by changes of the free parameters, `... x p`."""
        heads, k, d = free.shape[:-1], self.n_components, self.n_features
        first, means, rest = free.split([k - 1, k * d, free.shape[-1] - (k - 1) - k * d], -1)
        weights = torch.cat([first, -first.sum(-1, keepdim=True)], -1)
        shape = self.structure.covariance_shape(k, d)
        if self.structure.correlated:
            rest = self.matrix(rest.reshape(*heads, *shape[:-2], -1))
        else:
            rest = rest.reshape(*heads, *shape)
        return weights, means.reshape(*heads, k, d), rest

    def blocks(self, free: Tensor) -> Tensor:
        """These changes as `... x K x q` blocks, with a shared covariance in each."""
        weights, means, covariances = self.natural(free)
        rows, columns = self.places
        flat = covariances[..., rows, columns] if self.structure.correlated else covariances
        flat = flat.unsqueeze(-1) if self.structure.isotropic else flat
        flat = flat.unsqueeze(-2) if self.structure.shared else flat
        return torch.cat([weights.unsqueeze(-1), means, flat.expand(*means.shape[:-1], len(rows))], -1)


def derivatives(
    x: Tensor, parameters: MixtureParameters, layout: Layout, location: Tensor, scale: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the scores, `(p,)`, sum of their outer products and information, `p x p`, of the free parameters.

    Args:
        x: `n x D` points.
        parameters: The mixture of `(x - location) / scale`.
        layout: The places of its parameters.
        location: `(D,)`.
        scale: `(D,)`.
        weight: `(n,)` weights of the points.
    """
    k = layout.n_components
    wide = layout.blocks(torch.eye(parameters.n_parameters(), dtype=torch.float64, device=x.device))
    width = wide.shape[-1]
    complete = _complete_scores(parameters, layout)
    score = x.new_zeros(k, width, dtype=torch.float64)
    outer = score.new_zeros(k * width, k * width)
    within = score.new_zeros(k, width, width)
    counts, sums, scatter = (score.new_zeros(k, *[layout.n_features] * power) for power in range(3))
    for rows in slices(len(x), _CHUNK // (k * width)):
        part = (x[rows].double() - location) / scale
        responsibilities = parameters.responsibilities(part).T
        own = part.new_ones(len(part)) if weight is None else weight[rows]
        deviations = part - parameters.means[:, None]
        each = complete(deviations)
        total = (responsibilities[..., None] * each).transpose(0, 1).flatten(1)
        weighted = (responsibilities * own)[..., None]
        score += (own @ total).reshape(k, width)
        outer += (total * own[:, None]).T @ total
        within += (weighted * each).mT @ each
        counts += weighted.sum((1, 2))
        sums += (weighted * deviations).sum(1)
        scatter += (weighted * deviations).mT @ deviations
    known = -within - _curvature(parameters, layout, counts, sums, scatter)
    information = outer + torch.block_diag(*known)
    flat = wide.flatten(1)
    return flat @ score.flatten(), flat @ outer @ flat.T, flat @ information @ flat.T


def _complete_scores(parameters: MixtureParameters, layout: Layout) -> Callable[[Tensor], Tensor]:
    """The function from `K x n x D` deviations to gradients of log weight times density by block, `K x n x q`."""
    heads = parameters.weights.reciprocal()[:, None, None]
    precisions = torch.linalg.inv(parameters.expanded_covariances())
    rows, columns = layout.places
    halves = torch.where(rows == columns, 0.5, 1.0).to(precisions)

    def scores(deviations: Tensor) -> Tensor:
        solved = deviations @ precisions
        second = halves * (solved[..., rows] * solved[..., columns] - precisions[:, None, rows, columns])
        return torch.cat([heads.expand(*solved.shape[:2], 1), solved, second], -1)

    return scores


def _curvature(parameters: MixtureParameters, layout: Layout, counts: Tensor, sums: Tensor, scatter: Tensor) -> Tensor:
    r"""Second derivatives of the complete-data log-likelihood in each component's block: `K x q x q`.

    With precision `P`, sums `s` and scatter `S` about the mean, and `E_c` the unit change of the covariance at place
    `c`, those by a mean and a place are `-P E_c P s`, by two places `n tr(E_c P E_d P) / 2 - tr(E_c P E_d P S P)`.
    """
    k, d = parameters.means.shape
    precisions = torch.linalg.inv(parameters.expanded_covariances())
    rows, columns = layout.places
    halves = torch.where(rows == columns, 0.5, 1.0).to(precisions)

    def traces(a: Tensor, b: Tensor) -> Tensor:
        """`tr(E_c a E_d b)` of symmetric matrices for all places c and d."""

        def entries(matrix: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return matrix[:, first[:, None], second]

        total = entries(a, columns, rows) * entries(b, rows, columns)
        total = total + entries(a, columns, columns) * entries(b, rows, rows)
        total = total + entries(a, rows, rows) * entries(b, columns, columns)
        return (total + entries(a, rows, columns) * entries(b, columns, rows)) * halves[:, None] * halves

    solved = (precisions @ sums[..., None])[..., 0]
    mixed = precisions[:, :, rows] * solved[:, None, columns] + precisions[:, :, columns] * solved[:, None, rows]
    curvature = precisions.new_zeros(k, 1 + d + len(rows), 1 + d + len(rows))
    curvature[:, 0, 0] = -counts / parameters.weights.square()
    curvature[:, 1 : d + 1, 1 : d + 1] = -counts[:, None, None] * precisions
    curvature[:, 1 : d + 1, d + 1 :] = -halves * mixed
    curvature[:, d + 1 :, 1 : d + 1] = (-halves * mixed).mT
    spread = traces(precisions, precisions @ scatter @ precisions)
    curvature[:, d + 1 :, d + 1 :] = 0.5 * counts[:, None, None] * traces(precisions, precisions) - spread
    return curvature


class SingularInformationError(ValueError):
    """Raised if the information at an estimate is not positive definite.

    Args:
        reason: The likely reason, with a place `{}` for the name of each component that it names.
        components: Indices of these components, from 0.

    Example:
        >>> from latentmix.inference.mixtures.analysis.information import SingularInformationError
        >>> error = SingularInformationError("component {}, which holds 1.0 points", (2,))
        >>> print(error)
        Expected a maximum with a positive definite information; got component 3, which holds 1.0 points.
        >>> error.worded(["left", "middle", "right"])[-40:]
        'component right, which holds 1.0 points.'
    """

    def __init__(self, reason: str, components: tuple[int, ...] = ()) -> None:
        super().__init__(reason, components)
        self.reason, self.components = reason, components

    def worded(self, names: Sequence[str] | None = None) -> str:
        """The message, with names of the components; by default with their numbers from 1."""
        shown = [str(k + 1) if names is None else names[k] for k in self.components]
        return f"Expected a maximum with a positive definite information; got {self.reason.format(*shown)}."

    def __str__(self) -> str:
        return self.worded()


def inverse_information(information: Tensor, parameters: MixtureParameters, weight: float) -> Tensor:
    """Inverse of the information, `p x p`.

    Args:
        information: `p x p`.
        parameters: The mixture, of standardised points.
        weight: Total weight of the points.

    Raises:
        SingularInformationError: If it is not positive definite; the message names the likely reason.
    """
    diagonal = information.diagonal()
    scale = diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(information * scale[:, None] * scale)
    pivots = factor.diagonal().square()
    if bool((diagonal <= 0).any()) or int(failed) or not bool((pivots > _SINGULAR).all()):
        raise SingularInformationError(*_reason(parameters, weight))
    return torch.cholesky_inverse(factor) * scale[:, None] * scale


def _reason(parameters: MixtureParameters, weight: float) -> tuple[str, tuple[int, ...]]:
    """The likely reason of a singular information, and the components that it names."""
    means, covariances = parameters.means, parameters.expanded_covariances()
    width = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    apart = ((means[:, None] - means).abs() / width).amax(-1)
    differ = (covariances[:, None] - covariances).abs().amax((-2, -1)) / covariances.abs().amax((-2, -1))
    same = torch.triu((apart < 1e-2) & (differ < 1e-2), 1).nonzero()
    if len(same):
        first, second = same[0].tolist()
        return f"components {{}} and {{}}, which are one and the same: {REMEDY}", (first, second)
    held = parameters.weights * weight
    least = int(held.argmin())
    if float(held[least]) <= means.shape[1] + 1:
        points = f"{float(held[least]):.1f} points"
        return f"component {{}}, which holds {points}, fewer than features and one: {REMEDY}", (least,)
    smallest = torch.linalg.eigvalsh(covariances)[:, 0]
    least = int(smallest.argmin())
    return (
        "a likelihood that is flat or rises: the fit is far from a maximum, or on a floor (component {} has "
        f"{float(smallest[least]):.1e} of the data's variance in a direction): {REMEDY}"
    ), (least,)
