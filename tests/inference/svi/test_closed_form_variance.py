from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, ConvEncoder, MLPEncoder
from latentmix.inference import ClosedFormVariance, SVIResult, TrainingState, fit
from latentmix.models import VAE, Bernoulli, Gaussian, Laplace, Likelihood, MLPDecoder, StandardNormal


class Pair:
    """A VAE with a linear decoder on data of 4 values, in float64."""

    def __init__(self, likelihood: Likelihood) -> None:
        torch.manual_seed(3)
        self.decoder = MLPDecoder(latent_dim=2, hidden=(), shape=(4,))
        self.vae = VAE(self.decoder, StandardNormal(2), likelihood).double()
        self.guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(4,))).double()

    def narrow(self) -> None:
        """Make q so narrow that its sample is its mean."""
        with torch.no_grad():
            for part in self.guide.head.log_variance.parameters():
                part.zero_()
            self.guide.head.log_variance.bias.fill_(-80.0)


def data(n: int = 60) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_variance_is_the_expected_squared_error_under_q() -> None:
    likelihood, x = Gaussian("shared", closed_form=True), data(4000)
    pair = Pair(likelihood)
    with torch.no_grad():
        q = pair.guide.posterior(x).base_dist
        noise = q.variance @ pair.decoder.out.weight.square().T
        error = (x - pair.decoder(q.mean)[..., 0]).square()
    level = ClosedFormVariance(pair.vae, pair.guide, x).update(seed=0)
    # The exact mean of the update; its standard deviation is below that of the values. False alarm: 1 in 1e6.
    assert level == pytest.approx((error + noise).mean().item(), abs=5 * (error + noise).std().item() * 16000**-0.5)
    assert noise.mean() > 0.2 * error.mean()  # at the means of q it would be another one
    assert likelihood.var_x == pytest.approx(level, rel=1e-12)


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_gradient_vanishes_where_the_closed_form_lands(kind: type[Gaussian | Laplace]) -> None:
    x = data()
    closed, learned = Pair(kind("shared", closed_form=True)), Pair(kind("shared"))
    level = ClosedFormVariance(closed.vae, closed.guide, x).update(seed=11)
    likelihood = learned.vae.likelihood
    assert isinstance(likelihood, Gaussian | Laplace)

    def slope(at: float) -> float:
        likelihood.set_noise_level(at)
        pyro.set_rng_seed(11)
        loss: Any = Trace_ELBO().differentiable_loss(learned.vae.model, learned.guide, x)
        (gradient,) = torch.autograd.grad(loss / len(x), likelihood.log_noise)
        return gradient.item()

    assert abs(slope(level)) < 1e-6
    assert slope(1.01 * level) > 1e-3
    assert slope(0.99 * level) < -1e-3


@pytest.mark.parametrize(("kind", "power"), [(Gaussian, 2), (Laplace, 1)])
def test_chunks_and_transform_change_nothing_else(kind: type[Gaussian | Laplace], power: int) -> None:
    pair, x = Pair(kind("shared", closed_form=True)), data()
    pair.narrow()
    with torch.no_grad():
        mean = pair.vae.likelihood.mean(pair.decoder(pair.guide.encode(2 * x)))
    expected = (2 * x - mean).abs().pow(power).mean().item()
    for batch_size in (7, 60, 1024):
        callback = ClosedFormVariance(pair.vae, pair.guide, x, transform=lambda x: 2 * x, batch_size=batch_size)
        assert callback.update(seed=batch_size) == pytest.approx(expected, rel=1e-10)


def test_level_stays_above_its_floor() -> None:
    likelihood = Gaussian("shared", closed_form=True, min_var=0.02)
    pair = Pair(likelihood)
    nn.init.zeros_(pair.decoder.out.weight)
    nn.init.zeros_(pair.decoder.out.bias)
    assert ClosedFormVariance(pair.vae, pair.guide, torch.zeros_like(data())).update(seed=0) == 0.0
    assert likelihood.var_x == pytest.approx(0.02, rel=1e-5)


