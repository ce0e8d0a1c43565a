from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from latentmix.guides import AmortizedGuide, AutoregressiveFlow, ConvEncoder, FullNormal, MLPEncoder
from latentmix.inference import latent_statistics, log_likelihood, log_likelihoods
from latentmix.inference.isolation import RandomState
from latentmix.inference.mixtures.em.density import Densities
from latentmix.models import VAE, Bernoulli, MixturePrior, MLPDecoder, StandardNormal


def make_pair(family: Any = None, prior: Any = None, batch_norm: bool = False) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(1)
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
    vae = VAE(decoder, StandardNormal(2) if prior is None else prior, Bernoulli())
    encoder: Any = MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
    if batch_norm:
        encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
    return vae, AmortizedGuide(encoder=encoder, family=family)


def noisy(x: Tensor) -> Tensor:
    return torch.bernoulli(0.1 + 0.8 * x)


def integral(vae: VAE, x: Tensor) -> Tensor:
    """log p(x) by the trapezoidal rule over the two latents."""
    line = torch.linspace(-7.0, 7.0, 141)
    z = torch.cartesian_prod(line, line)
    with torch.no_grad():
        joint = (
            vae.likelihood(vae.decoder(z[:, None])).log_prob(x).flatten(2).sum(-1) + vae.prior().log_prob(z)[:, None]
        )
    return joint.double().logsumexp(0) + 2 * math.log(0.1)


@pytest.mark.parametrize(
    ("family", "prior"),
    [(None, "StandardNormal"), (FullNormal(), "MixturePrior"), (AutoregressiveFlow(), "enumerated")],
    ids=["StandardNormal", "MixturePrior", "enumerated"],
)
def test_against_quadrature(binary_images: Tensor, family: Any, prior: str) -> None:
    """Two seeds of 200,000 samples lay within 0.006 of it: at a tenth of them 0.08 is more than four deviations."""
    made = None if prior == "StandardNormal" else MixturePrior(2, 3, enumerated=prior == "enumerated")
    if made is not None:  # narrower than q, whose weights have no heavy tail then
        torch.nn.init.constant_(made.log_scales, -0.5)
        torch.nn.init.uniform_(made.means, -0.6, 0.6)
    vae, guide = make_pair(family, made)
    estimates = log_likelihood(vae, guide, binary_images[:10], 20_000)
    assert estimates.dtype == torch.float64
    torch.testing.assert_close(estimates, integral(vae, binary_images[:10]), rtol=0, atol=0.08)


def test_memory_does_not_grow_with_the_samples(binary_images: Tensor) -> None:
    """No more latents are decoded at once than `chunk`, and all of them are."""
    vae, guide = make_pair()
    sizes: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda module, args: sizes.append(args[0][..., 0].numel()))
    for samples in (3, 100, 1_000):
        sizes.clear()
        log_likelihood(vae, guide, binary_images, samples, batch_size=16, chunk=200)
        assert max(sizes) <= 200
        assert sum(sizes) == 40 * samples
    sizes.clear()
    log_likelihood(vae, guide, binary_images, 2, batch_size=16, chunk=7)
    assert max(sizes) <= 7


def test_samples_are_nested_and_the_noise_of_the_data_is_apart(binary_images: Tensor) -> None:
    """The first latents and what the transformation draws do not depend on the number of samples."""
    vae, guide = make_pair()
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(noisy(x))
        return seen[-1]

    first = log_likelihood(vae, guide, binary_images, 8, batch_size=10, chunk=80, transform=watched, seed=3)
    second = log_likelihood(vae, guide, binary_images, 24, batch_size=10, chunk=80, transform=watched, seed=3)
    assert torch.equal(torch.cat(seen[:4]), torch.cat(seen[4:]))
    assert torch.equal(
        first, log_likelihood(vae, guide, binary_images, 8, batch_size=10, chunk=80, transform=noisy, seed=3)
    )
    assert (24 * second.exp() >= 8 * first.exp()).all()


@pytest.mark.parametrize("family", [None, FullNormal(), AutoregressiveFlow()])
def test_fewer_samples_are_the_first_of_more(binary_images: Tensor, family: Any) -> None:
    """Numbers of draws that are not multiples of torch's vector length."""
    vae, guide = make_pair(family)
    seen: list[Tensor] = []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for samples in (3, 7, 11):
        log_likelihood(vae, guide, binary_images[:5], samples, chunk=40)
    few, more, most = seen[0], seen[1], torch.cat(seen[2:])
    assert [len(z) for z in (few, more, most)] == [3, 7, 11]
    assert torch.equal(few, more[:3])
    assert torch.equal(more, most[:7])


