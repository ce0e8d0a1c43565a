"""Univariate distributions that are exact everywhere, unlike those of Pyro and torch, or that these lack."""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from latentmix.models.logistic import bernoulli_log_mass, log_one_minus_exp, logsigmoid, one_minus_exp, polynomial

__all__ = ["LEVELS", "Bernoulli", "ContinuousBernoulli", "DiscretizedLogisticMixture", "on_levels"]

LEVELS = 256


@final
class Bernoulli(dist.Bernoulli):  # type: ignore[misc]  # made at run time
    """Pyro's Bernoulli distribution with a log-mass that is exact to rounding, and fast when compiled.

    Example:
        >>> import torch
        >>> from latentmix.models.distributions import Bernoulli
        >>> Bernoulli(logits=torch.tensor([0.0, 20.0])).log_prob(torch.tensor([1.0, 0.0]))
        tensor([ -0.6931, -20.0000])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-mass at a tensor that broadcasts with `batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        return bernoulli_log_mass(self.logits, value)


# The mean of a continuous Bernoulli is 1/2 plus odd powers of u = l/2: zeta(2n) / pi^2n with alternating signs.
_COEFFICIENTS = (
    *(1 / 6, -1 / 90, 1 / 945, -1 / 9_450, 1 / 93_555, -691 / 638_512_875, 2 / 18_243_225),
    *(-3_617 / 325_641_566_250, 43_867 / 38_979_295_480_125, -174_611 / 1_531_329_465_290_625),
    155_366 / 13_447_856_940_643_125,
)
_SERIES = {4: _COEFFICIENTS[:5], 8: _COEFFICIENTS}


def _mean(logits: Tensor) -> Tensor:
    """1/2 + (coth u - 1/u) / 2 with u = l/2: by its power series where abs(l) < 1, by exponentials elsewhere."""
    size, u = logits.abs(), logits.clamp(-1, 1) / 2
    far = size.clamp_min(1)
    above = 1 / (1 - torch.exp(-far)) - 1 / far - 0.5
    # By lerp, since `where` and booleans take as long as ten additions.
    return 0.5 + torch.lerp(u * polynomial(u * u, _SERIES), above * logits.sign(), size.floor().clamp_max(1))


def _positive(logits: Tensor) -> Tensor:
    return logits.sign().clamp_min(0)


class _LogNormalizer(torch.autograd.Function):
    """Log(abs(l) / (1 - exp(-abs(l)))), with its gradient in closed form: automatically it would be 0/0 at l = 0."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        size = logits.abs().clamp_min(torch.finfo(logits.dtype).tiny)
        return torch.log(size / one_minus_exp(size))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return gradients[0] * (_positive(logits) - _mean(logits))


@final
class ContinuousBernoulli(TorchDistribution):
    r"""The exponential family on [0, 1], :math:`p(x) = e^{lx}\, l / (e^l - 1)`, exact to rounding at every logit l.

    At l = 0 it is the uniform distribution, a removable singularity of the formula. The log-density uses decaying
    exponentials only; the mean, and so the gradient x - E[x], is a power series where abs(l) < 1
    (Loaiza-Ganem and Cunningham, *The continuous Bernoulli: fixing a pervasive error in variational autoencoders*,
    2019, section 3).

    Args:
        logits: The logits l, a `batch_shape` tensor.
        validate_args: Whether arguments and data are checked.

    Example:
        >>> import torch
        >>> from latentmix.models.distributions import ContinuousBernoulli
        >>> ContinuousBernoulli(torch.zeros(2)).log_prob(torch.tensor([0.0, 0.7])).exp()
        tensor([1., 1.])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        """The distribution with another batch shape."""
        new = ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at a tensor that broadcasts with `batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        distance = value - _positive(self.logits)
        log_normalizer: Tensor = _LogNormalizer.apply(self.logits)
        return self.logits * distance + log_normalizer

    @property
    def mean(self) -> Tensor:
        """The mean 1/2 + (coth u - 1/u) / 2, with u = l/2."""
        return _mean(self.logits)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """A sample by the inverse of the distribution function, differentiable in the logits."""
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(uniform.clamp_min(torch.finfo(uniform.dtype).tiny))

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles, at probabilities that broadcast with `batch_shape`."""
        near = self.logits.abs() < torch.finfo(self.logits.dtype).eps ** (1 / 3)
        small = self.logits.where(near, 0.0)
        spread = value * (1 - value)
        inside = value + small * spread / 2 + small**2 * spread * (1 - 2 * value) / 6
        far = self.logits.where(~near, 1.0)
        size = far.abs()
        # Distance from the end of highest density; the second form avoids cancellation at large size.
        before = torch.where(far > 0, value, 1 - value)
        after = torch.where(far > 0, 1 - value, value)
        moderate = torch.log1p(after * torch.expm1(-size.clamp_max(1)))
        steep = torch.log(before + after * torch.exp(-size))
        distance = -torch.where(size < 1, moderate, steep) / size
        outside = torch.where(far > 0, 1 - distance, distance)
        return torch.where(near, inside, outside).clamp(0, 1)


