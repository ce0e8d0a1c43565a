"""`SVIResult.predict`: the posterior predictive distribution with the fitted values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import SVIResult, fit
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.process import differences, snapshot

DATA = 5.0 + 0.5 * torch.linspace(-1.7, 1.7, 40)  # mean 5, standard deviation 0.5


def model(x: Tensor | None, size: int = 40) -> Tensor:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
    with pyro.plate("data", size):
        drawn: Tensor = pyro.sample("x", dist.Normal(loc, scale), obs=x)
    return drawn


def param_guide(x: Tensor | None, size: int = 40) -> None:
    scale = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), scale))


class ModuleGuide(PyroModule):  # type: ignore[misc]
    """Parameters of both kinds, and a part that differs in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = PyroParam(torch.tensor(0.0))
        self.linear = nn.Linear(1, 1)
        self.noise = nn.Dropout(0.5)

    def forward(self, x: Tensor | None, size: int = 40) -> None:
        value = self.shift + self.linear(self.noise(torch.ones(1)))[0]
        pyro.sample("loc", dist.Normal(value, 0.05))


GUIDES: dict[str, Callable[[], Any]] = {
    "pyro.param": lambda: param_guide,
    "PyroModule": ModuleGuide,
    "AutoNormal": lambda: AutoNormal(model),
    "AutoDelta": lambda: AutoDelta(model),
}


def fitted(guide: Any, epochs: int = 150) -> SVIResult:
    def adam(leaves: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=0.2)

    return fit(model, guide, DATA, epochs=epochs, optimizer=adam, seed=0)


@pytest.mark.parametrize("kind", GUIDES)
def test_prediction_has_the_fitted_mean_and_scale(kind: str) -> None:
    guide = GUIDES[kind]()
    result = fitted(guide)
    before = snapshot()
    drawn = result.predict(model, guide, None, size=7, num_samples=800)
    assert differences(before, snapshot()) == []
    assert drawn["x"].shape == (800, 7)
    assert drawn["x"].mean().item() == pytest.approx(5.0, abs=0.6 if kind == "PyroModule" else 0.1)
    assert drawn["x"].std(0).mean().item() == pytest.approx(result.parameters["scale"].item(), rel=0.15)
    assert not any(value.requires_grad for value in drawn.values())


def test_it_is_pyros_predictive_in_the_store_of_the_fit() -> None:
    result = fitted(param_guide, epochs=5)
    drawn = result.predict(model, param_guide, None, num_samples=6, seed=3)
    with pyro.get_param_store().scope(result.store), torch.random.fork_rng():
        pyro.set_rng_seed(3)
        expected = Predictive(model, guide=param_guide, num_samples=6)(None)
    assert drawn.keys() == expected.keys()
    assert all(torch.equal(drawn[name], expected[name]) for name in drawn)


def test_draws_depend_on_the_seed_alone() -> None:
    result = fitted(param_guide, epochs=2)
    first, again, other = (result.predict(model, param_guide, None, num_samples=4, seed=s)["x"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parallel_draws_and_return_sites() -> None:
    result = fitted(param_guide)
    drawn = result.predict(
        model, param_guide, None, size=3, num_samples=800, parallel=True, return_sites=["x", "_RETURN"]
    )
    assert drawn.keys() == {"x", "_RETURN"}
    assert drawn["x"].shape == (800, 3)
    assert drawn["x"].mean().item() == pytest.approx(5.0, abs=0.1)


def test_predictions_keep_given_data_and_draw_latents() -> None:
    drawn = fitted(param_guide).predict(model, param_guide, DATA, num_samples=300)
    assert torch.equal(drawn["x"], DATA.expand(300, 40))
    assert drawn["loc"].mean().item() == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_modes_of_autograd_change_nothing(mode: Any) -> None:
    expected = fitted(param_guide, epochs=3).predict(model, param_guide, None, num_samples=3)["x"]
    with mode():
        result = fitted(param_guide, epochs=3)
        assert torch.equal(result.predict(model, param_guide, None, num_samples=3)["x"], expected)


def test_later_fits_and_the_callers_store_do_not_change_predictions() -> None:
    result = fitted(param_guide, epochs=3)
    expected = result.predict(model, param_guide, None, num_samples=3)["x"]
    fitted(param_guide, epochs=9)
    pyro.param("m", torch.tensor(-100.0))
    assert torch.equal(result.predict(model, param_guide, None, num_samples=3)["x"], expected)
    assert pyro.param("m").item() == -100.0


def test_modules_are_in_evaluation_mode() -> None:
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4))
    vae = VAE(decoder, StandardNormal(2), Bernoulli())
    guide = AmortizedGuide(MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 4, 4)))
    x = torch.rand(6, 1, 4, 4).round()
    drawn = fit(vae.model, guide, x, epochs=1, seed=0).predict(vae.model, guide, x, num_samples=5)
    assert drawn["z"].shape == (5, 6, 2)
    assert all(part.training for part in guide.modules())


def test_parameters_without_a_fitted_value_are_refused() -> None:
    result = fitted(param_guide, epochs=1)

    def other(x: Tensor | None) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("another", torch.tensor(0.0)), 1.0))

    with pytest.raises(ValueError, match=r"Expected the fitted value of parameter 'another'; got none: take the model"):
        result.predict(model, other, None, num_samples=2)
    with pytest.raises(ValueError, match="Expected num_samples of at least 1; got 0"):
        result.predict(model, param_guide, None, num_samples=0)
