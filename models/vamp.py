"""The VampPrior: a mixture of the guide's own posteriors at learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Self, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from latentmix.models.arguments import check_positive
from latentmix.models.priors import Prior
from latentmix.models.pyro_modules import evaluation_mode

__all__ = ["VampPrior"]


@final
class VampPrior(Prior):
    r"""The prior :math:`p(z) = \frac{1}{K} \sum_k q(z \mid u_k)` with learned pseudo-inputs :math:`u_k`.

    Tomczak and Welling, *VAE with a VampPrior*, 2018, equation 9. It has to be bound to the guide before use. The
    guide's weights are neither parameters of the prior nor saved with it, though gradients reach them through the
    prior. A joint copy of VAE and guide (`copy.deepcopy((vae, guide))`) is bound to the guide's copy.

    Args:
        latent_dim: Length of z.
        shape: Shape of one datum.
        n_components: Number of pseudo-inputs `K`.

    Attributes:
        pseudo_inputs: `K x shape`; initially uniform in [0, 1), from torch's random state, unless `bind` sets them.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from latentmix.models import VampPrior
        >>> prior = VampPrior(latent_dim=2, shape=(2,), n_components=5)
        >>> prior.bind(lambda x: dist.Normal(x, 0.1).to_event(1))().sample().shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], n_components: int = 100) -> None:
        super().__init__(latent_dim)
        check_positive(shape=tuple(shape), n_components=n_components)
        self.shape = tuple(shape)
        self.n_components = n_components
        self.pseudo_inputs = nn.Parameter(torch.rand(n_components, *self.shape))
        self._posterior: list[Callable[[Tensor], dist.TorchDistribution]] = []  # a list: no submodule

    def bind(self, posterior: Callable[[Tensor], dist.TorchDistribution], inputs: Tensor | None = None) -> Self:
        """Set the posterior q of the components.

        Args:
            posterior: Function from a `K x shape` tensor to q(z given x), such as `guide.posterior`. A module, or the
                module of a method, is in evaluation mode during the call.
            inputs: Initial pseudo-inputs, `K x shape`, floating point; they are copied.

        Returns:
            The prior.

        Raises:
            ValueError: If the posterior is the guide itself, or the inputs have another shape or are integers.
        """
        if not callable(posterior) or hasattr(posterior, "posterior"):
            raise ValueError(
                f"Expected a function that gives q(z given x), such as guide.posterior; got {type(posterior).__name__}."
            )
        if inputs is not None:
            if inputs.shape != self.pseudo_inputs.shape or not inputs.is_floating_point():
                raise ValueError(
                    f"Expected floating-point inputs of shape {tuple(self.pseudo_inputs.shape)} for a VampPrior; got "
                    f"{inputs.dtype} of shape {tuple(inputs.shape)}."
                )
            with torch.no_grad():
                self.pseudo_inputs.copy_(inputs)
        self._posterior = [posterior]
        return self

    def forward(self) -> dist.TorchDistribution:
        """See `Prior.forward`.

        Raises:
            ValueError: If the prior is not bound, or the posterior has another batch or event shape.
        """
        if not self._posterior:
            raise ValueError(
                "Expected a VampPrior that is bound to a guide; got none: call bind(guide.posterior) first."
            )
        (posterior,) = self._posterior
        owner = getattr(posterior, "__self__", posterior)
        with evaluation_mode(owner) if isinstance(owner, nn.Module) else nullcontext():
            components = posterior(self.pseudo_inputs)
        expected = (self.n_components, self.latent_dim)
        if components.shape() != expected or len(components.event_shape) != 1:
            raise ValueError(
                f"Expected a posterior of batch shape {expected[:1]} and event shape {expected[1:]} for a VampPrior; "
                f"got {tuple(components.batch_shape)} and {tuple(components.event_shape)}."
            )
        uniform = dist.Categorical(logits=self.pseudo_inputs.new_zeros(self.n_components))
        return dist.MixtureSameFamily(uniform, components)

    def extra_repr(self) -> str:
        return f"{self.latent_dim}, shape={self.shape}, n_components={self.n_components}"