def test_several_priors_equal_each_alone(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    priors = {
        "normal": StandardNormal(2),
        "diagonal": MixturePrior(2, 3),
        "full": MixturePrior(2, 2, covariance_type="full"),
        "enumerated": MixturePrior(2, 4, enumerated=True),
    }
    torch.nn.init.normal_(priors["full"].lower)  # type: ignore[arg-type]
    decoded: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(1))
    estimates = log_likelihoods(vae, guide, binary_images, priors, 50, chunk=640)
    once = len(decoded)
    for name, prior in priors.items():
        vae.prior = prior
        torch.testing.assert_close(estimates[name], log_likelihood(vae, guide, binary_images, 50, chunk=640))
    assert len(decoded) == 5 * once
    assert estimates.keys() == priors.keys()


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_densities_of_mixtures(covariance_type: Any) -> None:
    """Against `MixtureSameFamily`, far out and with narrow components too."""
    prior = MixturePrior(4, 5, covariance_type=covariance_type).double()
    for leaf in prior.parameters():
        torch.nn.init.normal_(leaf, std=2.0)
    mixtures = [prior(), StandardNormal(4).double()(), MixturePrior(4, 2).double()()]
    z = 5 * torch.randn(3, 7, 4, dtype=torch.float64)
    estimates = Densities(mixtures)(z)
    for density, mixture in zip(estimates, mixtures, strict=True):
        torch.testing.assert_close(density, mixture.log_prob(z), rtol=1e-9, atol=1e-9)
    student = dist.StudentT(3.0, torch.zeros(4), 1.0).to_event(1)
    torch.testing.assert_close(Densities([student])(z)[0], student.log_prob(z).double())


@pytest.mark.parametrize("function", [log_likelihood, latent_statistics])
def test_log_likelihoods_have_no_side_effects(binary_images: Tensor, function: Any) -> None:
    vae, guide = make_pair(batch_norm=True)
    guide.head.eval()
    modes = [part.training for part in (*vae.modules(), *guide.modules())]
    values = [value.clone() for part in (vae, guide) for value in part.state_dict().values()]
    before = RandomState.capture().state_dict()
    first = function(vae, guide, binary_images, samples=3, transform=noisy)
    after = RandomState.capture().state_dict()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"]["keys"], after["numpy"]["keys"])
    assert [part.training for part in (*vae.modules(), *guide.modules())] == modes
    now = [value for part in (vae, guide) for value in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(values, now, strict=True))
    assert all(leaf.grad is None for part in (vae, guide) for leaf in part.parameters())
    torch.manual_seed(99)
    again = function(vae, guide, binary_images, samples=3, transform=noisy)
    assert repr(first) == repr(again)
    assert repr(first) != repr(function(vae, guide, binary_images, samples=3, transform=noisy, seed=1))


def test_bad_input_is_refused(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    for function in (log_likelihood, latent_statistics):
        with pytest.raises(ValueError, match="at least one datum"):
            function(vae, guide, binary_images[:0])
        with pytest.raises(ValueError, match="Expected data of zeros and ones for Bernoulli"):
            function(vae, guide, 0.5 * binary_images)
        with pytest.raises(ValueError, match="of at least 1; got 0"):
            function(vae, guide, binary_images, samples=0)
    with pytest.raises(ValueError, match="chunk of at least 1; got 10, 64 and 0"):
        log_likelihood(vae, guide, binary_images, 10, chunk=0)
    with pytest.raises(ValueError, match="Expected at least one prior; got none"):
        log_likelihoods(vae, guide, binary_images, {})
    with pytest.raises(ValueError, match="Expected priors of latent_dim 2; got 3 for 'wide'"):
        log_likelihoods(vae, guide, binary_images, {"wide": StandardNormal(3)})


def test_statistics_of_a_diagonal_guide(binary_images: Tensor) -> None:
    """Rate and its parts in closed form; a dead dimension carries nothing and is not active."""
    vae, guide = make_pair()
    loc: Any = guide.head.get_submodule("loc")
    width: Any = guide.head.get_submodule("log_variance")
    with torch.no_grad():
        loc.weight[0], loc.bias[0], width.weight[0], width.bias[0] = 0.0, 0.0, 0.0, 0.0
        loc.weight[1] *= 5
    q = guide.posterior(binary_images)
    kl = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).mean(0)
    for batch_size in (7, 1024):
        estimates = latent_statistics(vae, guide, binary_images, batch_size=batch_size, samples=200)
        assert estimates.kl_per_dimension is not None
        torch.testing.assert_close(estimates.kl_per_dimension, kl.detach().double(), rtol=1e-5, atol=1e-7)
        assert estimates.rate == pytest.approx(kl.sum().item(), rel=1e-5)
        assert estimates.active.tolist() == [False, True]
        assert estimates.active_units == 1
        torch.testing.assert_close(estimates.mean_variances, q.mean.double().var(0, correction=0).detach())
        assert estimates.elbo == -(estimates.rate + estimates.distortion)
        assert 0 < estimates.mutual_information < estimates.rate + 0.5
        assert estimates.aggregate_size == 40
        assert estimates.aggregate_covariance.shape == (2, 2)
    assert latent_statistics(vae, guide, binary_images, aggregate=11).aggregate_size == 11


def test_information_and_marginal_divergence_are_the_rate_of_one_sample(binary_images: Tensor) -> None:
    """Hoffman and Johnson's split is exact in the samples: log q(z given x) - log p(z)."""
    vae, guide = make_pair(FullNormal(), MixturePrior(2, 3))
    estimates = latent_statistics(vae, guide, binary_images)
    assert estimates.kl_per_dimension is None
    assert estimates.mutual_information + estimates.marginal_kl == pytest.approx(estimates.rate, rel=1e-5)
    assert 0 <= estimates.mutual_information <= math.log(40)
