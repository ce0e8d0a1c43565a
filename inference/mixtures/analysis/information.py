r"""Scores and observed information of a Gaussian mixture, in weights, means and covariances.

The information is that of the complete data less what the unknown components take from it: with complete-data scores
:math:`s_{ik}`, scores :math:`s_i` and responsibilities :math:`r_{ik}`,

.. math:: I = -\nabla^2 Q - \sum_i \Bigl(\sum_k r_{ik} s_{ik} s_{ik}^\top - s_i s_i^\top\Bigr)

(Louis, *Finding the observed information matrix when using the EM algorithm*, 1982), which is :math:`K` blocks of
a component each, and the outer products of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["REMEDY", "Layout", "derivatives", "inverse_information"]

REMEDY = "fit fewer components, a simpler covariance_type or another start; the bootstrap may still serve"

_SINGULAR = 1e-9  # smallest pivot of the information, scaled to a unit diagonal
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Layout:
    """Where free parameters stand, in a vector and in blocks `[weight, mean, variances or lower triangle]`.

    Args:
        n_components: Number of components `K`.
        n_features: Number of features `D`.
        structure: What the covariances share.
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
    def matrices(self) -> bool:
        """Whether covariances are matrices."""
        return self.structure.name in ("full", "tied")

    @property
    def places(self) -> Tensor:
        """Rows and columns of what is free in a covariance: its diagonal, or its lower triangle; two rows."""
        if self.matrices:
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
        if self.matrices:
            rows, columns = self.places
            covariances = covariances[..., rows, columns]
        return torch.cat([parameters.weights[:-1], parameters.means.flatten(), covariances.flatten()])

    def natural(self, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What changes of the free parameters, `... x p`, change: weights, means, covariances in stored shape."""
        heads, k, d = free.shape[:-1], self.n_components, self.n_features
        first, means, rest = free.split([k - 1, k * d, free.shape[-1] - (k - 1) - k * d], -1)
        weights = torch.cat([first, -first.sum(-1, keepdim=True)], -1)
        shape = self.structure.covariance_shape(k, d)
        rest = self.matrix(rest.reshape(*heads, *shape[:-2], -1)) if self.matrices else rest.reshape(*heads, *shape)
        return weights, means.reshape(*heads, k, d), rest

    def blocks(self, free: Tensor) -> Tensor:
        """The same as `... x K x q` blocks, a covariance that is shared in each."""
        weights, means, covariances = self.natural(free)
        k, d = self.n_components, self.n_features
        if self.matrices:
            rows, columns = self.places
            flat = covariances[..., rows, columns]
            flat = flat if self.structure.name == "full" else flat.unsqueeze(-2)
        else:
            flat = covariances if self.structure.name == "diag" else covariances.unsqueeze(-1)
        width = d * (d + 1) // 2 if self.matrices else d
        return torch.cat([weights.unsqueeze(-1), means, flat.expand(*free.shape[:-1], k, width)], -1)


def derivatives(
    x: Tensor, parameters: MixtureParameters, layout: Layout, location: Tensor, scale: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the scores `(p,)`, of their outer products and the information, `p x p`, of the free parameters.

    Args:
        x: `n x D` points.
        parameters: The mixture of `(x - location) / scale`.
        layout: Where its parameters stand.
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
    rows = max(1, _CHUNK // (k * width))
    for first in range(0, len(x), rows):
        part = (x[first : first + rows].double() - location) / scale
        shares = parameters.responsibilities(part).T
        own = part.new_ones(len(part)) if weight is None else weight[first : first + rows]
        deviations = part - parameters.means[:, None]
        each = complete(deviations)
        total = (shares[..., None] * each).transpose(0, 1).flatten(1)
        weighted = (shares * own)[..., None]
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
    """Gradients of log weight times density in each component's block, of `K x n x D` deviations: `K x n x q`."""
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

    With precision `P`, sums `s` and scatter `S` about the mean, and `E_c` the change of the covariance in the place
    `c`, those in a mean and a place are `-P E_c P s`, in two places `n tr(E_c P E_d P) / 2 - tr(E_c P E_d P S P)`.
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


def inverse_information(information: Tensor, parameters: MixtureParameters, weight: float) -> Tensor:
    """Inverse of the information, `p x p`.

    Args:
        information: `p x p`.
        parameters: The mixture, of standardised points.
        weight: Total weight of the points.

    Raises:
        ValueError: If it is not positive definite, with the reason that can be found.
    """
    diagonal = information.diagonal()
    scale = diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(information * scale[:, None] * scale)
    pivots = factor.diagonal().square()
    if bool((diagonal <= 0).any()) or int(failed) or not bool((pivots > _SINGULAR).all()):
        raise ValueError(f"Expected a maximum with a positive definite information; got {_reason(parameters, weight)}.")
    return torch.cholesky_inverse(factor) * scale[:, None] * scale


def _reason(parameters: MixtureParameters, weight: float) -> str:
    means, covariances = parameters.means, parameters.expanded_covariances()
    width = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    apart = ((means[:, None] - means).abs() / width).amax(-1)
    differ = (covariances[:, None] - covariances).abs().amax((-2, -1)) / covariances.abs().amax((-2, -1))
    same = torch.triu((apart < 1e-2) & (differ < 1e-2), 1).nonzero()
    if len(same):
        first, second = same[0].tolist()
        return f"components {first} and {second}, which are one and the same: {REMEDY}"
    needed = means.shape[1] + 1
    held = parameters.weights * weight
    least = int(held.argmin())
    if float(held[least]) <= needed:
        return f"component {least}, which holds {float(held[least]):.1f} points, fewer than features and one: {REMEDY}"
    smallest = torch.linalg.eigvalsh(covariances)[:, 0]
    least = int(smallest.argmin())
    return (
        f"a likelihood that is flat or rises: the fit is far from a maximum, or on a floor (component {least} has "
        f"{float(smallest[least]):.1e} of the data's variance in a direction): {REMEDY}"
    )
