from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from latentmix.guides import (
    AmortizedGuide,
    AutoregressiveFlow,
    ConvEncoder,
    DiagonalNormal,
    Family,
    FullNormal,
    MLPEncoder,
)
from latentmix.inference import as_objective
from latentmix.models import VAE, Bernoulli, MLPDecoder, VampPrior

SHAPE = (1, 8, 8)
FAMILIES: dict[str, Callable[[], Family]] = {
    "diagonal": DiagonalNormal,
    "softplus": lambda: DiagonalNormal(scale="softplus"),
    "correlated": FullNormal,
    "flow": lambda: AutoregressiveFlow(transforms=2, hidden=(8,), context=4),
}


@pytest.fixture(params=FAMILIES)
def guide(request: pytest.FixtureRequest) -> AmortizedGuide:
    return AmortizedGuide(MLPEncoder(latent_dim=3, hidden=(16,), shape=SHAPE), FAMILIES[request.param]()).double()


@pytest.fixture
def prior(guide: AmortizedGuide) -> VampPrior:
    return VampPrior(3, SHAPE, n_components=5).double().bind(guide.posterior)


def make_vae(prior: VampPrior) -> VAE:
    return VAE(MLPDecoder(latent_dim=3, hidden=(16,), shape=SHAPE), prior, Bernoulli()).double()


def test_density_is_the_mean_of_the_posteriors(prior: VampPrior, guide: AmortizedGuide) -> None:
    z = torch.randn(7, 3, dtype=torch.float64)
    parts = [guide.posterior(pseudo_input[None]).log_prob(z) for pseudo_input in prior.pseudo_inputs]
    expected = torch.stack(parts).logsumexp(0) - math.log(5)
    torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior().expand((2, 7)).log_prob(z), expected.expand(2, 7), rtol=1e-9, atol=1e-9)


