"""Sites of a mixture as functions of unconstrained values: values, log-priors and the gradients of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Transform, constraints

from latentmix.models.mixture.covariances import LOG_TWO_PI
from latentmix.models.mixture.priors import AffineTransformed, inner_support, is_positive

__all__ = ["Array", "Term", "site_term"]

Array = NDArray[np.float64]

_Density = Callable[[Array], tuple[float, Array]]


class Term(NamedTuple):
    """A site at unconstrained values.

    Attributes:
        value: The site's values; logarithms for the weights.
        density: Log-prior, with the Jacobian of the map from unconstrained values.
        pull: Maps derivatives by the values to derivatives by the unconstrained ones, and adds those of `density`.
    """

    value: Array
    density: float
    pull: Callable[[Array], Array]


def site_term(name: str, prior: Any, transform: Transform) -> Callable[[Array], Term]:
    """A function from unconstrained values to a `Term`, by formula for the usual priors.

    Args:
        name: Name of the site.
        prior: Its distribution, all of it event.
        transform: From unconstrained values to the prior's support, `biject_to` of it.
    """
    match name:
        case "weights" if isinstance(prior, dist.Dirichlet):
            return _weights(prior)
        case "means" if inner_support(prior.support) is constraints.real:
            return _means(_log_density(prior))
        case "scales" if is_positive(prior.support, whole=True):
            return _scales(_log_density(prior))
        case "correlation_cholesky" if isinstance(_base(prior), dist.LKJCholesky):
            return _correlations(_base(prior))
        case _:
            return _any(prior, transform, logarithm=name == "weights")


def _weights(prior: dist.Dirichlet) -> Callable[[Array], Term]:
    """Stick-breaking in logarithms, the map of `biject_to(simplex)`."""
    concentration = prior.concentration.numpy()
    constant = float(torch.lgamma(prior.concentration.sum()) - torch.lgamma(prior.concentration).sum())
    shift = np.log(np.arange(len(concentration) - 1, 0, -1))
    powers = concentration.copy()
    powers[-1] -= 1
    excess = concentration - 1

    def term(free: Array) -> Term:
        logits = free - shift
        taken = -np.logaddexp(0, -logits)
        left = taken - logits
        logs = np.zeros_like(concentration)
        logs[1:] = left.cumsum()
        logs[:-1] += taken
        fraction = np.exp(taken)

        def pull(slope: Array) -> Array:
            slope = slope + powers
            after = slope[:0:-1].cumsum()[::-1]
            result: Array = slope[:-1] * (1 - fraction) - fraction * (1 + after)
            return result

        return Term(logs, float(left.sum() + logs[:-1].sum() + excess @ logs) + constant, pull)

    return term


def _means(log_density: _Density) -> Callable[[Array], Term]:
    def term(free: Array) -> Term:
        density, by_value = log_density(free)
        return Term(free, density, lambda slope: slope + by_value)

    return term


def _scales(log_density: _Density) -> Callable[[Array], Term]:
    def term(free: Array) -> Term:
        value = np.exp(free)
        density, by_value = log_density(value)
        return Term(value, density + float(free.sum()), lambda slope: (slope + by_value) * value + 1)

    return term


def _correlations(prior: dist.LKJCholesky) -> Callable[[Array], Term]:
    """Canonical partial correlations `z`, the map of `biject_to(corr_cholesky)`.

    The LKJ density and the Jacobian are both products of powers of `1 - z^2` (Lewandowski, Kurowicka and Joe, 2009).
    """
    size, batch = prior.event_shape[-1], tuple(prior.batch_shape)
    concentration = prior.concentration.numpy().reshape(*batch, 1)
    rows, columns = np.tril_indices(size, -1)
    powers = 1 + 0.5 * (rows - 1 - columns) + 0.5 * (2 * (concentration - 1) + size - 1 - rows)
    unit = np.eye(size)
    constant = float(prior.log_prob(torch.eye(size, dtype=torch.float64)).sum())

    def term(free: Array) -> Term:
        logs = 2 * (math.log(2) - free - np.logaddexp(0, -2 * free))
        partial = np.tanh(free)
        spread = np.zeros((*batch, size, size))
        spread[..., rows, columns] = 0.5 * logs
        remaining = np.ones_like(spread)
        remaining[..., 1:] = np.exp(spread[..., :-1].cumsum(-1))
        factor = np.broadcast_to(unit, spread.shape).copy()
        factor[..., rows, columns] = partial
        factor *= remaining

        def pull(slope: Array) -> Array:
            weighted = np.tril(slope * factor)
            after = weighted[..., ::-1].cumsum(-1)[..., ::-1] - weighted
            direct = (slope * remaining)[..., rows, columns] * (1 - partial * partial)
            result: Array = direct - 2 * partial * (powers + 0.5 * after[..., rows, columns])
            return result

        return Term(factor, float((powers * logs).sum()) + constant, pull)

    return term


def _log_density(prior: Any) -> _Density:
    """A site's log-density and its derivative, by formula for independent normal or half-normal elements."""
    base, scale, shift = _base(prior), torch.tensor(1.0), torch.tensor(0.0)
    if isinstance(base, AffineTransformed):
        base, scale, shift = _base(base.base), base.scale, base.shift
    if type(base) is dist.Normal:
        loc, width, doubled = base.loc * scale + shift, base.scale * scale, 0.0
    elif type(base) is dist.HalfNormal:
        loc, width, doubled = torch.zeros_like(base.scale), base.scale * scale, math.log(2)
    else:
        return lambda value: _differentiated(prior, value)
    centre, spread = (part.expand(prior.event_shape).numpy() for part in (loc, width))
    precision = 1 / np.square(spread)
    constant = float((doubled - np.log(spread) - 0.5 * LOG_TWO_PI).sum())

    def density(value: Array) -> tuple[float, Array]:
        deviation = value - centre
        by_value = -deviation * precision
        return constant + 0.5 * float((deviation * by_value).sum()), by_value

    return density


def _differentiated(prior: Any, value: Array) -> tuple[float, Array]:
    with torch.enable_grad():
        at = torch.from_numpy(value).clone().requires_grad_()
        density = prior.log_prob(at)
        if not density.requires_grad:
            return float(density), np.zeros_like(value)
        (slope,) = torch.autograd.grad(density, at)
    return float(density.detach()), slope.numpy()


def _any(prior: Any, transform: Transform, *, logarithm: bool) -> Callable[[Array], Term]:
    """The term of any other prior, by automatic differentiation."""

    def term(free: Array) -> Term:
        with torch.enable_grad():
            at = torch.from_numpy(free).clone().requires_grad_()
            site = transform(at)
            density: Tensor = prior.log_prob(site) + transform.log_abs_det_jacobian(at, site).sum()
            value: Tensor = site.log() if logarithm else site

        def pull(slope: Array) -> Array:
            pulled = torch.autograd.grad([value, density], at, [torch.from_numpy(slope), torch.ones_like(density)])
            result: Array = pulled[0].numpy()
            return result

        return Term(value.detach().numpy(), float(density.detach()), pull)

    return term


def _base(prior: Any) -> Any:
    while isinstance(prior, dist.Independent):
        prior = prior.base_dist
    return prior
