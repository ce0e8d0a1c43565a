"""Families of distributions over z, conditioned on an encoder's features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, register_kl

from latentmix.models.arguments import check_positive
from latentmix.models.flows import FlowDistribution, autoregressive
from latentmix.models.logistic import softplus
from latentmix.models.mixture_prior import cholesky_factor
from latentmix.models.pretrained import Part

__all__ = ["AutoregressiveFlow", "ConditionalDistribution", "DiagonalNormal", "Family", "FullNormal"]

Scale = Literal["log_variance", "softplus"]


class ConditionalDistribution(nn.Module, ABC):
    """A module from features to a distribution over z; a subclass fills `forward`, `mean` and `covariance`."""

    @abstractmethod
    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """Give q(z given features).

        Args:
            features: A `batch_shape x features` tensor.

        Returns:
            A distribution of batch shape `batch_shape` and event shape `(latent_dim,)`.
        """

    @abstractmethod
    def mean(self, features: Tensor) -> Tensor:
        """Mean of q(z given features): a `batch_shape x latent_dim` tensor."""

    @abstractmethod
    def covariance(self, features: Tensor) -> Tensor:
        """Covariance of q(z given features).

        Returns:
            Variances, `batch_shape x latent_dim`, if the values of z are independent; else matrices,
            `batch_shape x latent_dim x latent_dim`.
        """


class Family(Part):
    """A family of distributions, without weights: one object serves any number of guides. A subclass fills `build`."""

    @abstractmethod
    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """Build the layers from features to a distribution over z.

        Args:
            features: Number of features.
            latent_dim: Length of z.
        """


@final
@dataclass(frozen=True)
class DiagonalNormal(Family):
    r"""The mean-field family :math:`q(z \mid x) = \mathcal N(z \mid \mu(x), \mathrm{diag}\,\sigma^2(x))`.

    Args:
        scale: "log_variance": one linear layer for the mean, another for the logarithm of the variance (Kingma and
            Welling, 2014, appendix C.2). "softplus": one linear layer, whose first half of outputs is the mean, and
            the softplus of whose second half is the variance.

    Raises:
        ValueError: If `scale` is another word.

    Example:
        >>> import torch
        >>> from latentmix.guides import DiagonalNormal
        >>> q = DiagonalNormal().build(features=8, latent_dim=2)
        >>> q(torch.zeros(5, 8)).batch_shape
        torch.Size([5])
    """

    scale: Scale = "log_variance"

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"Expected scale in {get_args(Scale)} for DiagonalNormal; got {self.scale!r}.")

    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """See `Family.build`."""
        return (_DiagonalNormal if self.scale == "log_variance" else _SoftplusNormal)(features, latent_dim)


class _DiagonalNormal(ConditionalDistribution):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        scale = torch.exp(0.5 * self.log_variance(features))
        return dist.Normal(self.loc(features), scale).to_event(1)

    def mean(self, features: Tensor) -> Tensor:
        loc: Tensor = self.loc(features)
        return loc

    def covariance(self, features: Tensor) -> Tensor:
        return torch.exp(self.log_variance(features))


class _SoftplusNormal(ConditionalDistribution):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, 2 * latent_dim)

    def _moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.out(features).chunk(2, dim=-1)
        return loc, softplus(raw).clamp_min(torch.finfo(raw.dtype).tiny)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc, variance = self._moments(features)
        return dist.Normal(loc, variance.sqrt()).to_event(1)

    def mean(self, features: Tensor) -> Tensor:
        return self._moments(features)[0]

    def covariance(self, features: Tensor) -> Tensor:
        return self._moments(features)[1]


@final
@dataclass(frozen=True)
class FullNormal(Family):
    r"""Normal distributions with correlations, :math:`q(z \mid x) = \mathcal N(z \mid \mu(x), L(x) L(x)^\top)`.

    Linear layers give the mean, the logarithm of the squared diagonal of the Cholesky factor L, and the elements below
    the diagonal in units of it (Kingma and Welling, *An introduction to variational autoencoders*, 2019, section
    2.5.1). Initially the covariance is almost diagonal. The KL divergence from a diagonal normal prior is analytic.

    Example:
        >>> import torch
        >>> from latentmix.guides import FullNormal
        >>> q = FullNormal().build(features=8, latent_dim=2)
        >>> q.covariance(torch.zeros(5, 8)).shape
        torch.Size([5, 2, 2])
    """

    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """See `Family.build`."""
        return _FullNormal(features, latent_dim)


@final
class CorrelatedNormal(dist.MultivariateNormal):
    """A multivariate normal whose KL divergence from a diagonal normal is registered with torch.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from latentmix.guides.families import CorrelatedNormal
        >>> q = CorrelatedNormal(torch.zeros(2), scale_tril=torch.eye(2))
        >>> torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
        tensor(0.)
    """


def _kl_from_diagonal(q: CorrelatedNormal, p: Any) -> Tensor:
    base = p.base_dist
    if not isinstance(base, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    factor: Tensor = q.scale_tril
    log_ratio = base.scale.log() - factor.diagonal(dim1=-2, dim2=-1).log()
    squares = factor.square().sum(-1) + (q.loc - base.loc).square()
    return (log_ratio + 0.5 * (squares / base.scale.square() - 1)).sum(-1)


register_kl(CorrelatedNormal, Independent)(_kl_from_diagonal)


class _FullNormal(ConditionalDistribution):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)
        self.lower = nn.Linear(features, latent_dim * (latent_dim - 1) // 2) if latent_dim > 1 else None
        if self.lower is not None:
            with torch.no_grad():
                for parameter in self.lower.parameters():
                    parameter.mul_(0.01)

    def _scale_tril(self, features: Tensor) -> Tensor:
        scales = torch.exp(0.5 * self.log_variance(features))
        return cholesky_factor(scales, None if self.lower is None else self.lower(features))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return CorrelatedNormal(self.loc(features), scale_tril=self._scale_tril(features))

    def mean(self, features: Tensor) -> Tensor:
        loc: Tensor = self.loc(features)
        return loc

    def covariance(self, features: Tensor) -> Tensor:
        factor = self._scale_tril(features)
        return factor @ factor.mT


@final
@dataclass(frozen=True)
class AutoregressiveFlow(Family):
    r"""Inverse autoregressive flows: a diagonal normal transformed by masked autoregressive networks, by zuko.

    :math:`z = f_T \circ \dots \circ f_1(\epsilon \mid h(x))` with :math:`\epsilon \sim \mathcal N(\mu(x),
    \mathrm{diag}\,\sigma^2(x))` (Kingma et al., *Improved variational inference with inverse autoregressive flow*,
    2016, equations 9 to 11). Initially it is close to that normal. A sample and its density take one parallel pass,
    the density of other values `latent_dim` passes. Mean and covariance have no closed form: they are averages over
    fixed antithetic draws of epsilon, deterministic, and exact if the flow is affine.

    Args:
        transforms: Number of autoregressive transformations.
        hidden: Widths of the hidden layers of each masked network.
        context: Length of h(x), the output of a linear layer.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> import torch
        >>> from latentmix.guides import AutoregressiveFlow
        >>> q = AutoregressiveFlow(transforms=1).build(features=8, latent_dim=2)(torch.zeros(5, 8))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    transforms: int = 2
    hidden: Sequence[int] = (64,)
    context: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_positive(transforms=self.transforms, hidden=self.hidden, context=self.context)

    def build(self, features: int, latent_dim: int) -> ConditionalDistribution:
        """See `Family.build`."""
        return _AutoregressiveFlow(features, latent_dim, self)


