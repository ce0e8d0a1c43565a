"""The bound of every datum: closed forms, and the mean that the objective itself measures."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import FreeBits, Weighted, bound_of, evaluate
from latentmix.inference.objectives.pointwise import PointwiseBound
from latentmix.models import VAE, Bernoulli, MixturePrior, MLPDecoder, StandardNormal

VECTORISED = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}
SAMPLED = {
    "trace": Trace_ELBO(),
    "particles": Trace_ELBO(num_particles=3),
    "vectorised": Trace_ELBO(**VECTORISED),
    "renyi": RenyiELBO(num_particles=4),
}


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


@pytest.mark.parametrize("elbo", SAMPLED.values(), ids=SAMPLED)
def test_under_the_exact_posterior_the_bound_of_a_datum_is_its_log_likelihood(elbo):
    x = torch.linspace(-3.0, 3.0, 11)
    measuring = PointwiseBound(elbo)
    evaluate(model, exact_guide, x, objective=measuring, batch_size=4)
    expected = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x)
    torch.testing.assert_close(measuring.elbo.float(), expected)


def vae_and_guide(prior):
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(2, (16,), (1, 4, 4)), prior, Bernoulli())
    return vae, AmortizedGuide(MLPEncoder(2, (16,), (1, 4, 4)))


CASES = {
    **{name: (StandardNormal(2), elbo) for name, elbo in SAMPLED.items()},
    "mean field": (StandardNormal(2), TraceMeanField_ELBO()),
    "free bits": (StandardNormal(2), bound_of(Weighted(FreeBits(0.5), beta=4.0))),
    "mixture prior": (MixturePrior(2, 3), Trace_ELBO()),
    "enumerated": (MixturePrior(2, 3, enumerated=True), TraceEnum_ELBO(max_plate_nesting=1)),
    "enumerated, vectorised": (MixturePrior(2, 3, enumerated=True), TraceEnum_ELBO(**VECTORISED)),
}


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize(("prior", "elbo"), CASES.values(), ids=CASES)
def test_bounds_of_data_have_the_mean_that_is_measured_without_them(prior, elbo, batch_size):
    vae, guide = vae_and_guide(prior)
    x = (torch.rand(15, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    measuring = PointwiseBound(elbo)
    bound = evaluate(vae.model, guide, x, objective=measuring, batch_size=batch_size)
    assert bound == evaluate(vae.model, guide, x, objective=elbo, batch_size=batch_size)
    assert measuring.elbo.shape == (15,)
    assert measuring.elbo.dtype == torch.float64
    assert float(measuring.elbo.mean()) == pytest.approx(bound.elbo, rel=1e-5)


def test_an_objective_in_pyros_own_code_tells_none():
    vae, guide = vae_and_guide(StandardNormal(2))
    measuring = PointwiseBound(TraceGraph_ELBO())
    bound = evaluate(vae.model, guide, torch.zeros(5, 1, 4, 4), objective=measuring)
    assert measuring.elbo is None
    assert math.isfinite(bound.elbo)


def test_a_latent_outside_the_plate_leaves_no_sum_over_data():
    def shared(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(0.0, 0.5))

    measuring = PointwiseBound(Trace_ELBO())
    evaluate(shared, guide, torch.zeros(5), objective=measuring)
    assert measuring.elbo is None
