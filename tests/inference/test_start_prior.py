from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import StartPrior, fit
from latentmix.inference.svi.state import Callback, TrainingState
from latentmix.models import VAE, Gaussian, MixturePrior, MLPDecoder, StandardNormal
from latentmix.models.mixture_prior import MixturePrior as Prior


def clusters(n: int = 300) -> Tensor:
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    return centres[torch.arange(n) % 3] + 0.3 * torch.randn(n, 2)


def pair() -> tuple[VAE, AmortizedGuide, Prior]:
    torch.manual_seed(0)
    prior = MixturePrior(2, 3, covariance_type="full")
    decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(2,))
    vae = VAE(decoder=decoder, prior=prior, likelihood=Gaussian("shared"))
    return vae, AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(2,))), prior


class Watch(Callback):
    """Keeps the prior's means after every epoch."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.means: list[Tensor] = []

    def on_epoch_end(self, state: TrainingState) -> None:
        self.means.append(self.prior.means.detach().clone())


def test_the_prior_is_initialized_once_at_a_mixture_of_samples() -> None:
    x = clusters()
    vae, guide, prior = pair()
    watch, before = Watch(prior), Watch(prior)
    start = StartPrior(prior, guide, x, epochs=2, n_init=2)
    fit(vae.model, guide, x, epochs=3, batch_size=50, seed=1, callbacks=[before, start, watch])
    jumps = [(after - was).abs().max() for was, after in zip(before.means, watch.means, strict=True)]
    assert jumps[0] == jumps[2] == 0
    assert jumps[1] > 0.1
    with torch.no_grad():
        explained = prior().log_prob(guide.draw(x, seed=3)).mean()
        gaussian = StandardNormal(2)().log_prob(guide.draw(x, seed=3)).mean()
    assert explained > gaussian


def test_a_resumed_fit_is_equal_bit_for_bit() -> None:
    x = clusters()

    def train(epochs: int, state: TrainingState | None = None) -> tuple[TrainingState, Tensor]:
        vae, guide, prior = pair()
        start = StartPrior(prior, guide, x, epochs=2, n_init=1)
        result = fit(vae.model, guide, x, epochs=epochs, batch_size=50, seed=1, callbacks=[start], state=state)
        return result.state, prior.means.detach().clone()

    _, whole = train(4)
    for stop in (1, 2, 3):
        halfway, _ = train(stop)
        _, resumed = train(4, TrainingState.from_state_dict(halfway.state_dict()))
        assert torch.equal(whole, resumed)


def test_priors_that_are_not_learned_mixtures_are_refused() -> None:
    _, guide, prior = pair()
    frozen = MixturePrior.from_parameters(prior.to_parameters())
    for other in (frozen, StandardNormal(2)):
        with pytest.raises(ValueError, match="a MixturePrior that is learned"):
            StartPrior(other, guide, clusters(), epochs=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1; got 0"):
        StartPrior(prior, guide, clusters(), epochs=0)
    with pytest.raises(ValueError, match="at least as many data as components, 3; got 2"):
        StartPrior(prior, guide, clusters(), epochs=1, limit=2)
