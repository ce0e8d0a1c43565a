from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.guides import AmortizedGuide, ConvEncoder
from latentmix.inference import as_objective, evaluate
from latentmix.inference.objectives.conversion import bound_of
from latentmix.models import VAE, Bernoulli, ConvDecoder, StandardNormal

from tests.inference.pairs import (
    TOTAL,
    Pair,
    assert_equal_to_pyro,
    assert_traceable,
    auxiliary_pair,
    chain_pair,
    gradients,
    guide_enumeration_pair,
    local_pair,
    mixture_pair,
    score_function_pair,
    subsampled_pair,
    vae_pair,
)

PARTICLES: dict[str, dict[str, Any]] = {
    "one": {},
    "three": {"num_particles": 3},
    "three_vectorised": {"num_particles": 3, "vectorize_particles": True},
    "nesting_known": {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1},
}
CONTINUOUS = {"vae": vae_pair, "subsampled": subsampled_pair, "auxiliary": auxiliary_pair}


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("pair", [*CONTINUOUS, "score_function"])
def test_trace_elbo(pair: str, particles: str) -> None:
    made = {**CONTINUOUS, "score_function": score_function_pair}[pair]()
    assert_equal_to_pyro(Trace_ELBO(**PARTICLES[particles]), made)


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("pair", CONTINUOUS)
def test_trace_mean_field_elbo(pair: str, particles: str) -> None:
    assert_equal_to_pyro(TraceMeanField_ELBO(**PARTICLES[particles]), CONTINUOUS[pair]())


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("size", [12, TOTAL])
def test_trace_enum_elbo_on_a_mixture(guide: Callable[[Any], Any], size: int, particles: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(**PARTICLES[particles]), mixture_pair(guide, size))


@pytest.mark.parametrize("particles", ["one", "three", "three_vectorised"])
@pytest.mark.parametrize("pair", [chain_pair, vae_pair, subsampled_pair, auxiliary_pair])
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_trace_enum_elbo_elsewhere(pair: Callable[[], Pair], particles: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(**PARTICLES[particles]), pair())


@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_trace_enum_elbo_with_guide_enumeration(how: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(max_plate_nesting=1), guide_enumeration_pair(how))


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_trace_enum_elbo_with_a_score_function() -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(max_plate_nesting=1), score_function_pair())


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO])
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_value_without_gradient_moves_nothing(kind: type[ELBO]) -> None:
    elbo = kind(max_plate_nesting=1)
    model, guide, batch, count = auxiliary_pair()
    objective = as_objective(elbo)
    objective(model, guide, *batch)
    with torch.no_grad():
        pyro.set_rng_seed(2)
        value = objective(model, guide, *batch)
    pyro.set_rng_seed(2)
    assert value.item() == pytest.approx(copy.copy(elbo).loss(model, guide, *batch) / count, rel=1e-9)
    assert gradients() == {}


def test_the_users_elbo_is_not_changed() -> None:
    elbo = TraceEnum_ELBO()
    model, guide, batch, _ = mixture_pair(AutoDelta, TOTAL)
    as_objective(elbo)(model, guide, *batch)
    assert elbo.max_plate_nesting == math.inf


def test_terms_of_a_vae_are_its_reconstruction_and_divergence() -> None:
    model, guide, (x,), _ = vae_pair()
    terms = as_objective(TraceMeanField_ELBO()).terms(model, guide, x)
    q = guide.posterior(x)
    divergence = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1).mean()
    assert terms.kl is not None
    assert terms.kl.item() == pytest.approx(divergence.item(), rel=1e-9)
    assert terms.loss.requires_grad
    assert not any(part.requires_grad for part in terms[1:])
    totals = terms.totals(7)
    assert totals == pytest.approx([7 * part.item() for part in terms[1:]] + [7.0])
    assert terms.totals(5, totals) == pytest.approx([12 * part.item() for part in terms[1:]] + [12.0])


def test_mean_field_refuses_a_pair_without_closed_form() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.StudentT(4.0, 0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

    with pytest.raises(ValueError, match=r"analytic KL divergence at site 'loc'.*Normal against StudentT: use Trace_"):
        as_objective(TraceMeanField_ELBO())(model, guide, torch.zeros(3))


def test_mean_field_refuses_a_guide_without_pathwise_gradient() -> None:
    """Pyro refuses it too; its KL is analytic, but the gradient of the log-likelihood would be lost."""
    model, guide, batch, _ = score_function_pair()
    with pytest.raises((ValueError, NotImplementedError), match="reparam"):
        as_objective(TraceMeanField_ELBO()).backward(model, guide, *batch)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, RenyiELBO])
