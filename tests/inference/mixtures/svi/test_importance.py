import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.potential.potential import MixturePotential
from latentmix.inference.mixtures.svi.fit import SVI, MixtureSVIResult
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES


def start(x: torch.Tensor, means: torch.Tensor, covariance_type: str) -> MixtureParameters:
    structure = covariance_structure(covariance_type)
    ones = torch.ones(structure.scale_shape(*means.shape), dtype=torch.float64)
    correlation = structure.correlation_shape(*means.shape)
    eye = None if correlation is None else torch.eye(means.shape[1], dtype=torch.float64).expand(*correlation, -1, -1)
    weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
    return MixtureParameters(weights, means, structure.covariances(ones, eye), structure)


def log_weights(result: MixtureSVIResult, posterior: MixturePosterior, x: torch.Tensor) -> torch.Tensor:
    return result.log_joint(posterior, x) - posterior.sample_stats["log_q"]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_are_those_of_unconstrained_values(covariance_type: str) -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 2.0]], dtype=torch.float64)
    x = torch.cat([torch.randn(30, 2, dtype=torch.float64) + centre for centre in centres])
    svi = SVI(guide=AutoNormal, priors={}, epochs=20)
    result = svi.fit(x, start(x, centres, covariance_type), FitOptions(reg_covar=0.01))
    posterior = result.draw(5, seed=3)
    standardised = (x - result.location) / result.scale
    potential = MixturePotential(result.model, standardised)
    jacobian = len(x) * float(result.scale.log().sum())
    sites = {name: values.clone() for name, values in posterior.sites.items()}
    sites["means"] = (sites["means"] - result.location) / result.scale
    sites["scales"] = sites["scales"] / result.model.structure.per_scale(result.scale)
    weights = log_weights(result, posterior, x)
    for draw in range(5):
        position = potential.position({name: values[0, draw] for name, values in sites.items()})
        log_p = -potential.value_and_gradient(position.numpy())[0] - jacobian
        flat = [getattr(result.guide.locs, name).flatten() for name in potential.priors]
        widths = [getattr(result.guide.scales, name).flatten() for name in potential.priors]
        normal = torch.distributions.Normal(torch.cat(flat), torch.cat(widths))
        log_q = float(normal.log_prob(position).detach().sum())
        assert float(weights[0, draw]) == pytest.approx(log_p - log_q, abs=1e-6)


def test_of_an_exact_guide_the_weights_are_equal_and_give_the_evidence() -> None:
    """One Gaussian of a scale that the prior fixes has a normal posterior of its mean."""
    x = torch.linspace(-1.0, 3.0, 25, dtype=torch.float64)[:, None]
    priors = {
        "means": dist.Normal(torch.zeros(1, 1, dtype=torch.float64), 2.0).to_event(2),
        "scales": dist.LogNormal(torch.full((1, 1), math.log(1.5), dtype=torch.float64), 1e-5).to_event(2),
    }
    result = SVI(guide=AutoMultivariateNormal, priors=priors).fit(
        x, start(x, torch.ones(1, 1, dtype=torch.float64), "diag"), FitOptions(reg_covar=0.0)
    )
    weights = log_weights(result, result.draw(200), x)[0].numpy()
    covariance = 1.5**2 * np.eye(25) + 4.0
    values = x[:, 0].numpy()
    evidence = -0.5 * (values @ np.linalg.solve(covariance, values) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert weights.std() < 0.02
    assert weights.mean() == pytest.approx(evidence, abs=0.01)


def test_the_mean_log_weight_is_the_bound() -> None:
    torch.manual_seed(1)
    x = torch.randn(50, 2, dtype=torch.float64)
    centre = torch.zeros(1, 2, dtype=torch.float64)
    result = SVI(guide=AutoMultivariateNormal, priors={}).fit(x, start(x, centre, "full"))
    posterior = result.posterior
    assert posterior is not None
    assert float(log_weights(result, posterior, x).mean()) / 50 == pytest.approx(result.lower_bound, abs=2e-3)
