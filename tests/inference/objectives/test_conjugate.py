"""`fit` against posteriors that are known exactly, and the scaling that they need."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR

from latentmix.inference import as_objective, fit

from tests.inference.normal import normal_data, normal_model


def posterior(x: Tensor, prior: float = 10.0) -> tuple[float, float]:
    """Mean and standard deviation of loc given x, exactly."""
    precision = len(x) + prior**-2
    return x.sum().item() / precision, precision**-0.5


@pytest.mark.parametrize(
    ("auto", "kind", "size", "batch_size"),
    [
        (AutoNormal, Trace_ELBO, 1_000, 50),
        (AutoDiagonalNormal, Trace_ELBO, 1_000, 50),
        (AutoNormal, TraceMeanField_ELBO, 1_000, 50),
        (AutoNormal, Trace_ELBO, 30, None),
        (AutoDiagonalNormal, TraceMeanField_ELBO, 30, None),
    ],
)
def test_conjugate_posterior(auto: type[AutoNormal], kind: type[Trace_ELBO], size: int, batch_size: int | None) -> None:
    """A minibatch of 50 out of 1,000 without the full-size plate would give a deviation of 0.146."""
    model, x = normal_model(size), normal_data(size)
    guide = auto(model, init_loc_fn=init_to_value(values={"loc": torch.zeros((), dtype=x.dtype)}), init_scale=0.2)
    mean, sd = posterior(x)
    epochs = 60 if batch_size else 600
    result = fit(
        model,
        guide,
        x,
        epochs=epochs,
        batch_size=batch_size,
        objective=kind(num_particles=20, vectorize_particles=True, max_plate_nesting=1),
        optimizer=lambda leaves: Adam(leaves, lr=0.05, betas=(0.9, 0.99)),
        scheduler=lambda adam: ExponentialLR(adam, 0.02 ** (1 / epochs)),
        seed=0,
    )
    quantiles = guide.quantiles([0.158655, 0.5, 0.841345], x)["loc"]
    low, middle, high = (float(value) for value in quantiles)
    assert middle == pytest.approx(mean, abs=0.15 * sd)
    assert (high - low) / 2 == pytest.approx(sd, rel=0.12)  # 3% from seed to seed; unscaled, 360%
    assert sd == pytest.approx(0.032 if size == 1_000 else 0.183, abs=0.001)
    evidence = dist.MultivariateNormal(
        torch.zeros(size, dtype=x.dtype), torch.eye(size, dtype=x.dtype) + 100.0
    ).log_prob(x)
    assert result.losses[-1] == pytest.approx(-evidence.item() / size, abs=0.02)


@pytest.mark.parametrize("plated", [True, False])
def test_underscaled_minibatch_is_refused(plated: bool) -> None:
    def unplated(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=x.dtype), 10.0))
        pyro.sample("x", dist.Normal(loc.expand(len(x)), 1.0).to_event(1), obs=x)

    model = normal_model(None) if plated else unplated
    x = normal_data(1_000)
    with pytest.raises(
        ValueError,
        match=r"Expected a plate over all 1000 data around what is observed, because 'loc' is a latent of the whole "
        r"data set; got one over 50: write pyro.plate\('data', 1000, subsample=x\)",
    ):
        fit(model, AutoNormal(model), x, epochs=1, batch_size=50, seed=0)
    fit(model, AutoNormal(model), x, epochs=1, seed=0)
    with pytest.raises(ValueError, match=r"Expected a plate over all 1000 data.*got one over 900"):
        fit(normal_model(900), AutoNormal(normal_model(900)), x, epochs=1, batch_size=50, seed=0)


def test_underscaled_guide_is_refused() -> None:
    """Local latents scaled in the model and not in the guide count N/B-fold against it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ValueError, match="plate"):
        fit(model, guide, normal_data(100), epochs=1, batch_size=10, seed=0)


def test_global_parameters_without_latents_need_no_full_plate() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = normal_data(100)
    result = fit(model, lambda x: None, x, epochs=30, batch_size=20, optimizer=lambda p: SGD(p, lr=0.1), seed=0)
    assert result.parameters["loc"].item() == pytest.approx(x.mean().item(), abs=0.15)
    assert not result.parameters["loc"].requires_grad


def test_maximum_a_posteriori_by_autodelta() -> None:
    x = normal_data(200)
    model = normal_model(200, prior=0.1)
    result = fit(
        model, AutoDelta(model), x, epochs=200, batch_size=None, optimizer=lambda leaves: Adam(leaves, lr=0.05), seed=0
    )
    assert result.parameters["AutoDelta.loc"].item() == pytest.approx(posterior(x, 0.1)[0], rel=1e-4)


def test_marginal_likelihood_of_an_enumerated_mixture_in_closed_form() -> None:
    weights, means = torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 40, subsample=x):
            k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[k], 1.0), obs=x)

    x = normal_data(40)
    terms = as_objective(TraceEnum_ELBO()).terms(model, lambda x: None, x)
    expected = (weights * dist.Normal(means, 1.0).log_prob(x[:, None]).exp()).sum(-1).log().mean().item()
    assert -terms.loss.item() == pytest.approx(expected, rel=1e-9)
    assert terms.log_likelihood is not None
    assert terms.log_likelihood.item() == pytest.approx(expected, rel=1e-9)
