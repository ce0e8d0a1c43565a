from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pyro
import pytest
import sklearn.mixture
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from scipy.stats import multivariate_normal
from torch import Tensor

from latentmix.guides import AmortizedGuide, DiagonalNormal, FullNormal, MLPEncoder
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.models import VAE, Bernoulli, MixtureParameters, MixturePrior, MLPDecoder
from latentmix.models.mixture.covariances import CovarianceType, covariance_structure
from latentmix.models.mixture_prior import cholesky_factor

TYPES: tuple[CovarianceType, ...] = get_args(CovarianceType)
SCIKIT_LEARN: tuple[CovarianceType, ...] = ("full", "diag", "tied", "spherical")


def random_parameters(covariance_type: CovarianceType, n_components: int = 3, n_features: int = 2) -> MixtureParameters:
    structure = covariance_structure(covariance_type)
    shape = structure.covariance_shape(n_components, n_features)
    if structure.correlated:
        root = torch.randn(shape, dtype=torch.float64)
        covariances = root @ root.mT + 0.3 * torch.eye(n_features, dtype=torch.float64)
    else:
        covariances = torch.rand(shape, dtype=torch.float64) + 0.3
    weights = torch.rand(n_components, dtype=torch.float64) + 0.2
    means = 2 * torch.randn(n_components, n_features, dtype=torch.float64)
    return MixtureParameters(weights / weights.sum(), means, covariances, structure)


def contains(kind: CovarianceType, special: CovarianceType) -> bool:
    return covariance_structure(kind).contains(covariance_structure(special))


