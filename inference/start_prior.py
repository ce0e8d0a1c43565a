"""Initialisation of a learned mixture prior during training, as in VaDE: by EM on the latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import final

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from latentmix.guides.amortized import AmortizedGuide
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.svi.state import Callback, TrainingState
from latentmix.models.mixture_prior import MixturePrior
from latentmix.models.process_state import kept_warnings

__all__ = ["StartPrior"]


@final
class StartPrior(Callback):
    """Sets a learned mixture prior, after some epochs, to the mixture that EM fits to samples of q.

    Before it, prior and VAE are trained from the prior's own initial values. EM takes the start of highest
    log-likelihood among several (Jiang et al., *Variational Deep Embedding*, 2017, section 3.2).

    Args:
        prior: The learned prior.
        guide: The guide that samples are drawn from.
        data: The training data, an `n x shape` tensor.
        epochs: Epochs of training before the mixture is fitted.
        transform: Applied to the data first, as in `fit`.
        n_init: Number of starts of EM.
        limit: Most data that the mixture is fitted to, the first ones.

    Raises:
        ValueError: If the prior is not a learned mixture, a number is below 1, or there are fewer data than components.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import StartPrior
        >>> from latentmix.models import MixturePrior
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(3,)))
        >>> callback = StartPrior(MixturePrior(2, 4), guide, torch.randn(100, 3), epochs=5)
    """

    def __init__(
        self,
        prior: MixturePrior,
        guide: AmortizedGuide,
        data: Tensor,
        *,
        epochs: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        n_init: int = 10,
        limit: int = 20_000,
    ) -> None:
        if not isinstance(prior, MixturePrior) or not any(leaf.requires_grad for leaf in prior.parameters()):
            raise ValueError(f"Expected a MixturePrior that is learned; got {prior!r:.80}.")
        if min(epochs, n_init, limit) < 1:
            raise ValueError(f"Expected epochs, n_init and limit of at least 1; got {epochs}, {n_init}, {limit}.")
        if min(len(data), limit) < prior.n_components:
            raise ValueError(
                f"Expected at least as many data as components, {prior.n_components}; got {min(len(data), limit)}."
            )
        self.prior = prior
        self.guide = guide
        self.data = data[:limit]
        self.epochs = epochs
        self.transform = transform
        self.n_init = n_init

    def on_epoch_end(self, state: TrainingState) -> None:
        """Initialise the prior after `epochs` epochs."""
        if state.epoch != self.epochs:
            return
        seed = (state.seed + self.epochs) % 2**31
        with isolated(seed=seed):
            z = self.guide.draw(self.data, transform=self.transform, seed=seed).double()
        mixture = GaussianMixture(
            self.prior.n_components,
            covariance_type=self.prior.covariance_type,
            n_init=self.n_init,
            reg_covar=1e-3 * float(z.var(0).mean()),
            random_state=seed,
        )
        with kept_warnings():  # an initialisation need not have converged
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(z)
        with torch.no_grad():
            self.prior.initialize(mixture.parameters_)