@pytest.mark.parametrize("particles", ["one", "nesting_known"])
@pytest.mark.parametrize("pair", CONTINUOUS)
def test_objectives_can_be_traced(kind: type[ELBO], pair: str, particles: str) -> None:
    assert_traceable(as_objective(kind(**PARTICLES[particles])), CONTINUOUS[pair]())


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal])
def test_the_enumeration_objective_can_be_traced(guide: Callable[[Any], Any]) -> None:
    assert_traceable(as_objective(TraceEnum_ELBO(max_plate_nesting=1)), mixture_pair(guide, TOTAL))


def test_pyro_s_own_elbo_cannot_be_traced() -> None:
    """A negative control of the tests above."""
    model, guide, (x,), _ = vae_pair()
    with pyro.validation_enabled(False), pytest.raises(RuntimeError, match="tracing tensor"):
        make_fx(lambda x: Trace_ELBO().differentiable_loss(model, guide, x))(x)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 3.0])
@pytest.mark.parametrize("particles", ["two", "one", "three", "three_vectorised", "nesting_known"])
@pytest.mark.parametrize("pair", CONTINUOUS)
def test_renyi_elbo(pair: str, particles: str, alpha: float) -> None:
    options = {"two": {}, **PARTICLES}[particles]
    terms = assert_equal_to_pyro(RenyiELBO(alpha=alpha, **options), CONTINUOUS[pair](), ordinary=False)
    assert terms.elbo is not None
    if particles != "one":
        assert (-terms.loss > terms.elbo) == (alpha < 1)  # monotone in alpha: the ordinary bound is alpha = 1


def test_the_renyi_objective_reports_the_ordinary_bound_of_its_particles() -> None:
    model, guide, (x,), _ = vae_pair()
    pyro.set_rng_seed(3)
    renyi = as_objective(RenyiELBO(alpha=0.0, num_particles=4)).terms(model, guide, x)
    pyro.set_rng_seed(3)
    ordinary = as_objective(Trace_ELBO(num_particles=4)).terms(model, guide, x)
    for ours, theirs in zip(renyi[1:], ordinary[1:], strict=True):
        torch.testing.assert_close(ours, theirs)
    objective = as_objective(RenyiELBO())
    assert bound_of(objective) is objective


@pytest.mark.parametrize("vectorize", [False, True])
def test_renyi_particles_pass_through_convolutions(binary_images: Tensor, vectorize: bool) -> None:
    """Against the formula of the bound: the mean over data of log mean_s p(x, z_s) / q(z_s given x)."""
    vae = VAE(ConvDecoder(latent_dim=2, channels=(4, 3), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
    guide = AmortizedGuide(encoder=encoder)
    leaves = [*vae.parameters(), *guide.parameters()]
    elbo = RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    pyro.set_rng_seed(4)
    terms = as_objective(elbo).backward(vae.model, guide, binary_images)
    results = [leaf.grad for leaf in leaves]
    pyro.set_rng_seed(4)
    q = guide.posterior(binary_images)
    z = q.rsample((3,)) if vectorize else torch.stack([q.rsample() for _ in range(3)])
    log_likelihood = vae.likelihood(vae.decoder(z)).log_prob(binary_images).flatten(2).sum(-1)
    log_weights = log_likelihood + vae.prior().log_prob(z) - q.log_prob(z)
    loss = -(log_weights.logsumexp(0) - math.log(3)).mean()
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert terms.log_likelihood is not None
    assert terms.log_likelihood.item() == pytest.approx(log_likelihood.mean().item(), rel=1e-5)
    for ours, expected in zip(results, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_renyi_refuses_a_guide_without_pathwise_gradient() -> None:
    model, guide, batch, _ = score_function_pair()
    with pytest.raises(ValueError, match=r"reparameterised guide at site 'switch' for RenyiELBO; got Bernoulli: use"):
        as_objective(RenyiELBO())(model, guide, *batch)


@pytest.mark.parametrize("particles", ["one", "three_vectorised"])
def test_an_enumerated_mixture_prior_equals_the_collapsed_one(particles: str) -> None:
    """Bound, gradients, log-likelihood and divergence are equal: the components belong to the prior."""
    options = PARTICLES[particles]
    enumerated, collapsed = local_pair("mixture"), local_pair("collapsed")
    ours = assert_equal_to_pyro(TraceEnum_ELBO(**options, max_plate_nesting=1), enumerated)
    pyro.set_rng_seed(2)
    ours = as_objective(TraceEnum_ELBO(**options, max_plate_nesting=1)).backward(*enumerated[:2], *enumerated[2])
    results = gradients()
    pyro.set_rng_seed(2)
    theirs = as_objective(Trace_ELBO(**options, max_plate_nesting=1)).backward(*collapsed[:2], *collapsed[2])
    for part, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(part, expected)
    for name, expected in gradients().items():
        torch.testing.assert_close(results[name], expected)


@pytest.mark.parametrize("particles", ["one", "three"])
def test_components_of_the_data_belong_to_the_log_likelihood(particles: str) -> None:
    """Two enumerated variables, one of the prior and one of the data, belong to different parts of the bound."""

    def model(x: Tensor, collapsed: bool) -> None:
        probs = torch.tensor([0.3, 0.7], dtype=torch.float64)
        means = torch.tensor([-1.0, 2.0], dtype=torch.float64)
        with pyro.plate("data", len(x)):
            if collapsed:
                z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(probs), dist.Normal(means, 1.0)))
                components = dist.Normal(z[..., None] + means, 0.5)
                pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs), components), obs=x)
            else:
                k = pyro.sample("k", dist.Categorical(probs), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(means[k], 1.0))
                j = pyro.sample("j", dist.Categorical(probs), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(z + means[j], 0.5), obs=x)

    def guide(x: Tensor, collapsed: bool) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, pyro.param("s", torch.tensor(0.5, dtype=torch.float64))))

    x = torch.linspace(-2.0, 3.0, 12, dtype=torch.float64)
    options = {**PARTICLES[particles], "max_plate_nesting": 1}
    results = []
    for elbo, collapsed in ((TraceEnum_ELBO(**options), False), (Trace_ELBO(**options), True)):
        pyro.set_rng_seed(2)
        bound = as_objective(elbo)
        results.append(
            bound.terms(lambda x, flag=collapsed: model(x, flag), lambda x, flag=collapsed: guide(x, flag), x)
        )
    for part, expected in zip(*results, strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, RenyiELBO])