def test_update_has_no_other_effect() -> None:
    pair = Pair(Gaussian("shared", closed_form=True))
    pair.decoder.body.append(nn.Dropout(0.5))
    pyro.param("mine", torch.ones(1))
    random, weights = torch.get_rng_state(), copy.deepcopy(pair.decoder.state_dict())
    callback = ClosedFormVariance(pair.vae, pair.guide, data())
    while_training = callback.update(seed=4)
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in (*pair.vae.modules(), *pair.guide.modules()))
    assert list(pyro.get_param_store()) == ["mine"]
    assert all(torch.equal(weights[name], value) for name, value in pair.decoder.state_dict().items())
    assert all(parameter.grad is None for parameter in (*pair.vae.parameters(), *pair.guide.parameters()))
    pair.vae.eval()
    pair.guide.eval()
    assert callback.update(seed=4) == while_training
    assert callback.update(seed=5) != while_training


def test_every_epoch_has_draws_of_its_own() -> None:
    likelihood = Gaussian("shared", closed_form=True)
    pair = Pair(likelihood)
    callback = ClosedFormVariance(pair.vae, pair.guide, data())
    variances = []
    for seed, epoch in ((5, 1), (5, 2), (6, 1), (5, 1)):
        callback.on_epoch_end(TrainingState(seed=seed, epoch=epoch))
        variances.append(likelihood.var_x)
    assert len(set(variances)) == 3
    assert variances[0] == variances[3]


class Images:
    """A VAE with batch normalisation and dropout on images, whose variance follows in closed form."""

    def __init__(self, seed: int, images: Tensor) -> None:
        torch.manual_seed(seed)
        decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
        decoder.body.append(nn.Dropout(0.3))
        self.likelihood = Gaussian("shared", closed_form=True)
        self.vae = VAE(decoder, StandardNormal(2), self.likelihood)
        encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
        self.guide = AmortizedGuide(encoder)
        self.images = images

    def fit(self, epochs: int, state: TrainingState | None = None) -> SVIResult:
        callback = ClosedFormVariance(self.vae, self.guide, self.images, batch_size=16)
        options: dict[str, Any] = {"batch_size": 16, "seed": 5, "callbacks": [callback], "state": state}
        return fit(self.vae.model, self.guide, self.images, epochs=epochs, **options)


def test_fit_follows_the_closed_form_and_resumes_bit_for_bit(binary_images: Tensor) -> None:
    whole = Images(0, binary_images)
    straight = whole.fit(epochs=4)
    first = Images(0, binary_images)
    halfway = first.fit(epochs=2).state.state_dict()
    assert first.likelihood.var_x != pytest.approx(0.1, rel=1e-3)
    assert first.likelihood.var_x != whole.likelihood.var_x
    second = Images(1, binary_images)
    resumed = second.fit(epochs=4, state=TrainingState.from_state_dict(halfway))
    assert resumed.losses == straight.losses
    for part in ("vae", "guide"):
        ours, theirs = getattr(whole, part).state_dict(), getattr(second, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("likelihood", [Gaussian(0.1), Gaussian("shared"), Gaussian("pixel"), Bernoulli()], ids=repr)
def test_likelihood_without_closed_form_is_refused(likelihood: Likelihood) -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(), shape=(4,), outputs=likelihood.outputs)
    guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(4,)))
    with pytest.raises(ValueError, match=r"closed_form=True, such as .*; got (Gaussian|Bernoulli)\("):
        ClosedFormVariance(VAE(decoder, StandardNormal(2), likelihood), guide, data())


def test_no_data_and_errors_that_are_not_finite_are_refused() -> None:
    pair = Pair(Gaussian("shared", closed_form=True))
    with pytest.raises(ValueError, match="at least one datum; got none"):
        ClosedFormVariance(pair.vae, pair.guide, data()[:0])
    nn.init.constant_(pair.decoder.out.bias, torch.nan)
    with pytest.raises(ValueError, match="finite level of shared noise; got nan"):
        ClosedFormVariance(pair.vae, pair.guide, data()).update(seed=0)
