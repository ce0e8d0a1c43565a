import random

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.distributions import MultivariateNormal, Normal

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import GaussianMixture, ex_post_prior, ex_post_priors, likelihood_moments
from latentmix.inference.ex_post import UncertainPoints
from latentmix.inference.mixtures.em.e_step import ExactEStep
from latentmix.inference.mixtures.em.em import fit_em
from latentmix.inference.mixtures.points.points import as_points
from latentmix.models import VAE, Bernoulli, MixtureParameters, MixturePrior, MLPDecoder, StandardNormal, StudentT
from latentmix.models.mixture.covariances import covariance_structure

from tests.inference.mixtures.clouds import from_responsibilities

NOISE = 0.5


class ExactGuide:
    """The posterior of z under N(0, I) where x is z plus noise of variance `NOISE`."""

    latent_dim = 2

    def moments(self, x, *, batch_size=1024, transform=None):
        assert batch_size >= 1
        x = x if transform is None else transform(x)
        return x / (1 + NOISE), torch.full_like(x, NOISE / (1 + NOISE))

    def draw(self, x, *, batch_size=1024, transform=None, seed=None):
        means, variances = self.moments(x, batch_size=batch_size, transform=transform)
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed), dtype=means.dtype)
        return means + variances.sqrt() * noise


def vae(prior=None, latent_dim=2):
    decoder = MLPDecoder(latent_dim=latent_dim, hidden=(4,), shape=(2,))
    return VAE(decoder=decoder, prior=prior or StandardNormal(latent_dim), likelihood=Bernoulli())


