"""VaDE's start: a learned mixture prior set to a mixture that EM fitted to the latents so far."""

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
    """After some epochs, sets a learned mixture prior to the mixture that EM fits to samples of q.

    Until then the prior and the VAE are trained as they are. The best of several starts is taken by its
    log-likelihood (Jiang et al., *Variational Deep Embedding*, 2017, section 3.2).

    Args:
        prior: The prior, learned.
        guide: The guide whose samples are fitted.
        data: Training data, as `fit` has them.
        epochs: Epochs of training before the start.
        transform: As `fit` has it.
        n_init: Starts of EM.
        limit: Most data that the mixture is fitted to, the first ones.

    Raises:
        ValueError: If the prior is no learned mixture, a number is below 1, or there are fewer data than components.

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
        """Starts the prior when its epoch has come."""
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
        with kept_warnings():  # a start need not have converged
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(z)
        with torch.no_grad():
            self.prior.initialize(mixture.parameters_)
