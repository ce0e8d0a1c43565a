"""Trees of a VAE's latents against densities that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latentmix.guides import AmortizedGuide, FullNormal, MLPEncoder
from latentmix.inference import log_likelihood, to_datatree
from latentmix.models import VAE, Bernoulli, Gaussian, MLPDecoder, StandardNormal
from latentmix.models.networks import Decoder

SHAPE = (1, 2, 3)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=SHAPE)
    vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Gaussian(var_x=0.5))
    return vae, AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=SHAPE), family=FullNormal())


@pytest.fixture(scope="module")
def x():
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tree(parts, x):
    vae, guide = parts
    return to_datatree(vae, guide=guide, data=x, draws=400)


def test_dimensions(tree):
    assert tree.posterior["z"].dims == ("chain", "draw", "image", "latent")
    assert tree.posterior_predictive["x"].dims == ("chain", "draw", "image", "row", "column")
    assert tree.observed_data["x"].dims == ("image", "row", "column")
    assert tree.sample_stats["log_p"].dims == ("chain", "draw", "image")
    assert tree.importance["log_p_x"].dims == ("image",)
    assert dict(tree.posterior_predictive["x"].sizes) == {"chain": 1, "draw": 400, "image": 4, "row": 2, "column": 3}


def test_densities_by_hand(tree, parts, x):
    vae, guide = parts
    z = torch.from_numpy(tree.posterior["z"].values[0, 7])
    with torch.no_grad():
        mean = vae.likelihood.mean(vae.decoder(z))[:, 0]
        log_q = guide.posterior(x).log_prob(z)
    log_x = stats.norm.logpdf(x[:, 0], mean, math.sqrt(0.5)).sum((1, 2))
    log_z = stats.norm.logpdf(z).sum(1)
    at = {"chain": 0, "draw": 7}
    assert np.allclose(tree.conditional_log_likelihood["x"].isel(at), log_x, rtol=1e-5)
    assert np.allclose(tree.log_prior["z"].isel(at), log_z, rtol=1e-5)
    assert np.allclose(tree.sample_stats["log_q"].isel(at), log_q, rtol=1e-5)
    assert np.allclose(tree.sample_stats["log_p"].isel(at), log_x + log_z, rtol=1e-5)
    assert np.array_equal(tree.observed_data["x"], x[:, 0])


def test_data_are_drawn_at_each_latent(tree, parts):
    vae, _ = parts
    with torch.no_grad():
        means = vae.likelihood.mean(vae.decoder(torch.from_numpy(tree.posterior["z"].values[0])))[:, :, 0].numpy()
    noise = tree.posterior_predictive["x"][0] - means
    assert float(noise.std()) == pytest.approx(math.sqrt(0.5), rel=0.03)
    assert abs(float(noise.mean())) < 0.05


def test_leaving_an_image_out_is_refused_and_importance_weighting_given(tree, parts, x):
    assert "log_likelihood" not in tree
    assert "no meaning" in tree.attrs["log_likelihood_omitted"]
    assert tree.conditional_log_likelihood["x"].attrs["conditional_on"] == "z"
    vae, guide = parts
    assert np.allclose(tree.importance["log_p_x"], log_likelihood(vae, guide, x, 5000), atol=0.3)
    assert (tree.importance["pareto_k"] < 0.7).all()


class Linear(Decoder):
    """x = (z, -z)."""

    def __init__(self) -> None:
        super().__init__(latent_dim=1, shape=(1, 1, 2))

    def decode(self, z):
        return torch.stack([z, -z], -1)[:, None, None]


def test_the_marginal_density_of_a_linear_vae(x):
    vae = VAE(decoder=Linear(), prior=StandardNormal(1), likelihood=Gaussian(var_x=1.0))
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=1, hidden=(4,), shape=(1, 1, 2)))
    data = torch.tensor([[[[0.5, -0.5]]], [[[0.0, 1.0]]]])
    tree = to_datatree(vae, guide=guide, data=data, draws=4000)
    factor = np.array([1.0, -1.0])
    exact = stats.multivariate_normal.logpdf(data.reshape(2, 2), cov=np.outer(factor, factor) + np.eye(2))
    assert np.allclose(tree.importance["log_p_x"], exact, atol=0.1)


def test_seeds_and_random_state(parts, x):
    vae, guide = parts
    state = torch.get_rng_state()
    first = to_datatree(vae, guide=guide, data=x, draws=20, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    again = to_datatree(vae, guide=guide, data=x, draws=20, seed=3)
    other = to_datatree(vae, guide=guide, data=x, draws=20, seed=4)
    assert np.array_equal(first.posterior["z"], again.posterior["z"])
    assert np.array_equal(first.posterior_predictive["x"], again.posterior_predictive["x"])
    assert not np.array_equal(first.posterior["z"], other.posterior["z"])


def test_data_that_are_drawn_are_bounded(parts, x, monkeypatch):
    vae, guide = parts
    monkeypatch.setattr("latentmix.inference.trees.vae._MOST_PREDICTED", 4 * x.numel() * 5 + 3)
    tree = to_datatree(vae, guide=guide, data=x, draws=20)
    assert tree.posterior_predictive.sizes["draw"] == 5
    assert tree.attrs["posterior_predictive_draws"].startswith("the first 5 of 20")
    assert "posterior_predictive" not in to_datatree(vae, guide=guide, data=x, draws=20, posterior_predictive=False)


def test_channels_points_and_coordinates():
    shape = (3, 2, 2)
    vae = VAE(
        decoder=MLPDecoder(latent_dim=2, hidden=(8,), shape=shape), prior=StandardNormal(2), likelihood=Bernoulli()
    )
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=shape))
    tree = to_datatree(vae, guide=guide, data=torch.ones(2, *shape), draws=3, images=["first", "second"])
    assert tree.observed_data["x"].dims == ("image", "channel", "row", "column")
    assert tree.posterior["image"].values.tolist() == ["first", "second"]
    points = VAE(
        decoder=MLPDecoder(latent_dim=2, hidden=(8,), shape=(4,)), prior=StandardNormal(2), likelihood=Gaussian()
    )
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(4,)))
    tree = to_datatree(points, guide=guide, data=torch.ones(2, 4), draws=3)
    assert tree.posterior["z"].dims == ("chain", "draw", "point", "latent")
    assert tree.observed_data["x"].dims == ("point", "feature")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data": torch.ones(1, *SHAPE)}, "no guide: pass guide= and data="),
        ({"guide": True}, "no data: pass guide= and data="),
        ({"guide": True, "data": torch.ones(1, 1, 2, 2)}, r"shape n x 1 x 2 x 3; got \(1, 1, 2, 2\)"),
        ({"guide": True, "data": torch.ones(1, *SHAPE), "draws": 0}, "draws >= 1; got 0"),
        ({"guide": True, "data": torch.ones(1, *SHAPE), "images": [1, 2]}, "coordinates of 1 image; got"),
        ({"X": 1}, "options of to_datatree for a VAE, guide, data"),
    ],
)
def test_refusals(options, reason, parts):
    vae, guide = parts
    if "guide" in options:
        options = options | {"guide": guide}
    with pytest.raises(ValueError, match=rf"^Expected .*{reason}"):
        to_datatree(vae, **options)
