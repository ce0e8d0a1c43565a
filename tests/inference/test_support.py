from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import GaussianMixture, evaluate, ex_post_prior, fit, latent_statistics, log_likelihood
from latentmix.models import VAE, Bernoulli, ContinuousBernoulli, Gaussian, MLPDecoder, StandardNormal


def pair(likelihood: Any) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(1)
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4), outputs=likelihood.outputs)
    vae = VAE(decoder, StandardNormal(2), likelihood)
    return vae, AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))


def images(bad: float | None = None) -> Tensor:
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    if bad is not None:
        x[150, 0, 1, 2] = bad
    return x


def weights(*modules: nn.Module) -> Tensor:
    return torch.cat([leaf.detach().flatten() for module in modules for leaf in module.parameters()])


CASES = [
    (Bernoulli, -1.0),
    (Bernoulli, 1.5),
    (Bernoulli, float("nan")),
    (ContinuousBernoulli, 1.01),
    (Gaussian, float("nan")),
    (Gaussian, float("inf")),
]


@pytest.mark.parametrize(("kind", "bad"), CASES)
@pytest.mark.parametrize("part", ["data", "validation"])
def test_a_value_outside_the_support_in_any_row_is_refused_before_the_first_step(
    kind: Callable[[], Any], bad: float, part: str
) -> None:
    vae, guide = pair(kind())
    before = weights(vae, guide)
    options: dict[str, Any] = {"validation": images(bad)} if part == "validation" else {}
    with pytest.raises(
        ValueError, match=rf"Expected .* for {kind.__name__}|Expected .* at site 'x'; got .* in row 150"
    ):
        fit(vae.model, guide, images(bad if part == "data" else None), epochs=1, batch_size=20, seed=0, **options)
    assert torch.equal(weights(vae, guide), before)


@pytest.mark.parametrize(("kind", "bad"), CASES)
def test_a_value_outside_the_support_in_any_row_is_not_evaluated(kind: Callable[[], Any], bad: float) -> None:
    vae, guide = pair(kind())
    with pytest.raises(ValueError, match="in row 150"):
        evaluate(vae.model, guide, images(bad), batch_size=20)
    for measure in (log_likelihood, latent_statistics):
        with pytest.raises(ValueError, match="Expected"):
            measure(vae, guide, images(bad), samples=2, batch_size=20)
    if not math.isfinite(bad):  # no density is evaluated, but latents are
        with pytest.raises(ValueError, match="Expected"):
            ex_post_prior(GaussianMixture(2), vae, guide, images(bad), batch_size=20)


def test_data_are_checked_after_the_transform() -> None:
    vae, guide = pair(Bernoulli())
    fit(vae.model, guide, 255 * images(), epochs=1, batch_size=20, transform=lambda x: x / 255)
    with pytest.raises(ValueError, match="row 150"):
        fit(vae.model, guide, 255 * images(-1.0), epochs=1, batch_size=20, transform=lambda x: x / 255)


def counts(rate: float = 2.0) -> Tensor:
    return torch.poisson(torch.full((200,), rate), generator=torch.Generator().manual_seed(0))


def observe(make: Callable[[Tensor], Any], place: Callable[[Tensor], Tensor] = lambda x: x) -> Callable[..., None]:
    def model(x: Tensor) -> None:
        rate = pyro.param("rate", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", 200, subsample=x):
            pyro.sample("x", make(rate), obs=place(x))

    return model


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        (observe(dist.Poisson), -1.0),
        (observe(dist.Poisson), 0.5),
        (observe(dist.Poisson, lambda x: x + 0), -1.0),
        (observe(lambda rate: dist.Normal(rate, 1.0), lambda x: x.double()), float("inf")),
        (observe(lambda rate: dist.Normal(rate, 1.0).expand([1]).to_event(1), lambda x: x[:, None]), float("nan")),
        (observe(lambda rate: dist.Binomial(20, logits=rate)), 21.0),
        (observe(lambda rate: dist.Categorical(logits=rate * torch.ones(20))), 20.0),
        (observe(lambda rate: dist.LogNormal(rate, 1.0), lambda x: x + 1), -1.0),
    ],
)
def test_any_pyro_model(model: Callable[..., None], bad: float) -> None:
    def guide(x: Tensor) -> None: ...

    x = counts()
    fit(model, guide, x, epochs=1, batch_size=20, seed=0)
    x[150] = bad
    with pytest.raises(ValueError, match=r"at site 'x'; got .* in row 150"):
        fit(model, guide, x, epochs=1, batch_size=20, seed=0)


