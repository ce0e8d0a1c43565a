"""Covariances of features that are close to collinear, to the digits of the points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentmix.inference.mixtures.points.points import Points
from latentmix.models.mixture.covariances import LEAST_COLLINEARITY
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["sharpen"]

_CHUNK = 4_000_000
# Collinearity (see `MixtureParameters`) below which moments no longer hold the digits of covariances.
_COLLINEAR = 1e-5


def sharpen(
    points: Points, before: MixtureParameters, after: MixtureParameters, jittered: bool, reg_covar: float
) -> tuple[MixtureParameters, bool]:
    r"""Repeat an M step where features are so close to collinear that moments lose the digits of covariances.

    Deviations are whitened by the factors :math:`U_k` of the first outcome, so that their second moments
    :math:`S_k`, with `reg_covar` :math:`\epsilon`, are well conditioned, and the factors of the precisions become
    :math:`U_k R_k^{-\top}` for the Cholesky factors :math:`R_k` of :math:`S_k + \epsilon\, U_k^\top U_k`. They have
    the digits of the points, as those of a QR decomposition would.

    Args:
        points: Complete points without noise.
        before: The mixture of the E step.
        after: The outcome of the M step.
        jittered: Whether a singular covariance of it got a jitter.
        reg_covar: Variance added to every feature.

    Returns:
        The mixture with sharper covariances, and whether one still has a jitter; as it was where digits suffice, or
        where a covariance is singular all the same.
    """
    structure, n_features = after.structure, after.means.shape[1]
    if not structure.correlated or n_features == 1:
        return after, jittered
    if not points.processes.agree(jittered or after.collinearity < _COLLINEAR):
        return after, jittered
    whitening = after.precisions_cholesky
    white = points.reduce(lambda: _whitened(points, before, after))
    counts = white.counts.sum(0, keepdim=True) if structure.shared else white.counts
    occupied = (counts > 1e-12 * counts.sum())[:, None, None]
    identity = torch.eye(n_features).to(white.scatter)
    squares = torch.where(occupied, white.scatter / counts[:, None, None], identity).view_as(white.scatter)
    factors, info = torch.linalg.cholesky_ex(squares + reg_covar * whitening.mT @ whitening)
    if bool(info.any()):
        return after, jittered
    precisions_cholesky = torch.linalg.solve_triangular(factors, whitening.mT, upper=False).mT
    sharp = MixtureParameters.from_precisions_cholesky(after.weights, after.means, precisions_cholesky, structure)
    return (sharp, False) if sharp.collinearity >= LEAST_COLLINEARITY else (after, jittered)


@dataclass(frozen=True)
class _Whitened:
    """Second moments of whitened deviations, in the shape of the covariances, and the components' counts, `(K,)`."""

    scatter: Tensor
    counts: Tensor


@torch.no_grad()
def _whitened(points: Points, before: MixtureParameters, after: MixtureParameters) -> _Whitened:
    """Those of this process's points."""
    structure = after.structure
    scatter, counts = torch.zeros_like(after.covariances), torch.zeros_like(after.weights)
    for x, weight in points.chunks(max(1, _CHUNK // after.means.numel())):
        part = x.double()
        responsibilities = before.responsibilities(part)
        if weight is not None:
            responsibilities = responsibilities * weight[:, None]
        deviations = structure.whiten(part - after.means[:, None], after.precisions_cholesky)
        scatter += structure.scatter(responsibilities, deviations.transpose(0, 1))
        counts += responsibilities.sum(0)
    return _Whitened(scatter, counts)
