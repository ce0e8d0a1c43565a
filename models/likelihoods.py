"""Likelihoods p(x given z): distributions over the data, parametrised by the decoder's output."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models import distributions
from latentmix.models.arguments import check_positive
from latentmix.models.logistic import softplus
from latentmix.models.pretrained import Part

__all__ = ["Bernoulli", "ContinuousBernoulli", "DiscretizedLogistic", "Likelihood"]

Support = Literal["binary", "unit_interval", "real", "positive", "levels", "counts"]
Measure = Literal["mass on {0, 1}", "density", "mass on 256 levels", "mass on {0, 1, 2, ...}"]

_MEASURES: dict[str, Measure] = {
    "binary": "mass on {0, 1}",
    "unit_interval": "density",
    "real": "density",
    "positive": "density",
    "levels": "mass on 256 levels",
    "counts": "mass on {0, 1, 2, ...}",
}

_LEAST_SCALE = 1 / 2000


class Likelihood(nn.Module, Part):
    """Distribution over x given the decoder's output, independent over the values of x.

    A subclass fills `forward` and `mean`, and states `support`, and `outputs` if not 1.

    Attributes:
        outputs: Number of decoder outputs per value of x.
        support: Values of x: `"binary"` (0 and 1), `"unit_interval"`, `"real"`, `"positive"`, `"levels"` (the 256 grey
            levels k/255) or `"counts"` (0, 1, 2, ...).
    """

    outputs: int = 1
    support: ClassVar[Support]

    @property
    def measure(self) -> Measure:
        """The base measure of the log-likelihood; ELBOs may be ranked only within the same measure.

        Raises:
            ValueError: If the support is none of the known ones.
        """
        if self.support not in _MEASURES:
            raise ValueError(
                f"Expected {type(self).__name__} to have a support out of {', '.join(_MEASURES)}; got "
                f"{self.support!r}: another one needs a property `measure` beside it."
            )
        return _MEASURES[self.support]

    @property
    def discrete(self) -> bool:
        """Whether the log-likelihood is that of a probability mass, which can be stated in bits per dimension."""
        return self.measure.startswith("mass")

    @abstractmethod
    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Give the distribution over x.

        Args:
            outputs: A `batch_shape x shape x outputs` tensor, the output of a `Decoder`.

        Returns:
            A distribution whose batch and event shape together are `batch_shape x shape`.
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """Mean of x: a `batch_shape x shape` tensor from a `batch_shape x shape x outputs` tensor."""

    def check(self, x: Tensor) -> None:
        """Refuse data outside the support.

        Args:
            x: A tensor of data, any shape.

        Raises:
            ValueError: If a value is NaN, infinite or outside the support.
        """
        name = type(self).__name__
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected finite data for {name}; got NaN or infinite values.")
        if self.support == "binary" and not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                f"Expected data of zeros and ones for {name}; got values between {x.min():.4g} and {x.max():.4g} "
                "that are neither: binarise them, or use a likelihood for grey values."
            )
        if self.support == "unit_interval" and not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"Expected data in [0, 1] for {name}; got values between {x.min():.4g} and {x.max():.4g}.")
        if self.support == "positive" and not bool((x > 0).all()):
            raise ValueError(f"Expected positive data for {name}; got values from {x.min():.4g}.")
        if self.support == "counts" and not bool(((x >= 0) & (x % 1 == 0)).all()):
            raise ValueError(
                f"Expected counts, 0, 1, 2, ..., for {name}; got values between {x.min():.4g} and {x.max():.4g} that "
                "are none."
            )
        if self.support == "levels" and not bool((fitting := distributions.on_levels(x)).all()):
            raise ValueError(
                f"Expected data on the 256 levels k / 255 for {name}; got {x[~fitting][0]:.6g}: divide 8-bit values by "
                "255 and leave them as they are, or use a likelihood for real values."
            )


@final
class Bernoulli(Likelihood):
    r"""Black or white pixels, :math:`p(x \mid z) = \prod_i \mathrm{Bern}(x_i \mid \sigma(f_i(z)))`.

    The decoder gives logits (Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.1). Grey
    values are not in its support: binarise them first.

    Example:
        >>> import torch
        >>> from latentmix.models import Bernoulli
        >>> likelihood = Bernoulli()
        >>> likelihood.mean(torch.zeros(2, 1, 4, 4, 1)).unique()
        tensor([0.5000])
    """

    support = "binary"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return distributions.Bernoulli(logits=outputs[..., 0])

    def mean(self, outputs: Tensor) -> Tensor:
        """See `Likelihood.mean`."""
        return outputs[..., 0].sigmoid()


@final
class ContinuousBernoulli(Likelihood):
    r"""Grey values in [0, 1], :math:`p(x \mid z) \propto \prod_i e^{x_i f_i(z)}`, with its normalising constant.

    The decoder gives logits. Exact near logit 0 too, where the textbook formula is 0/0 (Loaiza-Ganem and Cunningham,
    *The continuous Bernoulli: fixing a pervasive error in variational autoencoders*, 2019, section 3).

    Example:
        >>> import torch
        >>> from latentmix.models import ContinuousBernoulli
        >>> ContinuousBernoulli().mean(torch.tensor([[0.0], [10.0]]))
        tensor([0.5000, 0.9000])
    """

    support = "unit_interval"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return distributions.ContinuousBernoulli(outputs[..., 0])

    def mean(self, outputs: Tensor) -> Tensor:
        """See `Likelihood.mean`."""
        return distributions.ContinuousBernoulli(outputs[..., 0], validate_args=False).mean


@final
class DiscretizedLogistic(Likelihood):
    r"""Grey levels k/255 as rounded logistic noise, or a mixture of such; a probability mass on 256 levels.

    For one component the decoder gives mean and raw scale, for several the log-weights, means and raw scales; the
    scale is :math:`s_0 + \mathrm{softplus}(\cdot)` with s0 = 1/2000, an eighth of a level. The mean image is the exact
    mean of the rounded distribution (Salimans, Karpathy, Chen and Kingma, *PixelCNN++*, 2017, equation 2).

    Args:
        n_mixtures: Number of components of each value.

    Raises:
        ValueError: If `n_mixtures` is below 1.

    Example:
        >>> import torch
        >>> from latentmix.models import DiscretizedLogistic
        >>> likelihood = DiscretizedLogistic(n_mixtures=5)
        >>> likelihood.outputs, likelihood.discrete
        (15, True)
        >>> likelihood(torch.zeros(1, 4, 4, 15)).sample().shape
        torch.Size([1, 4, 4])
    """

    support = "levels"

    def __init__(self, n_mixtures: int = 1) -> None:
        super().__init__()
        check_positive(n_mixtures=n_mixtures)
        self.n_mixtures = n_mixtures
        self.outputs = 2 if n_mixtures == 1 else 3 * n_mixtures

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return self._mixture(outputs, None)

    def mean(self, outputs: Tensor) -> Tensor:
        """See `Likelihood.mean`; without gradients, memory does not grow with the number of levels."""
        return self._mixture(outputs, False).mean

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        return f"n_mixtures={self.n_mixtures}"

    def _mixture(self, outputs: Tensor, validate: bool | None) -> distributions.DiscretizedLogisticMixture:
        *logits, loc, raw = outputs.split(self.n_mixtures, dim=-1)
        weights = logits[0] if logits else torch.zeros_like(loc)
        scale = _LEAST_SCALE + softplus(raw)
        return distributions.DiscretizedLogisticMixture(weights, loc, scale, validate_args=validate)