def test_several_tensors_and_masks() -> None:
    def model(x: Tensor, y: Tensor, seen: Tensor) -> None:
        mean = pyro.param("mean", torch.tensor(1.0))
        with pyro.plate("data", 200, subsample=x):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
            with pyro.poutine.mask(mask=seen):
                pyro.sample("y", dist.Bernoulli(logits=mean), obs=y)

    def guide(*batch: Tensor) -> None: ...

    x, y, seen = counts(), images()[:, 0, 0, 0], torch.ones(200, dtype=torch.bool)
    y[150] = 7.0
    with pytest.raises(ValueError, match=r"zeros and ones for Bernoulli at site 'y'; got 7 in row 150"):
        fit(model, guide, (x, y, seen), epochs=1, batch_size=20, seed=0)
    seen[150] = False
    fit(model, guide, (x, y, seen), epochs=1, batch_size=20, seed=0)


def test_a_trained_support_is_not_checked() -> None:
    x = torch.linspace(0.1, 1.9, 200)
    x[150] = 3.0
    fit(observe(lambda rate: dist.Uniform(0.0, rate + 1.0), lambda x: x.clamp(max=1.9)), lambda x: None, x, epochs=1)
    x[150] = float("nan")
    with pytest.raises(ValueError, match="row 150"):
        fit(observe(lambda rate: dist.Uniform(0.0, rate + 1.0)), lambda x: None, x, epochs=1, batch_size=20)


def test_the_check_draws_no_random_numbers_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        vae, guide = pair(Bernoulli())
        return fit(vae.model, guide, images(), epochs=2, batch_size=30, seed=0, transform=torch.bernoulli).losses

    checked = losses()
    monkeypatch.setattr("latentmix.inference.svi.problem.check_support", lambda *arguments: None)
    assert losses() == checked


def test_deterministic_sites_are_not_checked() -> None:
    def model(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        pyro.deterministic("log", torch.tensor(-torch.inf))
        with pyro.plate("data", 20, subsample=x):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.ones(20)
    guide = AutoNormal(poutine.block(model, expose=["loc"]))
    fit(model, guide, x, epochs=1, batch_size=10, seed=0)
    evaluate(model, guide, x)


def test_a_support_that_depends_on_the_minibatch_is_checked_in_each() -> None:
    def model(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 100, subsample=x):
            pyro.sample("x", dist.Uniform(0.0 * loc.detach(), x.max() + 0.1), obs=x)

    guide = AutoNormal(poutine.block(model, expose=["loc"]))
    fit(model, guide, torch.arange(100.0), epochs=1, batch_size=10, seed=0)


def test_a_mask_exempts_masked_values() -> None:
    x = torch.ones(20, 2)
    x[13, 1] = 2.0

    def model(x: torch.Tensor, hide: bool = True) -> None:
        logit = pyro.sample("logit", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 20, subsample=x):
            seen = dist.Bernoulli(logits=logit.expand(x.shape), validate_args=False).mask((x < 2) | (not hide))
            pyro.sample("x", seen.to_event(1), obs=x)

    guide = AutoNormal(poutine.block(model, expose=["logit"]))
    fit(model, guide, x, epochs=1, batch_size=10, seed=0)
    evaluate(model, guide, x)
    with pytest.raises(ValueError, match="Expected data of zeros and ones for Bernoulli at site 'x'; got 2 in row 13"):
        evaluate(partial(model, hide=False), partial(guide, hide=False), x)
