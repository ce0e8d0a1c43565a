"""Log-densities of points under the components of Gaussian mixtures, by the kernels of the E step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentmix.inference.mixtures.em.kernels import Centred, Expanded, Kernel, accurate
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

__all__ = ["Densities", "LogJoint", "log_joint"]


@torch.no_grad()
def log_joint(x: Tensor, parameters: MixtureParameters) -> Tensor:
    """Log of weight times density of points under each component, by the kernels of the E step.

    Args:
        x: `n x D` points in any floating dtype.
        parameters: The mixture, in float64.

    Returns:
        An `n x K` tensor in float64.

    Example:
        >>> import torch
        >>> from latentmix.inference.mixtures.em.density import log_joint
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> from latentmix.models.mixture.parameters import MixtureParameters
        >>> zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
        >>> mixture = MixtureParameters(torch.ones(1).double(), zeros, ones, covariance_structure("diag"))
        >>> log_joint(torch.zeros(3, 2), mixture).exp()[0] * 2 * torch.pi
        tensor([1.], dtype=torch.float64)
    """
    joint = torch.empty(len(x), len(parameters.weights), dtype=torch.float64, device=x.device)
    for rows, block in LogJoint(parameters)(x):
        joint[rows] = block.mT
    return joint


@final
class LogJoint:
    """Log of weight times density under each component, for batches of points.

    Batches so far out that quadratic features lose digits go through the centred kernel.

    Args:
        parameters: The mixture, in float64; its weights need not sum to one.
    """

    @torch.no_grad()
    def __init__(self, parameters: MixtureParameters) -> None:
        self._parameters = parameters
        self._location, self._variance = parameters.mean, parameters.variance
        self._impossible = (parameters.weights == 0).nonzero()[:, 0]
        self._kernels: dict[bool, Kernel] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the rows of an `n x D` tensor, each with `K x b` values, valid until the next."""
        if not len(x):
            return
        low, high = x.aminmax(dim=0)
        reach = torch.maximum(high.double() - self._location, self._location - low.double())
        radius = float((reach.square() / self._variance).sum().sqrt())
        kernel = self._kernel(accurate(self._parameters, self._location, self._variance, radius, shared=True))
        for first in range(0, len(x), kernel.rows):
            rows = slice(first, min(first + kernel.rows, len(x)))
            joint = kernel.log_joint(x[rows]).add_(kernel.common_square())
            if len(self._impossible):
                joint[self._impossible] = -torch.inf
            yield rows, joint

    def _kernel(self, expanded: bool) -> Kernel:
        if expanded not in self._kernels:
            parameters = self._parameters
            self._kernels[expanded] = Expanded(parameters, self._location) if expanded else Centred(parameters)
        return self._kernels[expanded]


@final
class Densities:
    """Log-densities of latents under several distributions, in float64.

    All components of all Gaussian mixtures go through one matrix product, with none of the `n x K x D` tensors that
    `MixtureSameFamily` makes. Other distributions have their own `log_prob`. There are no gradients.

    Args:
        distributions: Of batch shape `()` and event shape `(D,)`.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from latentmix.inference.mixtures.em.density import Densities
        >>> components = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        >>> mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components)
        >>> densities = Densities([mixture, dist.Normal(torch.zeros(2), 1.0).to_event(1)])
        >>> densities(torch.zeros(5, 2)).shape
        torch.Size([2, 5])
    """

    @torch.no_grad()
    def __init__(self, distributions: Sequence[Distribution]) -> None:
        self.distributions = distributions
        gaussians = [_gaussians(distribution) for distribution in distributions]
        self._sizes = [0 if mixture is None else len(mixture[0]) for mixture in gaussians]
        mixtures = [mixture for mixture in gaussians if mixture is not None]
        if not mixtures:
            return
        weights, means = (torch.cat([mixture[part] for mixture in mixtures]) for part in range(2))
        factors = [mixture[2] for mixture in mixtures]
        if all(factor.ndim == 2 for factor in factors):
            variances = torch.cat(factors).square()
            mixture = MixtureParameters(weights, means, variances, covariance_structure("diag"))
        else:
            whole = torch.cat([factor.diag_embed() if factor.ndim == 2 else factor for factor in factors])
            mixture = MixtureParameters.from_scale_tril(weights, means, whole)
        self._log_joint = LogJoint(mixture)

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

    def _mixtures(self, z: Tensor) -> Tensor:
        points, sizes = z.flatten(0, -2) if z.ndim > 1 else z[None], [size for size in self._sizes if size]
        densities = points.new_empty(len(sizes), len(points), dtype=torch.float64)
        for rows, joint in self._log_joint(points):
            for density, part in zip(densities, joint.split(sizes), strict=True):
                torch.logsumexp(part, 0, out=density[rows])
        return densities.view(-1, *z.shape[:-1])


def _gaussians(distribution: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Weights `(K,)`, means `K x D` and Cholesky factors, `K x D` where diagonal, of a mixture, in float64."""
    if not isinstance(distribution, MixtureSameFamily):
        return None
    components: Any = distribution.component_distribution
    weights = distribution.mixture_distribution.logits.double().softmax(-1)
    if isinstance(components, MultivariateNormal):
        return weights, components.loc.double(), components.scale_tril.double()
    base: Any = components.base_dist if isinstance(components, Independent) else None
    if isinstance(base, Normal):
        return weights, base.loc.double(), base.scale.double().expand_as(base.loc)
    return None
