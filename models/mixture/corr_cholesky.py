"""Cholesky factors of correlation matrices, accurate for nearly singular ones."""

from __future__ import annotations

import copy
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from latentmix.models.logistic import softplus

__all__ = ["CorrCholesky", "corr_cholesky", "from_partial_correlations", "on_corr_cholesky", "tail_norms"]


class _CorrCholesky(type(constraints.corr_cholesky)):  # type: ignore[misc]
    """The set `constraints.corr_cholesky`, with a transform that loses no digits."""


corr_cholesky = _CorrCholesky()


@final
class CorrCholesky(Transform):
    r"""The map of PyTorch's `CorrCholeskyTransform` from free coordinates to factors, without its cancellation.

    Row :math:`i` of a factor :math:`C` has the entries :math:`C_{ij} = \tanh(u_{ij})\, t_{i,j-1}` with
    :math:`t_{ij} = \prod_{l \le j} \operatorname{sech}(u_{il})`, the norm of the entries after :math:`j`. PyTorch
    computes :math:`t^2` as :math:`1 - \tanh^2`, in steps of :math:`2^{-53}`, and clips it: an error of a tenth in a
    conditional variance 1e-15 of the marginal one. Here it is a product, and in the inverse a sum of squares.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.corr_cholesky import CorrCholesky
        >>> free = torch.tensor([18.0], dtype=torch.float64)
        >>> factor = CorrCholesky()(free)
        >>> factor[1, 1], CorrCholesky().inv(factor)
        (tensor(3.0460e-08, dtype=torch.float64), tensor([18.], dtype=torch.float64))
    """

    domain = constraints.real_vector
    codomain = corr_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CorrCholesky)

    def __hash__(self) -> int:
        return hash(type(self))

    def _call(self, x: Tensor) -> Tensor:
        return from_partial_correlations(x)

    def _inverse(self, y: Tensor) -> Tensor:
        row, column = _below(y.shape[-1], y)
        return (y[..., row, column] / tail_norms(y)[..., row, column + 1]).asinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        row, column = _below(y.shape[-1], y)
        inner = (column + 1 < row).to(y.dtype)
        return (inner * tail_norms(y)[..., row, column + 1].log() + 2 * _log_sech(x)).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the factors."""
        size = _size(shape[-1])
        return torch.Size((*shape[:-1], size, size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the free coordinates."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] - 1) // 2))


for _registry in (biject_to, transform_to):
    _registry.register(_CorrCholesky, lambda constraint: CorrCholesky())


def on_corr_cholesky[P](prior: P) -> P:
    """A copy of a prior of correlation factors whose support has the transform of this module."""
    new: Any = copy.copy(prior)
    if isinstance(new, dist.Independent):
        new.base_dist = on_corr_cholesky(new.base_dist)
    else:  # the support is an attribute of improper priors, and of the class of proper ones
        vars(new)["_support" if isinstance(new, dist.ImproperUniform) else "support"] = corr_cholesky
    return new


def from_partial_correlations(free: Tensor) -> Tensor:
    """Correlation factors, `... x D x D`, of `... x D(D-1)/2` hyperbolic arctangents of partial correlations."""
    size = _size(free.shape[-1])
    row, column = _below(size, free)
    # Out of place: gradients flow.
    index = row * size + column
    shape = (*free.shape[:-1], size * size)
    identity = torch.eye(size, dtype=free.dtype, device=free.device).flatten().expand(shape)
    tangents = identity.index_copy(-1, index, free.tanh()).unflatten(-1, (size, size))
    log_sech = free.new_zeros(shape).index_copy(-1, index + 1, _log_sech(free)).unflatten(-1, (size, size))
    return tangents * log_sech.cumsum(-1).exp()


def tail_norms(factor: Tensor) -> Tensor:
    """Norms of the entries of each row of a lower triangular factor from each entry on: `... x D x D`."""
    tiny = torch.finfo(factor.dtype).tiny
    return factor.square().flip(-1).cumsum(-1).flip(-1).clamp_min(tiny).sqrt()


def _log_sech(free: Tensor) -> Tensor:
    size = free.abs()
    return 0.6931471805599453 - size - softplus(-2 * size)


def _below(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    row, column = torch.tril_indices(size, size, -1, device=like.device)
    return row, column


def _size(count: int) -> int:
    """Order of a matrix with that many entries below its diagonal."""
    size = round((0.25 + 2 * count) ** 0.5 + 0.5)
    if size * (size - 1) // 2 != count:
        raise ValueError(f"Expected D(D-1)/2 free coordinates of a correlation factor; got {count}.")
    return size
