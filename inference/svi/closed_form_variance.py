"""The closed-form step of a likelihood's shared noise, after every epoch."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from latentmix.guides.amortized import AmortizedGuide
from latentmix.inference.batches import Transform, chunks
from latentmix.inference.isolation import isolated
from latentmix.inference.svi.state import Callback, TrainingState
from latentmix.models.location_scale import LocationScale
from latentmix.models.pyro_modules import evaluation_mode
from latentmix.models.vae import VAE

__all__ = ["ClosedFormVariance"]


@final
class ClosedFormVariance(Callback):
    r"""Sets a shared noise level after every epoch to the maximiser of the ELBO given the networks.

    For `Gaussian("shared", closed_form=True)` the variance is the mean squared error
    :math:`\frac{1}{nd} \sum_n \lVert x_n - f(z_n) \rVert^2` with one z of q(z given x) per datum, networks in
    evaluation mode; for `Laplace` the scale is the mean absolute error (the "optimal" variance of Rybkin, Daniilidis
    and Levine, *Simple and effective VAE training with calibrated decoders*, 2021). The draws depend on the seed of
    the fit and the epoch alone, and random states are unchanged, so that a resumed fit is equal bit for bit.

    Args:
        vae: The model that is trained.
        guide: Its guide.
        data: The training data, an `n x shape` tensor.
        transform: Applied to every chunk first, as in `fit`.
        batch_size: Data a chunk.

    Raises:
        ValueError: If the likelihood has no shared noise level with `closed_form=True`.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import ClosedFormVariance, fit
        >>> from latentmix.models import VAE, Gaussian, MLPDecoder, StandardNormal
        >>> likelihood = Gaussian("shared", closed_form=True)
        >>> vae = VAE(MLPDecoder(latent_dim=2, hidden=(), shape=(4,)), StandardNormal(2), likelihood)
        >>> guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(4,)))
        >>> x = torch.randn(50, 4)
        >>> result = fit(vae.model, guide, x, epochs=1, callbacks=[ClosedFormVariance(vae, guide, x)], seed=0)
        >>> 0.5 < likelihood.var_x < 2.0
        True
    """

    def __init__(
        self,
        vae: VAE,
        guide: AmortizedGuide,
        data: Tensor,
        *,
        transform: Transform | None = None,
        batch_size: int = 1024,
    ) -> None:
        likelihood = vae.likelihood
        if not isinstance(likelihood, LocationScale) or not likelihood.closed_form:
            raise ValueError(
                "Expected a likelihood with a shared noise level and closed_form=True, such as "
                f"Gaussian('shared', closed_form=True); got {likelihood!r}."
            )
        if len(data) == 0:
            raise ValueError("Expected at least one datum; got none.")
        self.vae = vae
        self.guide = guide
        self.data = data
        self.transform = transform
        self.batch_size = batch_size
        self.likelihood = likelihood

    def on_epoch_end(self, state: TrainingState) -> None:
        """See `Callback.on_epoch_end`."""
        # An odd multiplier is a bijection modulo 2**32: the seeds of all epochs differ, and from that of the fit.
        self.update(seed=(state.seed + 0x9E3779B1 * state.epoch) % 2**32)

    @torch.no_grad()
    def update(self, *, seed: int) -> float:
        """Set the noise level for the present networks.

        Args:
            seed: Seed of the draws from q.

        Returns:
            The mean deviation, which is the new level unless it is at or below the floor.
        """
        total, count = torch.zeros((), dtype=torch.float64, device=self.data.device), 0
        with isolated(seed=seed), torch.no_grad(), evaluation_mode(self.vae, self.guide):
            for _, (x,) in chunks((self.data,), self.batch_size, self.transform):
                mean = self.likelihood.mean(self.vae.decoder(self.guide.posterior(x).sample()))
                total += self.likelihood.deviation(x.double(), mean.double()).sum().to(total)
                count += x.numel()
        level = total.item() / count
        self.likelihood.set_noise_level(level)
        return level