def observed(n=5000):
    """z of two narrow components, with noise."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])[torch.arange(n) % 2]
    noise = torch.randn(2, n, 2, generator=generator)
    return centres + 0.5 * noise[0] + NOISE**0.5 * noise[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["variances", "matrices"])
def test_the_likelihood_is_the_posterior_over_the_prior(kind, dtype):
    generator = torch.Generator().manual_seed(1)
    means = 0.3 * torch.randn(4, 3, generator=generator, dtype=dtype)
    if kind == "variances":
        covariances = 0.1 + 0.8 * torch.rand(4, 3, generator=generator, dtype=dtype)
    else:
        axes = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator, dtype=dtype)).Q
        covariances = (axes * torch.tensor([0.1, 0.5, 0.95], dtype=dtype)) @ axes.mT
    moments = likelihood_moments(means, covariances)

    def density(pair, z):
        matrix = pair[1].diag_embed() if kind == "variances" else pair[1]
        return MultivariateNormal(pair[0].double(), matrix.double(), validate_args=False).log_prob(z)

    z = 2 * torch.randn(50, 1, 3, generator=generator, dtype=torch.float64)
    ratio = density((means, covariances), z) - Normal(0.0, 1.0).log_prob(z).sum(-1)
    constant = ratio - density(moments, z)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(constant, constant[:1].expand_as(constant), rtol=0, atol=tolerance)
    assert moments[0].dtype == moments[1].dtype == torch.float64


def test_matrices_agree_with_variances_and_wide_posteriors_say_little():
    means, variances = torch.tensor([[0.4, -0.003, 0.2]]), torch.tensor([[0.2, 1.0, 1.3]])
    plain = likelihood_moments(means, variances)
    matrices = likelihood_moments(means, variances.diag_embed())
    torch.testing.assert_close(matrices[0], plain[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(matrices[1], plain[1].diag_embed(), rtol=1e-6, atol=1e-6)
    assert plain[1][0, 1:].tolist() == pytest.approx([1e6, 1e6])
    slopes, expected = (plain[0] / plain[1])[0], (means / variances).double()[0]
    torch.testing.assert_close(slopes[:2], expected[:2])
    assert plain[0][0, 2].item() == pytest.approx(5 * (1 + 1e6) ** 0.5)  # five sd out, and no farther


@pytest.mark.parametrize(
    ("covariances", "message"),
    [
        (torch.ones(3, 4), r"Expected covariances of shape \(3, 2\) or \(3, 2, 2\); got \(3, 4\)"),
        (torch.zeros(3, 2), "Expected positive definite covariances of q; got an eigenvalue of 0.0"),
        (-torch.eye(2).repeat(3, 1, 1), "Expected positive definite covariances of q; got an eigenvalue of -1.0"),
    ],
)
def test_invalid_covariances_are_refused(covariances, message):
    with pytest.raises(ValueError, match=message):
        likelihood_moments(torch.zeros(3, 2), covariances)


def test_the_plain_form_is_the_mixture_of_samples():
    x, mixture = observed(), GaussianMixture(2, random_state=3)
    prior = ex_post_prior(mixture, vae(), ExactGuide(), x, transform=lambda part: part * 2, seed=5)
    samples = ExactGuide().draw(2 * x, seed=5).double()
    expected = GaussianMixture(2, random_state=3).fit(samples).parameters_
    z = samples[:20].float()
    torch.testing.assert_close(prior().log_prob(z).double(), expected.log_likelihood(z.double()), rtol=0, atol=1e-4)
    assert isinstance(prior, MixturePrior)
    assert not list(prior.parameters())
    assert not hasattr(mixture, "means_")


def test_noise_aware_finds_the_distribution_of_z():
    """Its components have variance 0.25; samples of q under the wrong prior have another distribution.

    Estimates stray by 0.016 in a variance (sqrt(2 / 2500) times 0.25 + 0.5 at most 0.022) and by 0.018 in a mean;
    at 5 deviations a false alarm has a chance below 1e-5.
    """
    aware, plain = (
        ex_post_prior(
            GaussianMixture(2, tol=1e-6, max_iter=500, random_state=0, covariance_type="diag"),
            vae(),
            ExactGuide(),
            observed(),
            noise_aware=flag,
        )
        for flag in (True, False)
    )
    order = aware.means[:, 0].argsort(descending=True)
    torch.testing.assert_close(aware.means[order], torch.tensor([[2.0, 0.0], [-2.0, 1.0]]), rtol=0, atol=0.09)
    torch.testing.assert_close(aware.covariances, torch.full((2, 2), 0.25), rtol=0, atol=0.11)
    assert (plain.covariances - 0.25).abs().min() > 0.11
    evidence = [log_evidence(prior.to_parameters()) for prior in (aware, plain)]
    assert evidence[0] > evidence[1] + 0.05


def log_evidence(parameters):
    """Mean log p(x) where x is z plus noise of variance `NOISE`."""
    wider = parameters.structure.regularize(parameters.covariances, torch.full((2,), NOISE))
    noisy = MixtureParameters(parameters.weights, parameters.means, wider, parameters.structure)
    return float(noisy.log_likelihood(observed()).mean())


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("kind", ["variances", "matrices"])
def test_posteriors_are_infinitely_many_samples(covariance_type, kind):
    """Sigma points m +- sqrt(D) S^1/2 e_d have the moments of N(m, S), and all terms are quadratic in z.

    One component, so that responsibilities are those of samples.
    """
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    roots = torch.randn(30, 3, 3, generator=generator, dtype=torch.float64)
    roots = roots.diagonal(dim1=-2, dim2=-1).diag_embed() if kind == "variances" else roots
    covariances = roots @ roots.mT
    offsets = 3**0.5 * torch.cat([roots.mT, -roots.mT], dim=1)
    samples = (means[:, None] + offsets).flatten(0, 1)
    structure = covariance_structure(covariance_type)
    start = from_responsibilities(means, torch.ones(30, 1).double(), structure)
    given = covariances.diagonal(dim1=-2, dim2=-1) if kind == "variances" else covariances
    weight = torch.rand(30, generator=generator, dtype=torch.float64)
    ours = UncertainPoints(as_points(means, weight), given)(start)
    theirs = ExactEStep(as_points(samples, weight.repeat_interleave(6) / 6))(start).about(start.means)
    for name in ("counts", "sums", "scatter", "log_likelihood", "weight"):
        first, other = getattr(ours, name), getattr(theirs, name)
        if name == "scatter" and covariance_type == "spherical":  # only its means over the features count
            first, other = first.mean(-1), other.mean(-1)
        torch.testing.assert_close(first, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_expected_is_better_than_one_sample(covariance_type):
    x = observed(300)
    mixture = GaussianMixture(2, covariance_type=covariance_type, tol=1e-8, max_iter=500, random_state=0)
    plain, expected = (ex_post_prior(mixture, vae(), ExactGuide(), x, expected=flag) for flag in (False, True))
    means, variances = ExactGuide().moments(x)
    z = means + variances.sqrt() * torch.randn(2000, 300, 2, generator=torch.Generator().manual_seed(1))
    assert expected().log_prob(z).mean() > plain().log_prob(z).mean() + 1e-4
    bounds = fit_em(
        UncertainPoints(as_points(means), variances),
        plain.to_parameters(),
        reg_covar=0.0,
        tol=0.0,
        max_iter=30,
    ).lower_bounds
    assert np.diff(bounds).min() > -1e-9


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_forms_are_those_fitted_alone_and_share_the_fit_to_samples(monkeypatch):
    x, fits = observed(200), []
    fit = GaussianMixture.fit
    monkeypatch.setattr(GaussianMixture, "fit", lambda self, *given: fits.append(self) or fit(self, *given))
    mixture = GaussianMixture(2, noise_candidates=2, max_iter=20)
    arguments = (mixture, vae(), ExactGuide(), x)
    options = {"transform": lambda part: part + 0.1 * torch.randn(part.shape), "limit": 100, "seed": 3}
    together = ex_post_priors(*arguments, **options)
    assert list(together) == ["samples", "expected", "noise_aware"]
    assert len(fits) == 1
    for form in together:
        alone = ex_post_prior(*arguments, expected=form != "samples", noise_aware=form == "noise_aware", **options)
        for name, value in alone.state_dict().items():
            assert torch.equal(value, together[form].prior.state_dict()[name])
    assert 0 < together["samples"].seconds < together["expected"].seconds < together["noise_aware"].seconds
    assert list(ex_post_priors(*arguments, ("noise_aware",), **options)) == ["noise_aware"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("noise_aware", [False, True])
def test_with_a_real_guide_and_no_side_effects(noise_aware):
    torch.manual_seed(0)
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(2,)))
    model, x = vae(), torch.rand(200, 2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    def fit(**options):
        mixture = GaussianMixture(3, noise_candidates=2, reg_covar=1e-3, tol=1e-2)
        return ex_post_prior(
            mixture, model, guide, x, noise_aware=noise_aware, transform=torch.bernoulli, batch_size=64, **options
        )

    prior = fit()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert torch.equal(fit().means, prior.means)
    assert not torch.equal(fit(seed=1).means, prior.means)
    assert torch.equal(fit(limit=100).means, prior.means) != noise_aware
    assert model.with_prior(prior).prior is prior


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guide": AmortizedGuide(encoder=MLPEncoder(latent_dim=3, hidden=(4,), shape=(2,)))}, "latent_dim 2; got 3"),
        ({"batch_size": 0}, "Expected batch_size and limit of at least 1; got 0"),
        ({"limit": 0}, "Expected batch_size and limit of at least 1; got 1024 and 0"),
        ({"vae": vae(StudentT(2)), "noise_aware": True}, "Expected a VAE with a StandardNormal prior"),
        (
            {"mixture": GaussianMixture(2, inference="svi"), "noise_aware": True},
            "Expected inference='em' for an expected or noise-aware fit; got 'svi'",
        ),
        ({"mixture": GaussianMixture(0)}, "'n_components' parameter of GaussianMixture must be an int"),
    ],
)
def test_invalid_arguments_of_ex_post_prior_are_refused(change, message):
    given = {"mixture": GaussianMixture(2), "vae": vae(), "guide": ExactGuide(), "x": observed(50)} | change
    with pytest.raises(ValueError, match=message):
        ex_post_prior(**given)


@pytest.mark.filterwarnings("ignore:Best performing initialization")
def test_an_unfinished_fit_warns():
    with pytest.warns(ConvergenceWarning, match="EM did not converge in 2 iterations"):
        ex_post_prior(
            GaussianMixture(2, max_iter=2, tol=0.0, random_state=0), vae(), ExactGuide(), observed(100), expected=True
        )


def test_any_prior_has_a_plain_successor():
    prior = ex_post_prior(GaussianMixture(2, random_state=0), vae(StudentT(2)), ExactGuide(), observed(200))
    assert prior.n_components == 2


@pytest.mark.parametrize("options", [{}, {"expected": True}, {"noise_aware": True}])
def test_the_prior_has_the_dtype_of_the_vae(options):
    model, x = vae().double(), observed(200).double()
    prior = ex_post_prior(GaussianMixture(2, random_state=0), model, ExactGuide(), x, **options)
    assert {tensor.dtype for tensor in prior.state_dict().values()} == {torch.float64}
    assert model.with_prior(prior).generate(3).dtype == torch.float64
    fitted = GaussianMixture(2, random_state=0).fit(ExactGuide().draw(x, seed=0))
    if not options:
        torch.testing.assert_close(prior.means, fitted.parameters_.means, rtol=0, atol=1e-14)