class _AutoregressiveFlow(ConditionalDistribution):
    draws: Tensor

    def __init__(self, features: int, latent_dim: int, family: AutoregressiveFlow) -> None:
        super().__init__()
        self.base = _DiagonalNormal(features, latent_dim)
        self.context = nn.Linear(features, family.context)
        self.flow = autoregressive(latent_dim, family.transforms, family.hidden, family.context)
        self.register_buffer("draws", _standard_draws(latent_dim), persistent=False)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return FlowDistribution(self.base(features), self.flow(self.context(features)))

    def _spread(self, features: Tensor) -> Tensor:
        """The fixed draws through the flow: `draws x batch_shape x latent_dim`."""
        draws = self.draws.reshape(len(self.draws), *[1] * (features.dim() - 1), -1)
        noise = self.base.mean(features) + self.base.covariance(features).sqrt() * draws
        z: Tensor = self.flow(self.context(features))(noise)
        return z

    def mean(self, features: Tensor) -> Tensor:
        return self._spread(features).mean(0)

    def covariance(self, features: Tensor) -> Tensor:
        z = self._spread(features)
        deviations = z - z.mean(0)
        return torch.einsum("s...i,s...j->...ij", deviations, deviations) / len(z)


def _standard_draws(size: int) -> Tensor:
    """Antithetic draws of N(0, I) whose sample covariance is I, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(max(64, 2 * size), size, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(half.T @ half / len(half))
    half = torch.linalg.solve_triangular(factor, half.T, upper=False).T
    return torch.cat([half, -half]).to(torch.get_default_dtype())
