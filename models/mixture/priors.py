"""Priors of a mixture's parameters: ordered means, and affine maps of any prior."""

from __future__ import annotations

import copy
import math
from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

__all__ = [
    "AffineTransformed",
    "OrderedMeans",
    "affine_transformed",
    "as_site",
    "converted",
    "increasing",
    "inner_support",
    "inside",
    "is_improper",
    "is_positive",
]

_SUPPORTS = {"weights": constraints.simplex, "correlation_cholesky": constraints.corr_cholesky}


class _Increasing(Constraint):
    """Increasing columns, `... x K x 1`."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 1:, 0] > value[..., :-1, 0]).all(-1)


increasing = _Increasing()


class _ToIncreasing(Transform):
    """Maps columns of real numbers to increasing ones: the first number is kept, the others are logarithms of steps."""

    domain = constraints.independent(constraints.real, 2)
    codomain = increasing
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ToIncreasing)

    def __hash__(self) -> int:
        return hash(type(self))

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1, :], x[..., 1:, :].exp()], dim=-2).cumsum(-2)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1, :], y.diff(dim=-2).log()], dim=-2)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x[..., 1:, 0].sum(-1)


for _registry in (biject_to, transform_to):
    _registry.register(_Increasing, lambda constraint: _ToIncreasing())


@final
class OrderedMeans(TorchDistribution):
    r"""Means of `K` components in one dimension, in increasing order: the order statistics of `K` draws.

    The density is :math:`K! \prod_k p(\mu_k)` where :math:`\mu_1 < \dots < \mu_K` and zero elsewhere (David and
    Nagaraja, *Order Statistics*, 2003, equation 2.2.1). It makes the labels of the components unique, and implies the
    same density of the data as `K` independent draws.

    Args:
        base: The distribution of one mean, such as `Normal(0, 10)`.
        n_components: Number of components `K`.

    Raises:
        ValueError: If the base is not a distribution of one number on the whole line, or there is no component.

    Example:
        >>> import pyro.distributions as dist
        >>> from latentmix.models.mixture.priors import OrderedMeans
        >>> means = OrderedMeans(dist.Normal(0.0, 10.0), 3).sample()
        >>> means.shape, bool((means.diff(dim=0) > 0).all())
        (torch.Size([3, 1]), True)
    """

    arg_constraints = {}  # noqa: RUF012
    support = increasing
    has_rsample = False

    def __init__(self, base: TorchDistribution, n_components: int) -> None:
        if tuple(base.shape()) or base.support is not constraints.real:
            raise ValueError(
                f"Expected a base of one number on the whole line; got {type(base).__name__} of shape "
                f"{tuple(base.shape())}."
            )
        if n_components < 1:
            raise ValueError(f"Expected n_components >= 1; got {n_components}.")
        self.base = base
        self.n_components = n_components
        super().__init__(torch.Size(), torch.Size((n_components, 1)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedMeans:
        """The same with another batch shape."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `... x K x 1` means, minus infinity where they do not increase."""
        density = self.base.log_prob(value).sum((-2, -1)) + math.lgamma(self.n_components + 1)
        return torch.where(increasing.check(value), density, -torch.inf)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Sorted draws: `sample_shape x batch_shape x K x 1`."""
        drawn: Tensor = self.base.sample(self._extended_shape(sample_shape))
        return drawn.sort(-2).values


@final
class AffineTransformed(TorchDistribution):
    r"""The distribution of :math:`s\,y + t` for `y` of a base, with its exact support.

    `TransformedDistribution` assumes the whole line as the support of any affine map, even if the base is positive,
    ordered or on an interval.

    Args:
        base: A distribution.
        scale: Positive, broadcastable to the values of the base.
        shift: Likewise broadcastable.

    Raises:
        ValueError: If the support of the mapped values is unknown.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from latentmix.models.mixture.priors import AffineTransformed
        >>> AffineTransformed(dist.HalfNormal(1.0), torch.tensor(3.0), torch.tensor(0.0)).support
        GreaterThanEq(lower_bound=0.0)
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: TorchDistribution, scale: Tensor, shift: Tensor) -> None:
        self.base, self.scale, self.shift = base, scale, shift
        self.has_rsample = base.has_rsample
        _transformed_support(base.support, scale, shift)  # refuses unknown supports
        log_det = scale.log().expand(base.shape())
        self._log_det = log_det.sum(tuple(range(-base.event_dim, 0))) if base.event_dim else log_det
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        """Support of the mapped values."""
        return _transformed_support(self.base.support, self.scale, self.shift)

    def expand(self, batch_shape: Any, _instance: Any = None) -> AffineTransformed:
        """The same with another batch shape."""
        return AffineTransformed(self.base.expand(batch_shape), self.scale, self.shift)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`."""
        density: Tensor = self.base.log_prob((value - self.shift) / self.scale) - self._log_det
        return density

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws: `sample_shape x batch_shape x event_shape`."""
        drawn: Tensor = self.base.sample(sample_shape) * self.scale + self.shift
        return drawn

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with gradients."""
        drawn: Tensor = self.base.rsample(sample_shape) * self.scale + self.shift
        return drawn


def affine_transformed(prior: TorchDistribution, scale: Tensor, shift: Tensor) -> TorchDistribution:
    """The prior of `y * scale + shift` for `y` of a prior, in the dtype and on the device of `scale`.

    A flat prior remains flat, as its constant is arbitrary.
    """
    prior = converted(prior, scale)
    if is_improper(prior):
        support = _transformed_support(prior.support, scale, shift)
        return dist.ImproperUniform(support, prior.batch_shape, prior.event_shape)
    return AffineTransformed(prior, scale, shift)


def as_site(name: str, prior: TorchDistribution, shape: tuple[int, ...]) -> TorchDistribution:
    """A prior expanded to the shape of a site, all of whose dimensions are event dimensions.

    A `Beta(a, b)` of the weight of the first of two components is the Dirichlet `(a, b)` of both.

    Args:
        name: Name of the site.
        prior: A distribution of the site, or of each of its elements.
        shape: Shape of the site.

    Raises:
        ValueError: If the prior is no distribution of Pyro's, has another shape, or its support is not that of the
            site: positive scales, weights on the simplex, Cholesky factors of correlation matrices.
    """
    if not isinstance(prior, TorchDistributionMixin):
        raise ValueError(f"Expected a distribution of pyro.distributions for {name}; got {prior!r}.")
    if name == "weights" and isinstance(prior, dist.Beta) and shape == (2,) and prior.shape() == ():
        prior = dist.Dirichlet(torch.stack([prior.concentration1, prior.concentration0]))
    events = len(prior.event_shape)
    batch = shape[: len(shape) - events]
    least = {"weights": 1, "correlation_cholesky": 2}.get(name, 0)
    try:
        fits = (
            events >= least
            and shape[len(shape) - events :] == tuple(prior.event_shape)
            and (torch.broadcast_shapes(prior.batch_shape, batch) == batch)
        )
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"Expected a prior of shape {shape} for {name}; got {tuple(prior.shape())}.")
    if name == "scales" and not is_positive(prior.support):
        raise ValueError(f"Expected a prior of scales on positive numbers; got one on {prior.support}.")
    if name in _SUPPORTS and not isinstance(inner_support(prior.support), type(_SUPPORTS[name])):
        raise ValueError(f"Expected a prior of {name} on {_SUPPORTS[name]}; got one on {prior.support}.")
    if tuple(prior.batch_shape) != batch:
        prior = prior.expand(batch)
    return prior.to_event(len(batch)) if batch else prior


def inside(prior: dist.TorchDistribution | None, value: Tensor) -> Tensor:
    """A value of a site, moved inside the bounds of its prior by a thousandth of their distance if there are two."""
    support = None if prior is None else inner_support(prior.support)
    if not isinstance(support, type(constraints.unit_interval)):
        return value
    low, high = (torch.as_tensor(bound).to(value) for bound in (support.lower_bound, support.upper_bound))
    margin = 1e-3 * (high - low)
    return value.clamp(low + margin, high - margin)


def inner_support(support: Any) -> Any:
    """The support of one element or event, without the dimensions of `independent`."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_positive(support: Any, *, whole: bool = False) -> bool:
    """Whether a support lies in the positive numbers; with `whole`, whether it is all of them."""
    inner = inner_support(support)
    bound = getattr(inner, "lower_bound", None)
    if bound is None or (whole and hasattr(inner, "upper_bound")):
        return False
    lowest = torch.as_tensor(bound)
    return bool((lowest == 0 if whole else lowest >= 0).all())


def is_improper(prior: Any) -> bool:
    """Whether a prior is flat on the whole of its support."""
    while isinstance(prior, dist.Independent):
        prior = prior.base_dist
    return isinstance(prior, dist.ImproperUniform)


def converted[P](part: P, like: Tensor) -> P:
    """A copy of a distribution or a transform, with its tensors in the dtype and on the device of `like`."""
    new = copy.copy(part)
    for name, value in vars(part).items():
        vars(new)[name] = _converted_value(value, like)
    return new


def _converted_value(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like) if value.is_floating_point() else value.to(like.device)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_converted_value(item, like) for item in value)
    if isinstance(value, torch.distributions.Distribution | Transform):
        return converted(value, like)
    return value


def _transformed_support(support: Any, scale: Tensor, shift: Tensor) -> Constraint:
    if isinstance(support, constraints.independent):
        inner = _transformed_support(support.base_constraint, scale, shift)
        return constraints.independent(inner, support.reinterpreted_batch_ndims)
    if support in (constraints.real, constraints.real_vector) or isinstance(support, _Increasing):
        return support
    bounds = {
        name: getattr(support, name) * scale + shift
        for name in ("lower_bound", "upper_bound")
        if hasattr(support, name)
    }
    if not bounds or support.is_discrete:
        raise ValueError(
            f"Expected a prior on the real numbers, above a bound, on an interval or of increasing values; got one on "
            f"{support}."
        )
    if all(bool((bound == getattr(support, name)).all()) for name, bound in bounds.items()):
        return support
    return type(support)(*bounds.values())
