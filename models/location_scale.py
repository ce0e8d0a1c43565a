"""Likelihoods of real values: the decoder's output plus noise of a fixed, shared or individual level."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.arguments import positive_number
from latentmix.models.likelihoods import Likelihood
from latentmix.models.logistic import softplus

__all__ = ["Gaussian", "Laplace", "LocationScale"]

_INITIAL = 0.1


class LocationScale(Likelihood, ABC):
    """The decoder's output plus noise of a level that is fixed, shared by all values, or an output of the decoder.

    The level is the parameter of the subclass: a variance, or a scale.

    Args:
        noise: A positive number; `"shared"` for one learned level of all values; `"pixel"` for a second output of
            the decoder, with the level `floor + softplus(output)`.
        closed_form: Whether a shared level is a buffer that `latentmix.inference.ClosedFormVariance` sets after every
            epoch, instead of a parameter that the optimizer moves.
        floor: Lower bound of a learned level.

    Attributes:
        log_noise: Logarithm of a shared level minus its floor, a scalar; only if the level is shared.

    Raises:
        ValueError: If a level is not positive and finite, or `closed_form` comes without `"shared"`.
    """

    support = "real"
    argument: ClassVar[str]
    log_noise: Tensor

    def __init__(self, noise: float | Literal["shared", "pixel"], *, closed_form: bool, floor: float) -> None:
        super().__init__()
        if noise not in ("shared", "pixel"):
            noise = positive_number(noise, f"{self.argument} to be a positive number, 'shared' or 'pixel'")
        if closed_form and noise != "shared":
            raise ValueError(
                f"Expected {self.argument}='shared' with closed_form=True; got {noise!r}: nothing else is updated."
            )
        self.noise = noise
        self.closed_form = closed_form
        self.floor = positive_number(floor, f"a positive floor for {self.argument}")
        self.outputs = 2 if noise == "pixel" else 1
        if noise == "shared":
            if closed_form:
                self.register_buffer("log_noise", torch.zeros(()))
            else:
                self.log_noise = nn.Parameter(torch.zeros(()))
            self.set_noise_level(max(_INITIAL, 2 * floor))

    @abstractmethod
    def deviation(self, x: Tensor, mean: Tensor) -> Tensor:
        """Deviation of every value, of x's shape; its average is the shared level of greatest likelihood."""

    @property
    def noise_level(self) -> float | None:
        """The present level; None if every pixel has its own."""
        if self.noise == "pixel":
            return None
        return self.floor + self.log_noise.double().exp().item() if self.noise == "shared" else self.noise

    def set_noise_level(self, level: float) -> None:
        """Set a shared level.

        Args:
            level: The new level; a value at or below the floor is raised to just above it.

        Raises:
            ValueError: If the level is not shared, or the new one is not finite.
        """
        if self.noise != "shared" or not math.isfinite(level):
            raise ValueError(f"Expected a finite level of shared noise; got {level} for {self!r}.")
        with torch.no_grad():
            self.log_noise.fill_(math.log(max(level - self.floor, 1e-6 * self.floor)))

    def mean(self, outputs: Tensor) -> Tensor:
        """See `Likelihood.mean`."""
        return outputs[..., 0]

    def extra_repr(self) -> str:
        """The options, for `repr`."""
        return f"{self.argument}={self.noise!r}" + (", closed_form=True" if self.closed_form else "")

    def noise_levels(self, outputs: Tensor) -> Tensor:
        """The level of every value, a `batch_shape x shape` tensor, from a `batch_shape x shape x outputs` tensor."""
        if self.noise == "pixel":
            return self.floor + softplus(outputs[..., 1])
        if self.noise == "shared":
            return (self.floor + self.log_noise.to(outputs).exp()).expand(outputs.shape[:-1])
        return outputs.new_full((), self.noise).expand(outputs.shape[:-1])


@final
class Gaussian(LocationScale):
    r"""Real values, :math:`p(x \mid z) = \prod_i \mathcal N(x_i \mid f_i(z), \sigma_i^2)`.

    The mean is the decoder's output as it is (Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, appendix
    C.2). One shared variance, learned or at its optimum given the networks, is the sigma-VAE (Rybkin, Daniilidis and
    Levine, *Simple and effective VAE training with calibrated decoders*, 2021).

    Args:
        var_x: The variance: a positive number; `"shared"`, one learned variance that starts at 0.1; or `"pixel"`,
            a variance from the decoder, `min_var + softplus(output)`.
        closed_form: Whether `latentmix.inference.ClosedFormVariance` sets a shared variance, after every epoch, to the
            mean squared error, instead of the optimizer.
        min_var: Lower bound of a learned variance, which keeps the density bounded where a value is constant; the
            default is a standard deviation of 2.5 of 255 grey levels.

    Raises:
        ValueError: If `var_x` or `min_var` is not positive and finite, or `closed_form` comes without `"shared"`.

    Example:
        >>> import torch
        >>> from latentmix.models import Gaussian
        >>> Gaussian(var_x="pixel").outputs
        2
        >>> likelihood = Gaussian(var_x=0.25)
        >>> likelihood(torch.zeros(3, 4, 4, 1)).stddev.unique(), likelihood.var_x
        (tensor([0.5000]), 0.25)
    """

    argument = "var_x"

    def __init__(
        self, var_x: float | Literal["shared", "pixel"] = 0.1, *, closed_form: bool = False, min_var: float = 1e-4
    ) -> None:
        super().__init__(var_x, closed_form=closed_form, floor=min_var)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"var_x": self.noise, "closed_form": self.closed_form, "min_var": self.floor}

    @property
    def var_x(self) -> float | None:
        """The present variance; None if every pixel has its own."""
        return self.noise_level

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return dist.Normal(outputs[..., 0], self.noise_levels(outputs).sqrt())

    def deviation(self, x: Tensor, mean: Tensor) -> Tensor:
        """The squared error."""
        return (x - mean) ** 2


@final
class Laplace(LocationScale):
    r"""Real values with heavy tails, :math:`p(x \mid z) = \prod_i \frac{1}{2 b_i} e^{-|x_i - f_i(z)| / b_i}`.

    The mean, which is also the median, is the decoder's output as it is.

    Args:
        scale: The scale b: a positive number; `"shared"`, one learned scale that starts at 0.1; or `"pixel"`, a
            scale from the decoder, `min_scale + softplus(output)`. The variance is twice its square.
        closed_form: Whether `latentmix.inference.ClosedFormVariance` sets a shared scale, after every epoch, to the
            mean absolute error, instead of the optimizer.
        min_scale: Lower bound of a learned scale.

    Raises:
        ValueError: If `scale` or `min_scale` is not positive and finite, or `closed_form` comes without `"shared"`.

    Example:
        >>> import torch
        >>> from latentmix.models import Laplace
        >>> Laplace(scale=0.5)(torch.zeros(1, 1)).log_prob(torch.tensor([0.5]))
        tensor([-1.])
    """

    argument = "scale"

    def __init__(
        self, scale: float | Literal["shared", "pixel"] = 0.1, *, closed_form: bool = False, min_scale: float = 1e-2
    ) -> None:
        super().__init__(scale, closed_form=closed_form, floor=min_scale)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"scale": self.noise, "closed_form": self.closed_form, "min_scale": self.floor}

    @property
    def scale(self) -> float | None:
        """The present scale; None if every pixel has its own."""
        return self.noise_level

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """See `Likelihood.forward`."""
        return dist.Laplace(outputs[..., 0], self.noise_levels(outputs))

    def deviation(self, x: Tensor, mean: Tensor) -> Tensor:
        """The absolute error."""
        return (x - mean).abs()
