"""A covariance type of one's own, in one file: registered, it serves the model, SVI, NUTS, sampling and the prior."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from latentmix.inference.mixtures.nuts.fit import fit_mixture_nuts
from latentmix.inference.mixtures.svi.fit import fit_mixture_svi
from latentmix.models import MixturePrior
from latentmix.models.mixture import covariances
from latentmix.models.mixture.covariances import Variances, covariance_structure, register_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import blobs


class TiedSpherical(Variances):
    """One variance for all components and features."""

    name = "tied_spherical"
    shared = True
    isotropic = True


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariances, "_STRUCTURES", dict(covariances._STRUCTURES))
        register_structure(TiedSpherical())
        yield


@pytest.fixture(scope="module")
def x() -> Tensor:
    return blobs(n=200, n_features=2, n_components=3)


def begin(x: Tensor) -> MixtureParameters:
    weights, variance = torch.full((3,), 1 / 3, dtype=torch.float64), x.var(0).mean()
    return MixtureParameters(weights, x[:3], variance, covariance_structure("tied_spherical"))


def em(x: Tensor, start: MixtureParameters, steps: int = 2000) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights, means and variance by EM, written out."""
    points, weights, means = x.numpy(), start.weights.numpy(), start.means.numpy()
    variance = float(start.covariances)
    for _ in range(steps):
        squares = ((points[:, None] - means) ** 2).sum(-1)
        joint = np.log(weights) - squares / (2 * variance)
        responsibilities = np.exp(joint - joint.max(1, keepdims=True))
        responsibilities /= responsibilities.sum(1, keepdims=True)
        counts = responsibilities.sum(0)
        weights, means = counts / len(points), responsibilities.T @ points / counts[:, None]
        variance = float((responsibilities * ((points[:, None] - means) ** 2).sum(-1)).sum()) / points.size
    return weights, means, variance


def test_the_model_has_one_scale(x: Tensor) -> None:
    model = MixtureModel(3, 2, covariance_type="tied_spherical", covariance_floor=0.1)
    sites = {name: value.detach() for name, value in begin(x).sites(0.1).items()}
    assert {name: tuple(value.shape) for name, value in sites.items()} == model.shapes
    assert model.shapes["scales"] == ()
    torch.testing.assert_close(model.parameters(sites).covariances, begin(x).covariances)
    trace = poutine.trace(poutine.condition(model.collapsed, sites)).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], begin(x).log_likelihood(x))


def test_sampled_data_have_the_variance_of_the_mixture(x: Tensor) -> None:
    parameters = begin(x)
    model = poutine.uncondition(MixtureModel(3, 2, covariance_type="tied_spherical"))
    trace = poutine.trace(poutine.condition(model, parameters.sites())).get_trace(x.repeat(100, 1))
    drawn = trace.nodes["x"]["value"]
    torch.testing.assert_close(drawn.var(0), parameters.variance, rtol=0.05, atol=0)


def test_svi_ends_where_em_does(x: Tensor) -> None:
    result = fit_mixture_svi(x, begin(x), reg_covar=0.0, tol=1e-10)
    weights, means, variance = em(x, begin(x))
    assert result.converged
    torch.testing.assert_close(result.parameters.weights, torch.from_numpy(weights), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.parameters.means, torch.from_numpy(means), rtol=1e-4, atol=1e-4)
    assert float(result.parameters.covariances) == pytest.approx(variance, rel=1e-4)


def test_a_guide_gives_draws(x: Tensor) -> None:
    result = fit_mixture_svi(x, begin(x), priors={}, family=AutoNormal, epochs=300)
    draws = result.posterior
    assert draws.sites["scales"].shape == (1, 1000)
    assert float(draws.mean().covariances) == pytest.approx(float(result.parameters.covariances), rel=0.05)


def test_nuts_agrees_with_svi(x: Tensor) -> None:
    result = fit_mixture_nuts(x, begin(x), chains=2, draws=150, warmup=150)
    weights, means, variance = em(x, begin(x))
    assert result.posterior.sites["scales"].shape == (2, 150)
    torch.testing.assert_close(result.parameters.means, torch.from_numpy(means), rtol=0.05, atol=0.2)
    torch.testing.assert_close(result.parameters.weights, torch.from_numpy(weights), rtol=0, atol=0.05)
    assert float(result.parameters.covariances) == pytest.approx(variance, rel=0.15)


def test_a_prior_of_a_vae_takes_it(x: Tensor) -> None:
    parameters = begin(x)
    prior = MixturePrior.from_parameters(parameters).double()
    prior.initialize(parameters)
    assert prior.log_scales.shape == ()
    torch.testing.assert_close(prior().log_prob(x), parameters.log_likelihood(x), rtol=1e-10, atol=1e-10)