def test_sites_marked_for_enumeration_are_not_sampled(kind: type[ELBO]) -> None:
    model, guide, batch, _ = local_pair("mixture")
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(ValueError, match=rf"Expected an ELBO that enumerates 'assignment'.*; got {kind.__name__}: "),
    ):
        as_objective(kind())(model, guide, *batch)


def test_evaluate_measures_the_ordinary_bound(binary_images: Tensor) -> None:
    encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8))
    vae = VAE(ConvDecoder(latent_dim=2, channels=(4, 3), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    guide = AmortizedGuide(encoder=encoder)
    options: dict[str, Any] = {"num_particles": 5}
    renyi = evaluate(vae.model, guide, binary_images, objective=RenyiELBO(alpha=0.0, **options))
    ordinary = evaluate(vae.model, guide, binary_images, objective=Trace_ELBO(**options))
    assert renyi.loss == pytest.approx(ordinary.loss, rel=1e-6)
    assert renyi.kl == pytest.approx(ordinary.kl, rel=1e-4)


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_the_dice_estimator_splits_its_bound_too() -> None:
    """A sampled latent: as Trace_ELBO. An enumerated one: sum_k q(k) log p(x given k), and KL(q, p), in closed form."""
    model, guide, batch, _ = score_function_pair()
    results = []
    for elbo in (TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO(max_plate_nesting=1)):
        pyro.set_rng_seed(2)
        results.append(as_objective(elbo).terms(model, guide, *batch))
    torch.testing.assert_close(results[0][1:], results[1][1:])

    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    means = torch.tensor([-1.0, 2.0], dtype=torch.float64)

    def enumerated_model(x: Tensor) -> None:
        with pyro.plate("data", TOTAL, subsample=x):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
            pyro.sample("x", dist.Normal(means[k], 1.0), obs=x)

    def enumerated_guide(x: Tensor) -> None:
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    (x,) = batch
    terms = as_objective(TraceEnum_ELBO(max_plate_nesting=1)).terms(enumerated_model, enumerated_guide, x)
    q = logits.softmax(-1)
    expected = (q * dist.Normal(means, 1.0).log_prob(x[:, None])).sum(-1).mean()
    kl = (q * (q / torch.tensor([0.3, 0.7], dtype=torch.float64)).log()).sum()
    torch.testing.assert_close(terms.log_likelihood, expected)
    torch.testing.assert_close(terms.kl, kl)
