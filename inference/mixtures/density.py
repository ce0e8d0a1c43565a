"""Densities of several Gaussian mixtures at the same points, by one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

__all__ = ["Densities"]


class Densities:
    r"""Log-densities of latents under several distributions, in float64.

    A Gaussian's log-density is linear in :math:`[1, z, z z^\top]`: all components of all mixtures take one matrix
    product over these features, centred, and none of the `n x K x D` tensors that `MixtureSameFamily` makes. Other
    distributions have their own `log_prob`. There are no gradients.

    Args:
        distributions: Of batch shape `()` and event shape `(D,)`.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from latentmix.inference.mixtures.density import Densities
        >>> components = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        >>> mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components)
        >>> densities = Densities([mixture, dist.Normal(torch.zeros(2), 1.0).to_event(1)])
        >>> densities(torch.zeros(5, 2)).shape
        torch.Size([2, 5])
    """

    @torch.no_grad()
    def __init__(self, distributions: Sequence[Distribution]) -> None:
        self.distributions = distributions
        found = [_gaussians(distribution) for distribution in distributions]
        gaussians = [one for one in found if one is not None]
        self._sizes = [0 if one is None else len(one[0]) for one in found]
        if not gaussians:
            return
        log_weights, means, precisions = (torch.cat(part) for part in zip(*gaussians, strict=True))
        self._centre = means.mean(0)
        means = means - self._centre
        size = means.shape[1]
        rows, columns = torch.triu_indices(size, size, 1, device=means.device)
        cross = precisions[:, rows, columns]
        self._correlated = bool(cross.any())
        linear = (precisions @ means[..., None])[..., 0]
        diagonals = precisions.diagonal(dim1=-2, dim2=-1)
        constant = log_weights - 0.5 * ((linear * means).sum(-1) + size * math.log(2 * math.pi))
        constant = constant + 0.5 * torch.linalg.slogdet(precisions).logabsdet
        blocks = [constant[:, None], linear, -0.5 * diagonals, *([-cross] if self._correlated else [])]
        self._coefficients = torch.cat(blocks, dim=1)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Log-densities of a `shape x D` tensor: `len(distributions) x shape`."""
        mixtures = iter(self._mixtures(z) if any(self._sizes) else ())
        return torch.stack(
            [
                next(mixtures) if size else distribution.log_prob(z).double()
                for size, distribution in zip(self._sizes, self.distributions, strict=True)
            ]
        )

    def _mixtures(self, z: Tensor) -> list[Tensor]:
        points = z.reshape(-1, z.shape[-1]).double().mT.contiguous() - self._centre[:, None]
        size, count = points.shape
        features = points.new_empty(self._coefficients.shape[1], count)
        features[0] = 1.0
        features[1 : size + 1] = points
        torch.square(points, out=features[size + 1 : 2 * size + 1])
        start = 2 * size + 1
        for row in range(size - 1 if self._correlated else 0):
            end = start + size - row - 1
            torch.mul(points[row], points[row + 1 :], out=features[start:end])
            start = end
        joint = self._coefficients @ features
        sizes = [size for size in self._sizes if size]
        return [part.logsumexp(0).reshape(z.shape[:-1]) for part in joint.split(sizes)]


def _gaussians(distribution: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Log-weights `(K,)`, means `K x D` and precisions `K x D x D` of a Gaussian mixture, in float64."""
    if not isinstance(distribution, MixtureSameFamily):
        return None
    components: Any = distribution.component_distribution
    log_weights = distribution.mixture_distribution.logits.double().log_softmax(-1)
    if isinstance(components, MultivariateNormal):
        factors = components.scale_tril.double()
        return log_weights, components.loc.double(), torch.cholesky_inverse(factors)
    base: Any = components.base_dist if isinstance(components, Independent) else None
    if isinstance(base, Normal):
        scales = base.scale.double().expand_as(base.loc)
        return log_weights, base.loc.double(), torch.diag_embed(scales.square().reciprocal())
    return None
