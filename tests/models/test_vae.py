from __future__ import annotations

import io
import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, Encoder, MLPEncoder
from latentmix.inference import as_objective, fit
from latentmix.models import VAE, Bernoulli, ConvDecoder, Decoder, Likelihood, MLPDecoder, Prior, StandardNormal
from latentmix.models.likelihoods import Support
from latentmix.models.pyro_modules import evaluation_mode

SHAPE = (1, 8, 8)


def make_vae() -> VAE:
    decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=SHAPE)
    return VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())


def make_guide() -> AmortizedGuide:
    return AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=SHAPE))


class GaussianPerPixel(Likelihood):
    """Two outputs per value: mean and log scale."""

    outputs: ClassVar[int] = 2
    support: ClassVar[Support] = "real"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs[..., 0], outputs[..., 1].exp())

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


class WithEvents(GaussianPerPixel):
    """The same with an event dimension of its own."""

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return super().forward(outputs).to_event(2)


class TwoSites(Prior):
    """A prior with a second site, as a mixture prior has."""

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def sample(self, name: str) -> Tensor:
        sign = pyro.sample("sign", dist.Normal(0.0, 1.0))
        z: Tensor = pyro.sample(name, dist.Normal(sign.unsqueeze(-1).expand(*sign.shape, 2), 1.0).to_event(1))
        return z


def test_sites_z_and_x_in_plate_data(binary_images: Tensor) -> None:
    trace = poutine.trace(make_vae().model).get_trace(binary_images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert list(sites) == ["data", "z", "x"]
    assert sites["z"]["value"].shape == (40, 2)
    assert sites["x"]["is_observed"]
    assert sites["x"]["fn"].batch_shape == (40,)
    assert sites["x"]["fn"].event_shape == SHAPE
    for name in ("z", "x"):
        assert [(frame.name, frame.dim) for frame in sites[name]["cond_indep_stack"]] == [("data", -1)]
    assert torch.equal(trace.nodes["_RETURN"]["value"], binary_images)


def test_joint_density_is_prior_times_likelihood(binary_images: Tensor) -> None:
    vae = make_vae()
    trace = poutine.trace(vae.model).get_trace(binary_images)
    z = trace.nodes["z"]["value"]
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum()
    likelihood = dist.Bernoulli(logits=vae.decoder(z)[..., 0]).log_prob(binary_images).sum()
    assert trace.log_prob_sum().item() == pytest.approx((prior + likelihood).item(), rel=1e-5)


def test_batch_of_one_and_particles(binary_images: Tensor) -> None:
    vae = make_vae()
    assert poutine.trace(vae.model).get_trace(binary_images[:1]).nodes["x"]["fn"].batch_shape == (1,)
    vectorised = poutine.trace(pyro.plate("particles", 6, dim=-2)(vae.model)).get_trace(binary_images)
    vectorised.compute_log_prob()
    assert vectorised.nodes["z"]["value"].shape == (6, 40, 2)
    assert vectorised.nodes["x"]["log_prob"].shape == (6, 40)


def test_uncondition_samples_images(binary_images: Tensor) -> None:
    images = poutine.uncondition(make_vae().model)(binary_images)
    assert images.shape == binary_images.shape
    assert set(images.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(images, binary_images)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(binary_images: Tensor, parallel: bool) -> None:
    vae, guide = make_vae(), make_guide()
    model = poutine.uncondition(vae.model)
    posterior = Predictive(model, guide=guide, num_samples=5, parallel=parallel, return_sites=["z", "x"])
    draws = posterior(binary_images)
    assert draws["z"].shape == (5, 40, 2)
    assert draws["x"].shape == (5, 40, *SHAPE)


@pytest.mark.parametrize("likelihood", [GaussianPerPixel(), WithEvents()])
def test_likelihoods_with_several_outputs_and_event_dimensions(likelihood: Likelihood) -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=SHAPE, outputs=2)
    vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=likelihood)
    x = torch.randn(5, *SHAPE)
    trace = poutine.trace(pyro.plate("particles", 3, dim=-2)(vae.model)).get_trace(x)
    trace.compute_log_prob()
    outputs = decoder(trace.nodes["z"]["value"])
    expected = dist.Normal(outputs[..., 0], outputs[..., 1].exp()).log_prob(x).sum((-1, -2, -3))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    assert vae.generate(4).shape == (4, *SHAPE)


