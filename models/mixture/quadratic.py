"""Log-densities of Gaussians as linear functions of quadratic features, and the rounding errors that this costs."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from latentmix.models.mixture.covariances import CovarianceStructure
from latentmix.models.mixture.features import QuadraticFeatures

__all__ = ["ExpandedPoints", "ExpansionErrorBound", "coefficients", "expansion_error"]


def coefficients(
    structure: CovarianceStructure,
    features: QuadraticFeatures,
    means: Tensor,
    precisions: Tensor,
    log_scale: Tensor,
) -> Tensor:
    """Coefficients of the features in the log-density of each component.

    Args:
        structure: The covariance structure.
        features: Those of the structure.
        means: `... x K x D`, about the common centre.
        precisions: In the stored shape.
        log_scale: `... x K`, values of the log-densities at the means.

    Returns:
        An `... x K x count` tensor in the order of the features: themselves, 1, squares and products.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.quadratic import coefficients
        >>> diagonal, means = covariance_structure("diag"), torch.tensor([[3.0]])
        >>> coefficients(diagonal, diagonal.features(1, means.device), means, torch.ones(1, 1), torch.zeros(1))
        tensor([[ 3.0000, -4.5000, -0.5000]])
    """
    if not structure.correlated:
        linear = structure.by_component(precisions) * means
    elif structure.shared:
        linear = means @ precisions
    else:
        linear = (precisions @ means.unsqueeze(-1)).squeeze(-1)
    parts = [linear, torch.sub(log_scale, (linear * means).sum(-1), alpha=0.5).unsqueeze(-1)]
    if features.size:
        squares = features.coefficients(precisions)
        shape = (*means.shape[:-1], features.size)
        parts.append(squares if squares.shape == shape else squares.expand(shape))
    return torch.cat(parts, dim=-1)


def expansion_error(
    structure: CovarianceStructure,
    features: QuadraticFeatures,
    means: Tensor,
    precisions: Tensor,
    variance: Tensor,
    radius: float | Tensor,
    *,
    shared: bool = False,
) -> Tensor:
    r"""Rounding error of log-densities from quadratic features, in nats, and of covariances relative to themselves.

    In units of the points' standard deviations about their location, let no point be farther than :math:`R`, a mean
    be at :math:`m_k` and its precision :math:`P_k`, and :math:`\rho_k \ge \lVert |P_k| \rVert_2` the lesser of its
    Frobenius and maximum norms. The terms of a log-density's :math:`F` features sum in size to at most
    :math:`T_k = \tfrac12 (R + \lVert m_k \rVert)^2 \rho_k`; their sum errs by :math:`u \sqrt{F + 8}\, T_k` with the
    unit roundoff :math:`u`, as the coefficients and features are rounded themselves. Second moments about the
    location are at most :math:`\lVert m_k \rVert^2 + D \le 2 T_k / \rho_k`, so that their errors, :math:`\rho_k` times
    as much of a covariance in its narrowest direction, are of that size too. Under a shared covariance the common
    square is left out, :math:`T_k = (R + \tfrac12 \lVert m_k \rVert) \lVert m_k \rVert \rho_k`, and the second moments
    of all points are at most :math:`D`. Roundings are taken as independent (Higham and Mary, *A new approach to
    probabilistic rounding error analysis*, 2019), in sums of `F` terms or of blocks alike; in the worst case the root
    is squared. Errors that occur are a tenth to a hundredth of the bound.

    Args:
        structure: The covariance structure.
        features: Those of the structure.
        means: `... x K x D`, about the location.
        precisions: In the stored shape.
        variance: `(D,)` squares of the units.
        radius: Greatest distance of a point from the location, in these units.
        shared: Whether the square that components of a shared covariance have in common counts too: responsibilities,
            and the sum of all log-densities, do without it, a point's own log-density does not.

    Returns:
        The greater of the two errors over the components, `()`; NaN where a covariance is singular.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.quadratic import expansion_error
        >>> diagonal, zeros, ones = covariance_structure("diag"), torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> features = diagonal.features(2, zeros.device)
        >>> bool(expansion_error(diagonal, features, zeros, 1e12 * ones, ones[0], 4.0) > 1e-5)
        True
    """
    unit = variance.sqrt()
    own = structure.by_component(precisions)
    if structure.correlated:
        sizes = (own * torch.outer(unit, unit)).abs()
        norm = torch.minimum(torch.linalg.vector_norm(sizes, dim=(-2, -1)), sizes.sum(-1).amax(-1))
    else:
        norm = (own * variance).amax(-1)
    reach = torch.linalg.vector_norm(means / unit, dim=-1)
    if structure.shared and not shared:
        terms = ((radius + reach / 2) * reach).clamp_min(means.shape[-1]) * norm
    else:
        terms = 0.5 * (radius + reach).square() * norm
    return 0.5 * torch.finfo(means.dtype).eps * (features.count + 8) ** 0.5 * terms.amax()


@final
class ExpansionErrorBound:
    r"""A bound on `expansion_error` that takes a third of the operations, for many mixtures over the same points.

    It is mostly within the tenfold: the trace of a precision is at least its Frobenius norm, and
    :math:`\tfrac12 (R + \lVert m_k \rVert)^2 \le R^2 + \lVert m_k \rVert^2`.

    Args:
        structure: The covariance structure.
        features: Those of the structure.
        variance: `(D,)` squares of the units.
        radius: Greatest distance of a point from the location, in these units.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.quadratic import ExpansionErrorBound
        >>> diagonal, zeros, ones = covariance_structure("diag"), torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> bound = ExpansionErrorBound(diagonal, diagonal.features(2, zeros.device), ones[0], 4.0)
        >>> bound(zeros, ones) < 1e-13
        True
    """

    def __init__(
        self, structure: CovarianceStructure, features: QuadraticFeatures, variance: Tensor, radius: float
    ) -> None:
        self._structure = structure
        self._variance = variance.sum() if structure.isotropic else variance
        self._inverse = variance.reciprocal()
        self._least = variance.new_tensor(radius**2 + len(variance))
        self._unit = 0.5 * torch.finfo(variance.dtype).eps * (features.count + 8) ** 0.5

    def __call__(self, means: Tensor, precisions: Tensor) -> float:
        """The bound for means, about the location, and stored precisions; NaN where singular.

        Args:
            means: `K x D`, or `... x K x D` of components with covariances of their own.
            precisions: In the stored shape.
        """
        own = self._structure.variances(precisions)
        trace = own * self._variance if self._structure.isotropic else own @ self._variance
        squares = means.square()
        if means.ndim == 2:  # one operator, as every step of EM waits for it
            reach = torch.addmv(self._least, squares, self._inverse)
        else:
            reach = (squares @ self._inverse).add_(self._least)
        return self._unit * float(reach.mul_(trace).amax())


@final
class ExpandedPoints:
    """Points as quadratic features, computed once for many evaluations of their densities.

    The log-densities of all points under `K` Gaussians are one product of `K x F` coefficients and `F x n` features,
    and their gradient is another.

    Args:
        x: `n x D` points.
        structure: Of covariances of components' own: full or diagonal.

    Attributes:
        x: The points.
        features: The features' layout.
        design: `F x n` features about the centre.
        centre: `(D,)` mean of the points.
        variance: `(D,)` variance of each feature; 1 where that is 0.
        radius: Greatest distance of a point from the centre, in standard deviations.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.quadratic import ExpandedPoints
        >>> points = ExpandedPoints(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), covariance_structure("diag"))
        >>> points.design.T
        tensor([[-1., -2.,  1.,  1.,  4.],
                [ 1.,  2.,  1.,  1.,  4.]])
    """

    @torch.no_grad()
    def __init__(self, x: Tensor, structure: CovarianceStructure) -> None:
        self.x, self.structure = x, structure
        self.features = structure.features(x.shape[1], x.device)
        lead, size = self.features.lead, x.shape[1]
        block = x.new_empty(lead + self.features.count, len(x))
        self.centre = x.mean(0)
        points = torch.sub(x.T, self.centre[:, None], out=block[lead : lead + size])
        block[lead + size] = 1.0
        self.features.fill(block)
        self.design = block[lead:]
        variance = points.square().mean(1)
        self.variance = variance.where(variance > 0, 1.0)
        self.radius = (points.square() / self.variance[:, None]).sum(0).amax().sqrt()
        self._bound = ExpansionErrorBound(structure, self.features, self.variance, float(self.radius))

    def stand_for(self, x: Tensor) -> bool:
        """Whether a tensor is that of the points: the same memory, read in the same way."""
        return x.data_ptr() == self.x.data_ptr() and x.shape == self.x.shape and x.stride() == self.x.stride()

    @staticmethod
    def bytes(x: Tensor, structure: CovarianceStructure) -> int:
        """Memory that the features of `n x D` points need."""
        features = structure.features(x.shape[1], x.device)
        return len(x) * (features.lead + features.count) * x.element_size()

    def log_density(self, means: Tensor, precisions_cholesky: Tensor) -> Tensor | None:
        """Log-densities `... x K x n` under `... x K` Gaussians; `None` where they may lose digits.

        That is where `expansion_error` exceeds 1e-9 nats in float64, 1e-4 in float32.
        """
        offset = means - self.centre
        precisions = self.structure.precisions(precisions_cholesky)
        limit = torch.finfo(means.dtype).eps ** 0.58
        with torch.no_grad():
            if not self._bound(offset, precisions) <= limit:
                error = expansion_error(self.structure, self.features, offset, precisions, self.variance, self.radius)
                if not bool(error <= limit):
                    return None
        log_scale = self.structure.log_scale(precisions_cholesky, means.shape[-1])
        return coefficients(self.structure, self.features, offset, precisions, log_scale) @ self.design
