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

from latentmix.models.mixture.corr_cholesky import tail_norms

__all__ = ["RowNorms"]


@final
class RowNorms:
    """Derivatives of the map from factors to row norms and free correlations.

    Args:
        n_features: Order `D` of the factors.
        like: A tensor of their device and dtype.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.svi.row_norms import RowNorms
        >>> factor = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> move = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> RowNorms(2, factor).push(factor, move)
        (tensor([1., 0.]), tensor([0.]))
    """

    def __init__(self, n_features: int, like: Tensor) -> None:
        self._size = n_features
        self._row, self._column = torch.tril_indices(n_features, n_features, -1, device=like.device)

    def push(self, factor: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        """Moves of row norms and free coordinates that follow from a move of the factors."""
        beyond, from_here = self._norms(factor)
        products = factor * move
        carried = (move - factor * _after(products) / beyond.square()) / from_here
        return products.sum(-1) / factor.norm(dim=-1), carried[..., self._row, self._column]

    def pull(self, factor: Tensor, scales: Tensor, free: Tensor) -> Tensor:
        """Gradients by the factors from those by row norms and free coordinates, the transpose of `push`."""
        beyond, from_here = self._norms(factor)
        gradient = torch.zeros_like(factor)
        gradient[..., self._row, self._column] = free
        gradient = gradient / from_here
        products = gradient * factor / beyond.square()
        before = products.cumsum(-1) - products
        return gradient + factor * ((scales / factor.norm(dim=-1))[..., None] - before).tril()

    def _norms(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Norms of the entries after each one in its row, 1 from the diagonal on, and of these with the entry."""
        from_here = tail_norms(factor)
        beyond = torch.ones_like(factor)
        beyond[..., self._row, self._column] = from_here[..., self._row, self._column + 1]
        return beyond, from_here


def _after(products: Tensor) -> Tensor:
    """Sums of the entries after each one in its row."""
    return products.flip(-1).cumsum(-1).flip(-1) - products