def test_gradients_reach_pseudo_inputs_and_guide_and_equal_finite_differences(
    prior: VampPrior, guide: AmortizedGuide
) -> None:
    z = torch.randn(4, 3, dtype=torch.float64)
    leaves = [prior.pseudo_inputs, *guide.parameters()]
    gradients = torch.autograd.grad(prior().log_prob(z).sum(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert gradient.abs().sum() > 0
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            ends = []
            for step in (1e-6, -1e-6):
                leaf.add_(step * direction)
                ends.append(prior().log_prob(z).sum())
                leaf.sub_(step * direction)
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_the_guide_stays_outside_the_prior(prior: VampPrior, guide: AmortizedGuide) -> None:
    assert list(prior.state_dict()) == ["pseudo_inputs"]
    assert [name for name, _ in prior.named_parameters()] == ["pseudo_inputs"]
    assert list(prior.modules()) == [prior]
    assert repr(prior) == "VampPrior(3, shape=(1, 8, 8), n_components=5)"


def test_a_copy_of_both_is_bound_to_the_copied_guide(prior: VampPrior, guide: AmortizedGuide) -> None:
    vae = make_vae(prior)
    other_vae, other_guide = copy.deepcopy((vae, guide))
    z = torch.randn(4, 3, dtype=torch.float64)
    before = prior().log_prob(z)
    assert torch.equal(other_vae.prior().log_prob(z), before)
    with torch.no_grad():
        for parameter in other_guide.parameters():
            parameter.add_(0.5)
    assert torch.equal(prior().log_prob(z), before)
    assert not torch.allclose(other_vae.prior().log_prob(z), before)
    other_vae.prior().log_prob(z).sum().backward()
    assert all(parameter.grad is None for parameter in guide.parameters())
    assert all(parameter.grad is not None for parameter in other_guide.parameters())


@pytest.mark.parametrize("particles", [1, 3])
def test_svi_trains_pseudo_inputs_and_guide(
    prior: VampPrior, guide: AmortizedGuide, binary_images: Tensor, particles: int
) -> None:
    vae = make_vae(prior)
    parameters = [*vae.parameters(), *guide.parameters()]
    before = [parameter.clone() for parameter in parameters]
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1)
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    losses = [svi.step(binary_images.double()) for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert not any(torch.equal(*pair) for pair in zip(parameters, before, strict=True))
    assert vae.generate(6).shape == (6, *SHAPE)


def test_the_objective_equals_pyro_and_an_analytic_kl_is_refused(
    prior: VampPrior, guide: AmortizedGuide, binary_images: Tensor
) -> None:
    vae, x = make_vae(prior), binary_images.double()
    losses = []
    for loss in (Trace_ELBO().differentiable_loss, as_objective(Trace_ELBO())):
        pyro.set_rng_seed(5)
        losses.append(loss(vae.model, guide, x))
    torch.testing.assert_close(losses[0] / len(x), losses[1])
    with pytest.raises(ValueError, match="Expected an analytic KL divergence at site 'z'"):
        as_objective(TraceMeanField_ELBO())(vae.model, guide, x)


def test_pseudo_inputs_start_from_data(prior: VampPrior, guide: AmortizedGuide, binary_images: Tensor) -> None:
    pseudo_inputs = prior.pseudo_inputs
    assert (pseudo_inputs >= 0).all()
    assert (pseudo_inputs < 1).all()
    prior.bind(guide.posterior, binary_images[:5])
    assert prior.pseudo_inputs is pseudo_inputs
    assert torch.equal(pseudo_inputs.float(), binary_images[:5])
    with torch.no_grad():
        pseudo_inputs.zero_()
    assert binary_images[:5].sum() > 0
    for bad in (binary_images[:4], binary_images[:5, :, :7], binary_images[:5].byte()):
        with pytest.raises(ValueError, match=r"Expected floating-point inputs of shape \(5, 1, 8, 8\) for a VampPrior"):
            prior.bind(guide.posterior, bad)


def test_the_encoder_is_in_evaluation_mode_and_restored() -> None:
    encoder = ConvEncoder(latent_dim=3, channels=(4,), shape=SHAPE, batch_norm=(True,), hidden=(8,))
    encoder.body.append(nn.Dropout(0.5))
    guide = AmortizedGuide(encoder)
    guide.head.eval()
    modes = [part.training for part in guide.modules()]
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    z = torch.randn(4, 3)
    for posterior in (guide.posterior, Wrapped(guide)):
        prior = VampPrior(3, SHAPE, n_components=5).bind(posterior)
        density = prior().log_prob(z)
        assert torch.equal(density, prior().log_prob(z))
        assert density.requires_grad
        assert [part.training for part in guide.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in guide.state_dict().items())


class Wrapped(nn.Module):
    def __init__(self, guide: AmortizedGuide) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return self.guide.posterior(x)


def test_a_module_as_posterior_is_not_a_submodule() -> None:
    guide = AmortizedGuide(MLPEncoder(latent_dim=3, hidden=(16,), shape=SHAPE))
    prior = VampPrior(3, SHAPE, n_components=5).bind(Wrapped(guide))
    assert list(prior.state_dict()) == ["pseudo_inputs"]
    assert list(prior.modules()) == [prior]


def test_an_unbound_prior_is_refused(binary_images: Tensor) -> None:
    vae = make_vae(VampPrior(3, SHAPE, n_components=5))
    for call in (vae.prior, lambda: vae.model(binary_images.double()), lambda: vae.generate(2)):
        with pytest.raises(ValueError, match=r"bound to a guide; got none: call bind\(guide.posterior\) first"):
            call()


def test_a_posterior_of_other_shapes_is_refused() -> None:
    two = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(16,), shape=SHAPE))
    with pytest.raises(ValueError, match=r"batch shape \(5,\) and event shape \(3,\) .* got \(5,\) and \(2,\)"):
        VampPrior(3, SHAPE, n_components=5).bind(two.posterior)()
    with pytest.raises(ValueError, match=r"got \(5, 3\) and \(\)"):
        VampPrior(3, SHAPE, n_components=5).bind(lambda x: dist.Normal(x[:, 0, 0, :3], 1.0))()


def test_the_site_of_z_alone_is_in_the_trace(prior: VampPrior, binary_images: Tensor) -> None:
    trace = poutine.trace(make_vae(prior).model).get_trace(binary_images.double())
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["data", "z", "x"]
