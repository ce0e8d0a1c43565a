"""Points with missing entries, completed under each component of a mixture, grouped by their observed features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from latentmix.models.mixture.covariances import LOG_TWO_PI, CovarianceStructure
from latentmix.models.mixture.matrices import inverse_lower
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["Completion", "completions"]

_CHUNK = 2_000_000  # doubles of one block
_TILE = 64  # most points of a tile, all of one pattern
_BITS = 52  # observed features that one double codes exactly


@final
@dataclass(frozen=True)
class Completion:
    """`b` points, completed under each of `K` components.

    Args:
        rows: `(b,)` rows of the points.
        log_joint: `b x K` log joints of the observed entries.
        deviations: `b x K x D` from the means, with missing entries at their expectations.
        observed: `P x D` patterns, 1 where a feature is observed, else 0.
        pattern: `(b,)` numbers of the points' patterns.
        covariances: `P x K x D x D` of the missing entries given the observed ones; `P x 1 x D x D` where shared;
            `K x D` variances where features are independent.
        structure: The covariance structure.
    """

    rows: Tensor
    log_joint: Tensor
    deviations: Tensor
    observed: Tensor
    pattern: Tensor
    covariances: Tensor
    structure: CovarianceStructure

    def spread(self, responsibilities: Tensor) -> Tensor:
        """Covariances of the missing entries, summed under `b x K` responsibilities, as the structure's scatter."""
        n_components = responsibilities.shape[1]
        by_pattern = responsibilities.new_zeros(len(self.observed), n_components)
        by_pattern.index_add_(0, self.pattern, responsibilities)
        if not self.structure.correlated:
            return self.structure.scatter_of(by_pattern.T @ (1 - self.observed) * self.covariances)
        if self.covariances.shape[1] == 1:
            by_pattern = by_pattern.sum(1, keepdim=True)
        return self.structure.scatter_of(torch.einsum("pk,pkde->kde", by_pattern, self.covariances))


def completions(x: Tensor, parameters: MixtureParameters) -> Iterator[Completion]:
    """Complete the rows of an `n x D` chunk in float64, in blocks of bounded size and in another order."""
    observed = ~x.isnan()
    if not parameters.structure.correlated:
        for rows in torch.arange(len(x), device=x.device).split(max(1, _CHUNK // parameters.means.numel())):
            yield _independent(x[rows], rows, observed[rows].double(), parameters)
        return
    patterns = _patterns(x)
    first = _first(patterns)
    tiles, pattern = _tiles(patterns)
    n_components, n_features = parameters.means.shape
    size = max(1, _CHUNK // (4 * n_components * n_features * max(tiles.shape[1], n_features)))
    for part, own in zip(tiles.split(size), pattern.split(size), strict=True):
        known, inverse = own.unique_consecutive(return_inverse=True)
        yield _correlated(x, part, observed[first[known]].double(), inverse, parameters)


def _independent(x: Tensor, rows: Tensor, observed: Tensor, parameters: MixtureParameters) -> Completion:
    structure, means = parameters.structure, parameters.means
    variances = structure.by_component(parameters.covariances).expand_as(means)
    deviations = (x[:, None] - means).nan_to_num(0.0)
    squares = (deviations.square() / variances).sum(-1) + observed @ (variances.log().T + LOG_TWO_PI)
    pattern = torch.arange(len(x), device=x.device)
    joint = parameters.weights.log() - squares / 2
    return Completion(rows, joint, deviations, observed, pattern, variances, structure)


def _correlated(
    x: Tensor, tiles: Tensor, observed: Tensor, inverse: Tensor, parameters: MixtureParameters
) -> Completion:
    """Tiles of rows, `M x T` and -1 where there is none; tile i has the pattern `observed[inverse[i]]`."""
    structure, means = parameters.structure, parameters.means
    covariances = structure.by_component(parameters.covariances)
    scale = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    correlations = covariances / (scale[:, :, None] * scale[:, None, :])
    there = observed[:, None, :, None]
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    among = correlations * there * there.mT + identity * (1 - there)
    factor = torch.linalg.cholesky(among)
    whiten = inverse_lower(factor) * there.mT
    predict = whiten @ correlations
    rest = (correlations - predict.mT @ predict) * (1 - there) * (1 - there.mT)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + observed @ scale.log().T

    deviations = (x[tiles.clamp_min(0)][:, None] - means[:, None]).nan_to_num(0.0) / scale[:, None]
    white = deviations @ whiten.mT[inverse]
    squares = white.square().sum(-1)
    constant = log_det[inverse] + observed.sum(1)[inverse, None] * (LOG_TWO_PI / 2)
    joint = parameters.weights.log()[:, None] - constant[:, :, None] - squares / 2
    completed = deviations + (white @ predict[inverse]) * (1 - there.mT[inverse])
    valid = tiles >= 0
    return Completion(
        rows=tiles[valid],
        log_joint=joint.transpose(1, 2)[valid],
        deviations=(completed * scale[:, None]).transpose(1, 2)[valid],
        observed=observed,
        pattern=inverse[:, None].expand_as(tiles)[valid],
        covariances=rest * (scale[:, :, None] * scale[:, None, :]),
        structure=structure,
    )


def _patterns(x: Tensor) -> Tensor:
    """Number of each row's pattern of observed features: `(n,)`, from 0 on."""
    pattern = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for columns in x.isnan().split(_BITS, dim=1):
        powers = 2.0 ** torch.arange(columns.shape[1], dtype=torch.float64, device=x.device)
        _, code = (columns.double() @ powers).unique(return_inverse=True)
        _, pattern = (pattern * (code.max() + 1) + code).unique(return_inverse=True)
    return pattern


def _first(pattern: Tensor) -> Tensor:
    """A row of each pattern."""
    rows = torch.arange(len(pattern), device=pattern.device)
    return torch.zeros(int(pattern.max()) + 1, dtype=torch.long, device=pattern.device).scatter_(0, pattern, rows)


def _tiles(pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in tiles of one pattern each: `M x T` row numbers, -1 where there is none, and `(M,)` patterns."""
    counts = torch.bincount(pattern)
    size = max(1, min(_TILE, -(-len(pattern) // len(counts))))
    order = pattern.argsort(stable=True)
    own = pattern[order]
    within = torch.arange(len(pattern), device=pattern.device) - (counts.cumsum(0) - counts)[own]
    tiles_of = (counts + size - 1) // size
    tile = (tiles_of.cumsum(0) - tiles_of)[own] + within // size
    tiles = torch.full((int(tiles_of.sum()), size), -1, dtype=torch.long, device=pattern.device)
    tiles[tile, within % size] = order
    return tiles, torch.arange(len(counts), device=pattern.device).repeat_interleave(tiles_of)
