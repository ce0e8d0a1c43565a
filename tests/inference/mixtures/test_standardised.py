import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from latentmix.inference.mixtures.standardised import standardised_model
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES, begin, blobs

PRIORS = {"means": dist.Normal(5.0, 40.0), "scales": dist.LogNormal(1.0, 1.0)}


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_density_equals_that_of_the_data_coordinates(covariance_type) -> None:
    x = 7 * blobs(n=60) + 100
    x = (
        x
        * torch.tensor(
            [1.0, 1.0, 1.0] if covariance_structure(covariance_type).isotropic else [1.0, 0.01, 30.0]
        ).double()
    )
    parameters = begin(x, covariance_type)
    made = standardised_model(x, 4, parameters.structure, priors=PRIORS, reg_covar=1e-4)
    plain = MixtureModel(4, 3, covariance_type=covariance_type, covariance_floor=1e-4, **PRIORS)
    floor = torch.full((3,), 1e-4, dtype=torch.float64)
    standardised, own = (
        float(poutine.trace(poutine.condition(model.collapsed, sites)).get_trace(points).log_prob_sum())
        for model, sites, points in (
            (made.model, made.sites(parameters), made.points(x)),
            (plain, parameters.sites(floor), x),
        )
    )
    correlations = MixtureModel(4, 3, covariance_type=covariance_type).priors(x).get("correlation_cholesky")
    assert correlations is None or made.model.declared_priors["correlation_cholesky"] is None
    assert standardised - len(x) * made.log_jacobian - made.sites_log_jacobian == pytest.approx(own, rel=1e-6)
    again = made.parameters(made.sites(parameters))
    torch.testing.assert_close(again.covariances, parameters.covariances, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(made.points(x).mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_flat_priors_have_no_jacobian() -> None:
    made = standardised_model(blobs(), 4, covariance_structure("full"))
    assert made.sites_log_jacobian == 0
    assert made.log_jacobian != 0


def test_priors_left_out_default_to_standardised_data() -> None:
    x = 1000 * blobs()
    made = standardised_model(x, 4, covariance_structure("full"), priors={})
    priors = made.model.priors(x)
    assert float(priors["means"].base_dist.scale.max()) == 3
    with pytest.raises(ValueError, match="Expected priors of weights, means, scales, correlations; got one of 'mu'"):
        standardised_model(x, 4, covariance_structure("full"), priors={"mu": dist.Normal(0.0, 1.0)})


def test_a_start_outside_the_support_is_moved_inside() -> None:
    x = torch.tensor([[-6.0], [-5.5], [5.5], [6.0]], dtype=torch.float64)
    prior = dist.Uniform(-5.6 * torch.ones(2, 1).double(), 5.6)
    made = standardised_model(x, 2, covariance_structure("full"), priors={"means": prior})
    begin = MixtureParameters(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[-5.75], [5.5]]).double(),
        torch.ones(2, 1, 1).double(),
        covariance_structure("full"),
    )
    means = made.parameters(made.sites(begin)).means
    torch.testing.assert_close(means, torch.tensor([[-5.5888], [5.5]]).double())
