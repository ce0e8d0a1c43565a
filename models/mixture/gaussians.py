"""Gaussians of enumerated components: the densities of many data under all of them at once."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

__all__ = ["FactoredNormal", "FeatureCache", "QuadraticFeatures", "SelectedNormal", "select"]

_BYTES = 1 << 29


@final
@dataclass(frozen=True, eq=False)
class QuadraticFeatures:
    r"""Data as features in which the log-density of every Gaussian is linear: :math:`x_i x_j`, :math:`x_i` and 1.

    Under `K` Gaussians the log-densities are then one product of `K x F` coefficients and `F x n` features, and
    their gradient another. Terms as large as squared radius times precision cancel in it.

    Args:
        features: `F x n`: products of the features about the centre, all pairs or the squares alone; the features
            themselves; ones.
        centre: `(D,)`, the mean of the data.
        squared_radius: Greatest squared distance from the centre.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.gaussians import QuadraticFeatures
        >>> QuadraticFeatures.of(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), pairs=True).features.T
        tensor([[ 1.,  2.,  4., -1., -2.,  1.],
                [ 1.,  2.,  4.,  1.,  2.,  1.]])
    """

    features: Tensor
    centre: Tensor
    squared_radius: Tensor

    @classmethod
    def of(cls, x: Tensor, *, pairs: bool) -> QuadraticFeatures:
        """Features of `n x D` data."""
        count, size = x.shape
        width = _width(size, pairs=pairs)
        with torch.no_grad():
            centre = x.mean(0)
            features = x.new_ones(width, count)
            moved = torch.sub(x.T, centre[:, None], out=features[-size - 1 : -1])
            if pairs:
                first = 0
                for index in range(size):
                    torch.mul(moved[index:], moved[index], out=features[first : first + size - index])
                    first += size - index
                diagonal = torch.triu_indices(size, size, device=x.device)
                squares = features[: width - size - 1][diagonal[0] == diagonal[1]]
            else:
                squares = torch.mul(moved, moved, out=features[:size])
            return cls(features, centre, squares.sum(0).amax())

    def allow(self, greatest_precision: Tensor) -> bool:
        """Whether cancellation leaves enough digits: a bound on the error in a log-density, about 1e-9 in float64."""
        limit = torch.finfo(self.features.dtype).eps ** -0.42
        return bool(self.squared_radius * greatest_precision < limit)


class FeatureCache:
    """Keeps the features of the last data, as long as these live and do not change.

    Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._owner: weakref.ref[Tensor] | None = None
        self._key: tuple[Any, ...] = ()
        self._value: QuadraticFeatures | None = None

    def features(self, x: Tensor, *, pairs: bool) -> QuadraticFeatures:
        """Features of `x`, anew only where they are not those of the last call."""
        if x.is_inference() or x.requires_grad:
            return QuadraticFeatures.of(x, pairs=pairs)
        owner = x if x._base is None else x._base
        key = (x._version, x.data_ptr(), x.shape, x.stride(), x.dtype, pairs)
        if self._owner is None or self._owner() is not owner or self._key != key or self._value is None:
            self._value = QuadraticFeatures.of(x, pairs=pairs)
            self._key, self._owner = key, weakref.ref(owner, self._forget)
        return self._value

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[()]]:
        """An empty one."""
        return FeatureCache, ()

    def _forget(self, owner: weakref.ref[Tensor]) -> None:
        if self._owner is owner:
            self._owner = self._value = None


class FactoredNormal(dist.MultivariateNormal):
    """A multivariate normal whose density is one matrix product per factor, where many data share a factor.

    Equal to `MultivariateNormal`; several times as fast for enumerated components, whose factors have batch
    shape `(K, 1)` and whose data have `(n,)`.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`."""
        factor = self._unbroadcasted_scale_tril
        if factor.ndim < 3 or factor.shape[-3] != 1:
            density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
            return density
        if self._validate_args:
            self._validate_sample(value)
        return _centred(value, self.loc, _inverse(factor.squeeze(-3)))