def learned(kind: CovarianceType, *, latent_dim: int = 2, enumerated: bool = False) -> MixturePrior:
    prior = MixturePrior(latent_dim, 3, covariance_type=kind, enumerated=enumerated).double()
    prior.initialize(random_parameters(kind, n_features=latent_dim))
    return prior


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_density_matches_scipy(covariance_type: CovarianceType, latent_dim: int) -> None:
    parameters = random_parameters(covariance_type, n_features=latent_dim)
    prior = MixturePrior.from_parameters(parameters).double()
    prior.initialize(parameters)
    z = 2 * torch.randn(20, latent_dim, dtype=torch.float64)
    expected = sum(
        weight.item() * torch.from_numpy(multivariate_normal(mean.numpy(), covariance.numpy()).pdf(z.numpy()))
        for weight, mean, covariance in zip(
            parameters.weights, parameters.means, parameters.expanded_covariances(), strict=True
        )
    )
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(prior().log_prob(z), expected.log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prior.responsibilities(z), parameters.responsibilities(z), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("covariance_type", SCIKIT_LEARN)
def test_a_frozen_mixture_equals_scikit_learn(covariance_type: CovarianceType) -> None:
    x = torch.cat([torch.randn(200, 2) - 3, torch.randn(200, 2) * torch.tensor([1.0, 0.3]) + 3]).double()
    ours = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(x)
    theirs = sklearn.mixture.GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(x.numpy())
    prior = MixturePrior.from_mixture(ours, x)
    density = prior().log_prob(x.float()).double()
    torch.testing.assert_close(density, torch.from_numpy(theirs.score_samples(x.numpy())), rtol=1e-3, atol=1e-3)
    assert torch.equal(prior.responsibilities(x.float()).argmax(-1), ours.predict(x))


@pytest.mark.parametrize("kind", TYPES)
def test_parameters_round_trip(kind: CovarianceType) -> None:
    parameters = random_parameters(kind)
    prior = MixturePrior(2, 3, covariance_type=kind).double()
    prior.initialize(parameters)
    again = prior.to_parameters()
    assert again.structure.name == kind
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(again, name), getattr(parameters, name), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(getattr(prior, name).detach(), getattr(parameters, name), rtol=1e-12, atol=1e-12)
    again.means.zero_()
    assert prior.means.abs().min() > 0


def test_a_prior_from_parameters_leaves_the_random_state() -> None:
    parameters = random_parameters("full")
    before = torch.get_rng_state()
    MixturePrior.from_parameters(parameters)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_component_stays_finite() -> None:
    parameters = random_parameters("diag")
    weights = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    prior = MixturePrior.from_parameters(
        MixtureParameters(weights, parameters.means, parameters.covariances, parameters.structure)
    )
    assert prior().log_prob(torch.randn(5, 2)).isfinite().all()
    assert prior.weights[0] < 1e-30


def test_a_new_prior_has_equal_weights_and_distinct_unit_components() -> None:
    prior = MixturePrior(50, 20, covariance_type="full")
    torch.testing.assert_close(prior.weights, torch.full((20,), 0.05))
    torch.testing.assert_close(prior.covariances, torch.eye(50).expand(20, 50, 50))
    assert prior.means.std().item() == pytest.approx(1.0, abs=0.1)  # 1,000 normal draws: 4 standard errors
    assert torch.pdist(prior.means.detach()).min() > 1


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_cholesky_factor_is_lower_triangular_with_its_diagonal(latent_dim: int) -> None:
    scales = torch.rand(5, latent_dim) + 0.5
    lower = torch.randn(5, latent_dim * (latent_dim - 1) // 2) if latent_dim > 1 else None
    factor = cholesky_factor(scales, lower)
    torch.testing.assert_close(factor.diagonal(dim1=-2, dim2=-1), scales)
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(torch.linalg.cholesky(factor @ factor.mT), factor, rtol=1e-3, atol=1e-3)


def make_pair(prior: MixturePrior, guide_family: DiagonalNormal | FullNormal) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(1)
    decoder = MLPDecoder(latent_dim=prior.latent_dim, hidden=(8,), shape=(1, 8, 8))
    encoder = MLPEncoder(latent_dim=prior.latent_dim, hidden=(8,), shape=(1, 8, 8))
    return VAE(decoder, prior, Bernoulli()).double(), AmortizedGuide(encoder, guide_family).double()


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("family", [DiagonalNormal(), FullNormal()], ids=["diagonal", "correlated"])
@pytest.mark.parametrize("kind", TYPES)
def test_enumerated_and_collapsed_agree_in_value_and_gradient(
    binary_images: Tensor, kind: CovarianceType, family: DiagonalNormal | FullNormal, latent_dim: int, particles: int
) -> None:
    prior = learned(kind, latent_dim=latent_dim, enumerated=True)
    vae, guide = make_pair(prior, family)
    leaves = [*vae.parameters(), *guide.parameters()]
    x = binary_images.double()
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    losses, gradients = [], []
    for enumerated, elbo in ((True, TraceEnum_ELBO(**options)), (False, Trace_ELBO(**options))):
        prior.enumerated = enumerated
        pyro.set_rng_seed(3)
        losses.append(elbo.differentiable_loss(vae.model, guide, x))
        gradients.append(torch.autograd.grad(losses[-1], leaves))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)
    for enumerated, collapsed in zip(*gradients, strict=True):
        torch.testing.assert_close(enumerated, collapsed, rtol=0, atol=1e-9)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("plates", [(), (1,), (5,), (2, 5)])
def test_sampled_assignments_have_the_joint_density(kind: CovarianceType, plates: tuple[int, ...]) -> None:
    prior = learned(kind, enumerated=True)

    def model() -> Tensor:
        return prior.sample("z")

    for position, size in enumerate(reversed(plates)):
        model = pyro.plate(f"plate{position}", size, dim=-1 - position)(model)
    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    z, k = trace.nodes["z"]["value"], trace.nodes["assignment"]["value"]
    assert (z.shape, k.shape) == ((*plates, 2), plates)
    joint = prior.to_parameters().log_joint(z.reshape(-1, 2)).gather(1, k.reshape(-1, 1)).reshape(plates)
    total = trace.nodes["z"]["log_prob"] + trace.nodes["assignment"]["log_prob"]
    torch.testing.assert_close(total, joint, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", TYPES)
def test_plain_svi_trains_the_enumerated_form(binary_images: Tensor, kind: CovarianceType) -> None:
    vae, guide = make_pair(learned(kind, enumerated=True), DiagonalNormal())
    before = {name: value.clone() for name, value in vae.prior.named_parameters()}
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(binary_images.double()) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(not torch.equal(value, before[name]) for name, value in vae.prior.named_parameters())
    assert vae.generate(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("batch", [(), (1,), (5,), (3, 5)])
@pytest.mark.parametrize("kind", TYPES)
def test_responsibilities_of_any_batch(kind: CovarianceType, batch: tuple[int, ...]) -> None:
    prior = learned(kind)
    z = torch.randn(*batch, 2, dtype=torch.float64)
    r = prior.responsibilities(z)
    assert r.shape == (*batch, 3)
    torch.testing.assert_close(r.sum(-1), torch.ones(batch, dtype=torch.float64))
    expected = prior.to_parameters().responsibilities(z.reshape(-1, 2)).reshape(*batch, 3)
    torch.testing.assert_close(r.detach(), expected)


def test_responsibilities_refuse_another_length() -> None:
    for z in (torch.zeros(5, 3), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"Expected z with last dimension 2; got shape \("):
            MixturePrior(2, 3).responsibilities(z)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_frozen_prior_is_saved_and_never_trained(covariance_type: CovarianceType) -> None:
    prior = MixturePrior.from_parameters(random_parameters(covariance_type), enumerated=True)
    assert prior.covariance_type == covariance_type
    assert list(prior.parameters()) == []
    assert prior.frozen
    assert prior.enumerated
    rebuilt = MixturePrior(2, 3, covariance_type=prior.covariance_type, frozen=True)
    rebuilt.load_state_dict(prior.state_dict())
    z = torch.randn(5, 2)
    assert torch.equal(rebuilt().log_prob(z), prior().log_prob(z))
    trainable = MixturePrior(2, 3, covariance_type=prior.covariance_type)
    trainable.load_state_dict(prior.state_dict())
    assert torch.equal(trainable().log_prob(z), prior().log_prob(z))
    assert "frozen=True" in repr(prior)
    assert "frozen" not in repr(trainable)


def latents(n: int = 300) -> tuple[Tensor, Tensor]:
    """Means and draws of q, whose second dimension is independent of the data."""
    means = torch.stack([torch.where(torch.arange(n) % 2 == 0, -2.0, 2.0), torch.zeros(n)], 1).double()
    means = means + 0.05 * torch.randn(n, 2, dtype=torch.float64)
    return means, means + torch.tensor([0.1, 1.0]).double() * torch.randn(n, 2, dtype=torch.float64)


@pytest.mark.parametrize("covariance_type", SCIKIT_LEARN)
@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_a_mixture_of_samples_is_accepted_and_one_of_means_refused(
    covariance_type: CovarianceType, n_components: int
) -> None:
    means, samples = latents()
    _, again = latents()
    make = GaussianMixture(n_components, covariance_type=covariance_type, random_state=0)
    good = make.fit(samples)
    for draws in (samples, again, again.float()):
        assert MixturePrior.from_mixture(good, draws).n_components == n_components
    if covariance_type == "spherical" and n_components == 1:
        return  # one width for all dimensions cannot be too narrow in one of them alone
    with pytest.raises(ValueError, match=r"one Gaussian, .* nats; got .*: fit it to guide.draw\(images\), one sample"):
        MixturePrior.from_mixture(make.fit(means), samples)


def test_samples_of_another_shape_or_without_spread_are_refused() -> None:
    good = GaussianMixture(2, random_state=0).fit(latents()[1])
    with pytest.raises(ValueError, match=r"Expected samples of shape \(n, 2\); got \(9, 3\)"):
        MixturePrior.from_mixture(good, torch.zeros(9, 3))
    for samples in (torch.randn(2, 2), torch.zeros(9, 2), torch.randn(9, 1).expand(9, 2)):
        with pytest.raises(ValueError, match="Expected samples that spread in each of 2 dimensions, and more"):
            MixturePrior.from_mixture(good, samples)
    broken = SimpleNamespace(parameters_=good.parameters_.affine(torch.ones(2), torch.full((2,), torch.nan)))
    with pytest.raises(ValueError, match="got nan nats"):
        MixturePrior.from_mixture(broken, latents()[1])


def test_parameters_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected means of shape \(4, 2\) for a MixturePrior; got \(3, 2\)"):
        MixturePrior(2, 4).initialize(random_parameters("diag"))
    for kind in ("full", "tied"):
        with pytest.raises(ValueError, match=f"without correlations for covariance_type='diag'; got '{kind}'"):
            MixturePrior(2, 3).initialize(random_parameters(kind))
    good = random_parameters("diag")
    flat = MixtureParameters(good.weights, good.means, good.covariances.clone(), good.structure)
    flat.covariances[1, 0] = 0.0
    with pytest.raises(ValueError, match=r"positive definite covariances; got singular ones in components \[1\]"):
        MixturePrior(2, 3).initialize(flat)
    refusals: dict[CovarianceType, str] = {
        "tied": "of one covariance for all components for covariance_type='tied'; got 'full'",
        "tied_diag": "of one covariance for all components for covariance_type='tied_diag'; got 'diag'",
        "spherical": "of one variance for all features for covariance_type='spherical'; got 'tied_diag'",
    }
    for kind, message in refusals.items():
        with pytest.raises(ValueError, match=message):
            MixturePrior(2, 3, covariance_type=kind).initialize(random_parameters(message[:-1].rsplit("'")[-1]))


@pytest.mark.parametrize(
    ("kind", "special"),
    [(kind, special) for kind in TYPES for special in TYPES if contains(kind, special)],
)
def test_a_mixture_of_a_more_special_type_is_a_start(kind: CovarianceType, special: CovarianceType) -> None:
    parameters, z = random_parameters(special), torch.randn(20, 2, dtype=torch.float64)
    prior = MixturePrior(2, 3, covariance_type=kind).double()
    prior.initialize(parameters)
    torch.testing.assert_close(prior().log_prob(z), parameters.log_likelihood(z), rtol=1e-10, atol=1e-10)


def test_an_unknown_covariance_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected covariance_type in \['diag', 'full', .*; got 'round'"):
        MixturePrior(2, 3, covariance_type="round")  # type: ignore[arg-type]
