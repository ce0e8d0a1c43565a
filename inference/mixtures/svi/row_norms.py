r"""Lower-triangular factors in the coordinates of a guide: row norms, and free correlations.

A factor :math:`R` of a covariance :math:`R R^\top` has row norms :math:`s_i`, the standard deviations, and a
correlation factor :math:`C = R / s` whose free coordinates under `CorrCholesky` are
:math:`u_{ij} = \operatorname{asinh}(R_{ij} / t_{ij})` for :math:`i > j`, with
:math:`t_{ij}^2 = \sum_{l > j} R_{il}^2`, as :math:`\tanh u_{ij}` is the partial correlation
:math:`R_{ij} / \sqrt{\sum_{l \ge j} R_{il}^2}`.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["RowNorms"]


@final
class RowNorms:
    """The map from factors to row norms and free correlations, and its derivatives.

    Args:
        n_features: Order `D` of the factors.
        like: A tensor of their device and dtype.

    Attributes:
        half: `D x D`, 1 below the diagonal, 1/2 on it, 0 above.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.svi.row_norms import RowNorms
        >>> factor = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> move = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> RowNorms(2, factor).push(factor, move)
        (tensor([1., 0.]), tensor([0.]))
    """

    def __init__(self, n_features: int, like: Tensor) -> None:
        row, column = torch.tril_indices(n_features, n_features, -1, device=like.device)
        self._index = row * n_features + column
        self._from_here = torch.ones(n_features, n_features, dtype=like.dtype, device=like.device).tril()
        self._beyond = self._from_here.tril(-1)
        self._free = self._beyond > 0
        self.half = 0.5 * (self._from_here + self._beyond)

    def coordinates(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Row norms and free coordinates of factors."""
        beyond, from_here = self._norms(factor)
        return from_here[..., 0], (factor / beyond.sqrt()).flatten(-2).index_select(-1, self._index).asinh()

    def push(self, factor: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        """Moves of row norms and free coordinates that follow from a move of the factors."""
        beyond, from_here = self._norms(factor)
        products = factor * move
        carried = (move - factor * (products @ self._beyond) / beyond) / from_here
        return products.sum(-1) / from_here[..., 0], carried.flatten(-2).index_select(-1, self._index)

    def pull(self, factor: Tensor, scales: Tensor, free: Tensor) -> Tensor:
        """Gradients by the factors from those by row norms and free coordinates, the transpose of `push`."""
        beyond, from_here = self._norms(factor)
        gradient = factor.new_zeros(factor.shape).flatten(-2).index_copy_(-1, self._index, free).view_as(factor)
        gradient = gradient / from_here
        before = (gradient * factor / beyond) @ self._beyond.mT
        return gradient + factor * ((scales / from_here[..., 0])[..., None] - before).tril()

    def _norms(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Squared norms of the entries after each one in its row, 1 from the diagonal on; norms of these with it."""
        squares, tiny = factor.square(), torch.finfo(factor.dtype).tiny
        beyond = (squares @ self._beyond).clamp_min(tiny).where(self._free, 1.0)
        return beyond, (squares @ self._from_here).clamp_min(tiny).sqrt()