@final
class SelectedNormal(dist.TorchDistribution):
    """Of `K` Gaussians, those that assignments name.

    The log-densities of `n x D` data are computed under all Gaussians at once, so that neither assignments that
    are enumerated, `K x 1`, nor sampled ones, `(n,)`, need parameters for each datum. Where a conditioning test
    allows, that is one product with `QuadraticFeatures`, else with the data about each centre.

    Args:
        loc: `K x D` means.
        scale: `K x D x D` lower factors of the covariances, or `K x D` standard deviations.
        assignment: Integers below `K`, of any shape.
        cache: Where the features of the data are kept from call to call.

    Example:
        >>> import torch
        >>> from latentmix.models.mixture.gaussians import SelectedNormal
        >>> normal = SelectedNormal(torch.zeros(3, 2), torch.ones(3, 2), torch.arange(3)[:, None])
        >>> normal.log_prob(torch.zeros(5, 2)).shape
        torch.Size([3, 5])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        assignment: Tensor,
        cache: FeatureCache | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.assignment, self.cache = loc, scale, assignment, cache
        super().__init__(assignment.shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SelectedNormal:
        """The distribution for another batch shape."""
        return SelectedNormal(
            self.loc, self.scale, self.assignment.expand(batch_shape), self.cache, validate_args=self._validate_args
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, differentiable in the Gaussians."""
        noise = torch.randn(
            *sample_shape, *self.batch_shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device
        )
        scale = self.scale[self.assignment]
        moved = scale * noise if self.scale.ndim == 2 else (scale @ noise[..., None]).squeeze(-1)
        return self.loc[self.assignment] + moved

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        assignment = self.assignment
        if value.ndim != 2 or assignment.ndim == 0:
            return self._each(value)
        if assignment.shape[-1] == 1 or assignment.stride(-1) == 0:
            chosen = assignment[..., 0]
            return self._table(value, self.loc[chosen], self.scale[chosen])
        if assignment.ndim == 1:
            return self._table(value, self.loc, self.scale).gather(0, assignment[None]).squeeze(0)
        return self._each(value)

    def _table(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Log-densities of `n x D` data under each of `... x D` Gaussians."""
        size, full = loc.shape[-1], scale.ndim > loc.ndim
        inverse = _inverse(scale) if full else scale.reciprocal()
        wanted = len(value) * _width(size, pairs=full) * value.element_size()
        if self.cache is not None and wanted <= _BYTES:
            features = self.cache.features(value, pairs=full)
            if features.allow(inverse.detach().square().flatten(loc.ndim - 1).sum(-1).amax()):
                return _product(features, loc, inverse)
        if full:
            return _centred(value, loc[..., None, :], inverse)
        squares = ((value - loc[..., None, :]) * inverse[..., None, :]).square().sum(-1)
        return _log_factor(inverse)[..., None] - 0.5 * squares

    def _each(self, value: Tensor) -> Tensor:
        loc, scale = self.loc[self.assignment], self.scale[self.assignment]
        normal = dist.Normal(loc, scale).to_event(1) if scale.ndim == loc.ndim else _factored(loc, scale)
        density: Tensor = normal.log_prob(value)
        return density


def select(
    components: dist.TorchDistribution, assignment: Tensor, cache: FeatureCache | None = None
) -> dist.TorchDistribution:
    """The components that assignments name.

    Args:
        components: `K` of them: a `MultivariateNormal`, or independent normals.
        assignment: Integers below `K`, such as all of them as a `K x 1` tensor where they are enumerated.
        cache: Where the features of the data are kept from call to call.

    Returns:
        A distribution of the batch shape of `assignment`, broadcast against what batch shape the components have
        before their last dimension.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from latentmix.models.mixture.gaussians import select
        >>> components = dist.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
        >>> select(components, torch.arange(3)[:, None]).log_prob(torch.zeros(5, 2)).shape
        torch.Size([3, 5])
    """
    if isinstance(components, dist.MultivariateNormal):
        loc, scale = components.loc, components._unbroadcasted_scale_tril
        scale = scale.expand(*loc.shape, loc.shape[-1])
        if loc.ndim == 2:
            return SelectedNormal(loc, scale, assignment, cache)
        return _factored(Vindex(loc)[..., assignment, :], Vindex(scale)[..., assignment, :, :])
    loc, scale = components.base_dist.loc, components.base_dist.scale.expand_as(components.base_dist.loc)
    if loc.ndim == 2:
        return SelectedNormal(loc, scale, assignment, cache)
    return dist.Normal(Vindex(loc)[..., assignment, :], Vindex(scale)[..., assignment, :]).to_event(1)


def _width(n_features: int, *, pairs: bool) -> int:
    """Number of quadratic features."""
    return n_features * (n_features + 3) // 2 + 1 if pairs else 2 * n_features + 1


def _factored(loc: Tensor, scale_tril: Tensor) -> FactoredNormal:
    return FactoredNormal(loc, scale_tril=scale_tril)


def _inverse(factor: Tensor) -> Tensor:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def _log_factor(inverse: Tensor) -> Tensor:
    """Log of what precedes the exponential, from inverse standard deviations."""
    return inverse.log().sum(-1) - 0.5 * inverse.shape[-1] * math.log(2 * math.pi)


def _centred(value: Tensor, loc: Tensor, inverse: Tensor) -> Tensor:
    """Log-densities from the data about `... x 1 x D` means and `... x D x D` inverse factors."""
    squares = ((value - loc) @ inverse.mT).square().sum(-1)
    return _log_factor(inverse.diagonal(dim1=-2, dim2=-1))[..., None] - 0.5 * squares


def _product(features: QuadraticFeatures, loc: Tensor, inverse: Tensor) -> Tensor:
    """Log-densities from quadratic features, means, and inverse factors or inverse standard deviations."""
    offset = loc - features.centre
    if inverse.ndim == loc.ndim:
        precision = inverse.square()
        linear, quadratic, diagonal = precision * offset, -0.5 * precision, inverse
    else:
        precision = inverse.mT @ inverse
        linear = (precision @ offset[..., None]).squeeze(-1)
        row, column = torch.triu_indices(*precision.shape[-2:], device=loc.device)
        quadratic = precision[..., row, column] * ((row == column).to(loc.dtype) * 0.5 - 1.0)
        diagonal = inverse.diagonal(dim1=-2, dim2=-1)
    constant = _log_factor(diagonal) - 0.5 * (linear * offset).sum(-1)
    return torch.cat([quadratic, linear, constant[..., None]], -1) @ features.features