def test_a_prior_with_more_sites(binary_images: Tensor) -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=SHAPE)
    trace = poutine.trace(VAE(decoder, TwoSites(2), Bernoulli()).model).get_trace(binary_images)
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["data", "sign", "z", "x"]


@pytest.mark.parametrize(
    ("latent_dim", "outputs", "message"),
    [
        (3, 1, "Expected decoder and prior of one latent_dim; got 3 and 2"),
        (2, 2, "Expected a decoder with outputs=1 for Bernoulli; got outputs=2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(latent_dim: int, outputs: int, message: str) -> None:
    decoder = MLPDecoder(latent_dim=latent_dim, hidden=(4,), shape=SHAPE, outputs=outputs)
    with pytest.raises(ValueError, match=message):
        VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())


@pytest.mark.parametrize("shape", [(5, 1, 8, 4), (5, 64), (1, 8, 8)])
def test_wrong_data_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected x with data of shape \(1, 8, 8\); got"):
        make_vae().model(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(binary_images: Tensor, dtype: torch.dtype) -> None:
    vae = make_vae().to(dtype)
    trace = poutine.trace(vae.model).get_trace(binary_images.to(dtype))
    assert trace.log_prob_sum().dtype == vae.generate(2).dtype == dtype


@pytest.mark.parametrize("kind", [MLPDecoder, ConvDecoder])
def test_state_dict_round_trip_and_repr(kind: type[Decoder]) -> None:
    def make() -> VAE:
        sizes = {"hidden": (4,)} if kind is MLPDecoder else {"channels": (4, 2)}
        return VAE(kind(latent_dim=2, shape=SHAPE, **sizes), StandardNormal(2), Bernoulli())  # type: ignore[arg-type]

    first, other, z = make(), make(), torch.randn(3, 2)
    assert not torch.equal(first.decode(z), other.decode(z))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first.decode(z), other.decode(z))
    assert repr(first).startswith("VAE")
    assert all(part in repr(first) for part in (kind.__name__, "StandardNormal", "Bernoulli"))
    assert (first.latent_dim, first.shape) == (2, SHAPE)


def test_decode_and_generate_give_mean_images() -> None:
    vae = make_vae()
    z = torch.randn(3, 5, 2)
    images = vae.decode(z)
    assert images.shape == (3, 5, *SHAPE)
    assert not images.requires_grad
    torch.testing.assert_close(images, vae.decoder(z)[..., 0].sigmoid().detach())
    assert torch.equal(vae.generate(6, seed=3), vae.generate(6, seed=3))
    assert not torch.equal(vae.generate(6, seed=3), vae.generate(6, seed=4))
    state = torch.get_rng_state()
    vae.generate(6, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_decode_is_in_evaluation_mode_and_puts_modes_back() -> None:
    vae = make_vae()
    vae.decoder.body.append(nn.Dropout(0.5))
    vae.likelihood.eval()
    modes = [part.training for part in vae.modules()]
    z = torch.randn(5, 2)
    assert torch.equal(vae.decode(z), vae.decode(z))
    assert [part.training for part in vae.modules()] == modes
    with pytest.raises(ValueError, match="Expected z"):
        vae.decode(torch.zeros(5, 3))
    assert [part.training for part in vae.modules()] == modes


def test_plain_svi_trains_decoder_and_encoder(binary_images: Tensor) -> None:
    vae, guide = make_vae(), make_guide()
    before = {name: value.clone() for part in (vae, guide) for name, value in part.named_parameters()}
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(binary_images) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    for part in (vae, guide):
        for name, value in part.named_parameters():
            assert not torch.equal(value, before[name]), name


def test_two_vaes_under_one_parameter_store_are_refused(binary_images: Tensor) -> None:
    first, other = make_vae(), make_vae()
    first.model(binary_images)
    first.model(binary_images)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"Expected the parameter store to hold this module's 'decoder.*' under 'vae'; got another module's .*: "
        r"call pyro.clear_param_store\(\) first, or train by latentmix.inference.fit",
    ):
        other.model(binary_images)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    pyro.clear_param_store()
    other.model(binary_images)


class Flat(Encoder):
    def encode(self, x: Tensor) -> Tensor:
        return x


class UnitGaussian(Likelihood):
    support: ClassVar[Support] = "real"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs[..., 0], torch.ones(outputs.shape[:-1], dtype=outputs.dtype))

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


class Linear:
    """The linear VAE x = w z + b + e with one latent: p(x), the posterior and the ELBO are known exactly."""

    def __init__(self) -> None:
        decoder = MLPDecoder(latent_dim=1, hidden=(), shape=(4,))
        self.vae = VAE(decoder, StandardNormal(1), UnitGaussian()).double()
        self.guide = AmortizedGuide(encoder=Flat(1, (4,), features=4)).double()
        self.w, self.b = decoder.out.weight[:, 0].detach(), decoder.out.bias.detach()
        covariance = torch.eye(4, dtype=torch.float64) + torch.outer(self.w, self.w)
        self.marginal = dist.MultivariateNormal(self.b, covariance)
        self.x = 2 * torch.randn(30, 4, dtype=torch.float64)

    def elbo(self) -> Tensor:
        """Mean of E_q[log p(x | z)] - KL(q | p), in closed form."""
        q = self.guide.posterior(self.x)
        loc, variance = q.mean[:, 0].detach(), q.variance[:, 0].detach()
        errors = self.x - self.b - loc[:, None] * self.w
        expected = -0.5 * (errors.square().sum(-1) + variance * self.w.square().sum() + 4 * math.log(2 * math.pi))
        divergence = 0.5 * (loc.square() + variance - 1 - variance.log())
        return (expected - divergence).mean()

    def make_guide_exact(self) -> None:
        """Set q(z | x) to N(w'(x - b) / (1 + w'w), 1 / (1 + w'w))."""
        precision = 1 + self.w.square().sum()
        loc, log_variance = self.guide.head.loc, self.guide.head.log_variance
        with torch.no_grad():
            loc.weight.copy_(self.w / precision)
            loc.bias.copy_(-(self.w @ self.b) / precision)
            log_variance.weight.zero_()
            log_variance.bias.copy_(-precision.log())


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_linear_vae_has_its_analytic_elbo(kind: type[Trace_ELBO]) -> None:
    linear = Linear()
    elbo = kind(num_particles=4_000, vectorize_particles=True, max_plate_nesting=1)
    terms = as_objective(elbo).terms(linear.vae.model, linear.guide, linear.x)
    assert terms.elbo is not None
    assert terms.elbo.item() == pytest.approx(linear.elbo().item(), abs=0.02)
    assert terms.elbo < linear.marginal.log_prob(linear.x).mean() - 0.1


def test_linear_vae_with_the_exact_guide_gives_the_evidence_at_every_draw() -> None:
    linear = Linear()
    linear.make_guide_exact()
    evidence = linear.marginal.log_prob(linear.x).mean().item()
    assert linear.elbo().item() == pytest.approx(evidence, abs=1e-10)
    for _ in range(3):
        terms = as_objective(Trace_ELBO()).terms(linear.vae.model, linear.guide, linear.x)
        assert terms.loss.item() == pytest.approx(-evidence, abs=1e-10)


def test_fit_of_the_guide_reaches_the_evidence_of_a_linear_vae() -> None:
    linear = Linear()
    linear.vae.requires_grad_(False)
    with evaluation_mode(linear.vae):  # Pyro warns of frozen parameters in training mode
        result = fit(
            linear.vae.model,
            linear.guide,
            linear.x,
            epochs=600,
            optimizer=lambda leaves: torch.optim.Adam(leaves, lr=0.1),
            scheduler=lambda adam: torch.optim.lr_scheduler.ExponentialLR(adam, 0.99),
            seed=0,
        )
    evidence = linear.marginal.log_prob(linear.x).mean().item()
    assert linear.elbo().item() == pytest.approx(evidence, abs=1e-3)
    assert result.losses[-1] == pytest.approx(-evidence, abs=0.02)
