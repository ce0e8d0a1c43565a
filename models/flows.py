"""Autoregressive flows: distributions by change of variables, and a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.transforms import Transform

from latentmix.models.arguments import check_positive
from latentmix.models.priors import Prior

_validated = Distribution._validate_args
import zuko  # noqa: E402  (it switches off torch's validation of distributions, for the whole process)

Distribution.set_default_validate_args(_validated)

__all__ = ["FlowDistribution", "FlowPrior", "autoregressive"]


def autoregressive(latent_dim: int, transforms: int, hidden: Sequence[int], context: int = 0) -> nn.Module:
    """Affine masked autoregressive transformations, in alternating order of the values.

    Called with a `batch_shape x context` tensor, or without an argument if `context` is 0, the module gives a
    transformation of `D` values: one parallel pass forwards, and `D` passes backwards. Initially it is close to the
    identity, as the last layers of the networks are scaled by 0.01.

    Args:
        latent_dim: Number of values `D`; a transformation of one value is affine.
        transforms: Number of transformations.
        hidden: Widths of the hidden layers of each masked network.
        context: Length of the context vector.

    Raises:
        ValueError: If a size is below 1, or `context` below 0.

    Example:
        >>> import torch
        >>> from latentmix.models.flows import autoregressive
        >>> autoregressive(3, transforms=2, hidden=(16,))()(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """
    check_positive(latent_dim=latent_dim, transforms=transforms, hidden=tuple(hidden), context=context + 1)
    flow: Any = zuko.flows.MAF(latent_dim, context, transforms=transforms, hidden_features=tuple(hidden)).transform
    with torch.no_grad():
        for transform in flow.transforms:
            last = transform.hyper[-1] if hasattr(transform, "hyper") else transform.phi
            for parameter in last.parameters():
                parameter.mul_(0.01)
    return flow


@final
class FlowDistribution(dist.TorchDistribution):
    r"""The distribution of :math:`z = f(\epsilon)`: :math:`\log p(z) = \log p(\epsilon) - \log |\det f'(\epsilon)|`.

    The density of the last sample is computed without the inverse of f, so that an inverse autoregressive flow, where f
    is one parallel pass and its inverse is sequential, is fast.

    Args:
        base: Distribution of epsilon, event shape `(D,)`.
        transform: f, a bijection of `D` values.
        validate_args: Whether values are checked; by default according to Pyro's settings.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from torch.distributions.transforms import AffineTransform
        >>> from latentmix.models.flows import FlowDistribution, autoregressive
        >>> base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> flow = FlowDistribution(base, autoregressive(3, transforms=2, hidden=(16,))())
        >>> flow.log_prob(flow.rsample((5,))).shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: dist.TorchDistribution, transform: Transform, *, validate_args: bool | None = None
    ) -> None:
        self.base = base
        self.transform: Any = transform  # zuko adds the method `call_and_ladj` to torch's transforms
        self._last: tuple[Tensor, int, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """The distribution with another batch shape."""
        return FlowDistribution(self.base.expand(batch_shape), self.transform, validate_args=self._validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw `sample_shape x batch_shape x D` values, with gradients."""
        noise = self.base.rsample(torch.Size(sample_shape))
        value, log_det = self.transform.call_and_ladj(noise)
        self._last = (value, _version(value), self.base.log_prob(noise) - log_det)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; without the inverse of f, if that is the last sample, unchanged."""
        if self._last is not None:
            sample, version, density = self._last
            if (
                value is sample
                and version == _version(value)
                and (density.requires_grad or not torch.is_grad_enabled())
            ):
                return density
        if self._validate_args:
            self._validate_sample(value)
        noise, log_det = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(noise) + log_det


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


@final
class FlowPrior(Prior):
    r"""A masked autoregressive flow, :math:`p(z) = \mathcal N(g(z) \mid 0, I)\, |\det g'(z)|`.

    Papamakarios et al., *Masked autoregressive flow for density estimation*, 2017, equations 3 to 5, by zuko. A
    density is one parallel pass, a sample takes `latent_dim` of them. For `latent_dim = 1` it is a normal distribution.

    Args:
        latent_dim: Length of z.
        transforms: Number of autoregressive transformations.
        hidden: Widths of the hidden layers of each masked network.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> from latentmix.models import FlowPrior
        >>> FlowPrior(3, transforms=2, hidden=(16,))().event_shape
        torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, transforms: int = 3, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(latent_dim)
        self.transforms = transforms
        self.hidden = tuple(hidden)
        self.flow = autoregressive(latent_dim, transforms, hidden)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`."""
        return FlowDistribution(dist.Normal(self.loc, self.scale).to_event(1), self.flow().inv)