def on_levels(x: Tensor) -> Tensor:
    """Whether each value is one of the 256 levels k/255, up to the rounding of float32.

    Args:
        x: A tensor of any shape.

    Returns:
        A boolean tensor of that shape.

    Example:
        >>> import torch
        >>> from latentmix.models.distributions import on_levels
        >>> on_levels(torch.tensor([0.0, 128 / 255, 0.5]))
        tensor([ True,  True, False])
    """
    level = x * (LEVELS - 1.0)
    return ((level - level.round()).abs() < 1e-3) & (level > -0.5) & (level < LEVELS - 0.5)


class _Levels(Constraint):
    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return on_levels(value)


@final
class DiscretizedLogisticMixture(TorchDistribution):
    r"""A mixture of K logistic distributions rounded to the 256 levels k/255: a probability mass, not a density.

    Level x has the mass :math:`\sum_j \pi_j [\sigma((x + h - \mu_j)/s_j) - \sigma((x - h - \mu_j)/s_j)]` with
    h = 1/510; the first and the last level include the tails (Salimans, Karpathy, Chen and Kingma, *PixelCNN++*, 2017,
    equation 2). The difference is taken as :math:`\sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b-a})`,
    without cancellation, so that the masses sum to one at every scale.

    Args:
        logits: Unnormalised log-weights, a `batch_shape x K` tensor.
        loc: Means of the logistic distributions, a `batch_shape x K` tensor.
        scale: Their scales, a positive `batch_shape x K` tensor.
        validate_args: Whether arguments and data are checked.

    Example:
        >>> import torch
        >>> from latentmix.models.distributions import DiscretizedLogisticMixture
        >>> masses = DiscretizedLogisticMixture(torch.zeros(2), torch.tensor([0.2, 0.8]), torch.tensor([0.01, 0.1]))
        >>> f"{masses.log_prob(torch.arange(256) / 255).exp().sum():.4f}"
        '1.0000'
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = _Levels()

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogisticMixture:
        """The distribution with another batch shape."""
        shape = (*batch_shape, self.loc.shape[-1])
        parts = (part.expand(shape) for part in (self.logits, self.loc, self.scale))
        new = DiscretizedLogisticMixture(*parts, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-mass at levels that broadcast with `batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        # In units of a level neighbouring bins have exactly the same edge, as half-integers are exact.
        level = (value * (LEVELS - 1)).round().unsqueeze(-1)
        loc, scale = self.loc * (LEVELS - 1), self.scale * (LEVELS - 1)
        lowest, highest = level == 0, level == LEVELS - 1
        below_upper_edge = logsigmoid((level + 0.5 - loc) / scale).masked_fill(highest, 0.0)
        above_lower_edge = logsigmoid((loc - level + 0.5) / scale).masked_fill(lowest, 0.0)
        width = log_one_minus_exp(1 / scale).masked_fill(lowest | highest, 0.0)
        mass = below_upper_edge + above_lower_edge + width
        if self.loc.shape[-1] == 1:
            return mass[..., 0]
        return torch.logsumexp(self.logits.log_softmax(-1) + mass, dim=-1)

    @property
    def mean(self) -> Tensor:
        """The exact mean, as the sum of P(x > k/255) over k; memory does not grow with the levels."""
        weights = self.logits.softmax(-1)
        total = torch.zeros_like(self.loc)
        for level in range(LEVELS - 1):
            total = total + ((self.loc - (level + 0.5) / (LEVELS - 1)) / self.scale).sigmoid()
        return (weights * total).sum(-1) / (LEVELS - 1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Levels k/255, a `sample_shape x batch_shape` tensor."""
        shape = self._extended_shape(sample_shape)
        chosen = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        loc, scale = (
            part.expand(*shape, part.shape[-1]).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
            for part in (self.loc, self.scale)
        )
        uniform = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        level = ((loc + scale * (uniform.log() - torch.log1p(-uniform))) * (LEVELS - 1)).round()
        return level.clamp(0, LEVELS - 1) / (LEVELS - 1)
