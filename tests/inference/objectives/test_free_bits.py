from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from latentmix.inference import FreeBits, Weighted, as_objective
from latentmix.inference.objectives.conversion import bound_of
from latentmix.inference.objectives.divergences import kl_per_dimension

from tests.inference.pairs import assert_traceable, gradients, local_pair, subsampled_pair, vae_pair


def parts(x: Tensor, guide: Any, vae: Any) -> tuple[Tensor, Tensor]:
    """Mean log-likelihood of one sample, and the batch mean of the divergence from N(0, 1) per dimension."""
    q = guide.posterior(x)
    z = q.rsample()
    log_likelihood = vae.likelihood(vae.decoder(z)).log_prob(x).flatten(1).sum(-1).mean()
    kl = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log())
    return log_likelihood, kl.mean(0)


@pytest.mark.parametrize("beta", [None, 0.3])
def test_the_loss_equals_its_formula(beta: float | None) -> None:
    """A floor between the divergences of two dimensions clamps one of them, whose gradient is then zero."""
    model, guide, (x,), _ = vae_pair()
    vae = model.__self__  # type: ignore[attr-defined]
    leaves = [*vae.parameters(), *guide.parameters()]  # type: ignore[attr-defined]
    pyro.set_rng_seed(2)
    log_likelihood, kl = parts(x, guide, vae)
    floor = float(kl.detach().mean())
    weight = 1.0 if beta is None else beta
    loss = weight * kl.clamp_min(floor).sum() - log_likelihood
    assert (kl > floor).sum() == 1
    expected = torch.autograd.grad(loss, leaves)
    objective = FreeBits(floor)
    pyro.set_rng_seed(2)
    terms = (objective if beta is None else Weighted(objective, beta=beta)).backward(model, guide, x)
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-8, atol=1e-12)
    assert terms.kl is not None
    assert terms.elbo is not None
    assert terms.kl.item() == pytest.approx(kl.sum().item(), rel=1e-9)
    assert terms.elbo.item() == pytest.approx((log_likelihood - kl.sum()).item(), rel=1e-9)


def test_zero_free_bits_give_the_mean_field_bound() -> None:
    for model, guide, batch, _ in (local_pair("normal"), subsampled_pair()):
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        expected = as_objective(TraceMeanField_ELBO(num_particles=3)).backward(model, guide, *batch)
        theirs = gradients()
        pyro.set_rng_seed(2)
        ours = FreeBits(0.0, num_particles=3).backward(model, guide, *batch)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(gradients(), theirs)


def test_a_minibatch_of_a_larger_set_has_the_same_free_bits() -> None:
    """The floor applies to the mean over data, independent of the full size of the plate."""
    losses = []
    for size in (12, 100):
        model, guide, batch, _ = local_pair("normal", size=size)
        pyro.set_rng_seed(2)
        losses.append(FreeBits(5.0).terms(model, guide, *batch))
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0].log_likelihood is not None
    assert losses[0].loss.item() == pytest.approx(2 * 5.0 - losses[0].log_likelihood.item())


def test_particles_are_averaged() -> None:
    model, guide, batch, _ = local_pair("normal")
    pyro.set_rng_seed(2)
    single = torch.stack([FreeBits(0.5).terms(model, guide, *batch).loss for _ in range(3)]).mean()
    pyro.set_rng_seed(2)
    torch.testing.assert_close(FreeBits(0.5, num_particles=3).terms(model, guide, *batch).loss, single)


def test_free_bits_are_measured_by_the_mean_field_bound_and_can_be_traced() -> None:
    objective = FreeBits(0.5)
    assert isinstance(bound_of(objective).elbo, TraceMeanField_ELBO)  # type: ignore[attr-defined]
    assert bound_of(objective) is bound_of(objective)
    assert_traceable(objective, local_pair("normal"))


@pytest.mark.parametrize("prior", ["collapsed", "discrete"])
def test_free_bits_without_a_divergence_per_dimension_are_refused(prior: str) -> None:
    model, guide, batch, _ = local_pair(prior)
    with pytest.raises(ValueError, match=r"Expected products of Normals .* for FreeBits; got .*no KL per dimension"):
        FreeBits(0.5)(model, guide, *batch)


def test_a_point_guide_is_refused() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ValueError, match="at site 'loc' for FreeBits; got Delta against Normal"):
        FreeBits(0.5)(model, AutoNormal(model), torch.zeros(3))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_free_bits_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Expected free_bits of at least 0 nats; got"):
        FreeBits(value)
    with pytest.raises(ValueError, match="Expected at least one particle; got 0"):
        FreeBits(0.5, num_particles=0)


def test_kl_per_dimension() -> None:
    """Against the closed form; events of two dimensions are flattened, a scalar is one dimension."""
    loc, scale = torch.randn(5, 2, 3), torch.rand(5, 2, 3) + 0.1
    expected = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
    q, p = dist.Normal(loc, scale), dist.Normal(torch.zeros(2, 3), 1.0)
    divergence = kl_per_dimension(q.to_event(2), p.to_event(2))
    assert divergence is not None
    torch.testing.assert_close(divergence, expected.flatten(-2))
    divergence = kl_per_dimension(q, dist.Normal(0.0, 1.0))
    assert divergence is not None
    torch.testing.assert_close(divergence, expected[..., None])
    full = dist.MultivariateNormal(loc, torch.eye(3))
    assert kl_per_dimension(full, p.to_event(1)) is None
    assert kl_per_dimension(q.to_event(1), full) is None
