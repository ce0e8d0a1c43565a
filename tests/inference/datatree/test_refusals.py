"""What cannot be converted is refused in one sentence that names the site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.autoguide import AutoNormal
from pyro.infer.mcmc.api import StreamingMCMC

from latentmix.inference import RecordingNUTS, from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws, obstacle


def plain(y=torch.zeros(3)):  # noqa: B008
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("datum", 3):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def converted(model=plain, samples=None, **options):
    return from_pyro(Draws({"mu": torch.zeros(1, 4)} if samples is None else samples, model=model), **options)


def sentence(call, match):
    with pytest.raises(ValueError, match=match) as caught:
        call()
    text = str(caught.value)
    assert text.startswith("Expected")
    assert text.endswith((".", ": rename it."))
    assert "\n" not in text


@pytest.mark.parametrize("name", ["group", "chain", "draw", "sample"])
def test_dimensions_that_arviz_uses_itself(name):
    def model():
        with pyro.plate(name, 3):
            pyro.sample("mu", dist.Normal(0.0, 1.0))

    samples = {"mu": torch.zeros(1, 4, 3)}
    sentence(lambda: converted(model, samples), rf"got {name!r} for site 'mu'")
    sentence(lambda: converted(samples={"mu": torch.zeros(1, 4)}, dims={"y": [name]}), rf"got {name!r}")
    assert converted(model, samples, dims={"mu": ["unit"]}).posterior["mu"].dims == ("chain", "draw", "unit")


def test_names_and_coordinates_that_do_not_fit():
    sentence(lambda: converted(coords={"datum": [1, 2]}), r"3 coordinates for dimension 'datum' of 'y'; got 2")
    sentence(lambda: converted(dims={"y": ["a", "b"]}), r"at most 1 dimension for 'y'")
    sentence(lambda: converted(extra_event_dims={"mu": ["a"]}), r"at most 0 event dimensions for site 'mu'")
    sentence(lambda: converted(dims={"y": ["mu"]}), r"different names; got 'mu'")

    def covariance():
        pyro.sample("mu", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2), infer={"event_dims": ["axis", "axis"]})

    sentence(lambda: converted(covariance, {"mu": torch.zeros(1, 4, 2, 2)}), r"different names for 'mu'")

    def two_sizes():
        pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"event_dims": ["axis"]})
        pyro.sample("nu", dist.Normal(torch.zeros(3), 1.0).to_event(1), infer={"event_dims": ["axis"]})

    samples = {"mu": torch.zeros(1, 4, 2), "nu": torch.zeros(1, 4, 3)}
    sentence(lambda: converted(two_sizes, samples), r"'axis' to have one size; got 2 and 3")


def test_words_in_the_place_of_lists():
    sentence(lambda: converted(dims={"y": "datum"}), r"list of names for the dimensions of 'y'; got 'datum'")
    sentence(lambda: converted(extra_event_dims={"mu": "a"}), r"list of names for the dimensions of 'mu'")
    sentence(lambda: from_pyro_svi(plain, plain, model_args=torch.zeros(3)), r"tuple .* got a Tensor: pass \(data,\)")
    sentence(lambda: from_pyro({"mu": torch.zeros(4)}, num_chains=0), r"num_chains of 1 or more")
    sentence(lambda: from_pyro(prior={"mu": torch.zeros(4)}, num_chains=0), r"num_chains of 1 or more")
    sentence(lambda: from_pyro_svi(plain, plain, seed=-1), r"seed between")


def test_draws_that_are_not_numbers():
    value = torch.zeros(2, 4)
    value[0, 1] = torch.nan
    sentence(lambda: converted(samples={"mu": value}), r"NaN at site 'mu' in 1 of 8 draws")


def test_draws_of_unequal_numbers():
    sentence(lambda: converted(samples={"mu": torch.zeros(2, 4), "nu": torch.zeros(2, 5)}), r"\(2, 5\) for 'nu'")
    sentence(lambda: from_pyro({"mu": torch.zeros(5)}), r"num_chains")
    sentence(lambda: from_pyro({"mu": torch.zeros(5)}, num_chains=2), r"2 chains divide")


def test_nothing_to_convert():
    sentence(from_pyro, r"at least one of posterior, prior")
    sentence(lambda: from_pyro(3), r"got a int")
    mcmc = MCMC(RecordingNUTS(plain), num_samples=2)
    sentence(lambda: from_pyro(mcmc), r"has run")
    sentence(lambda: from_pyro(StreamingMCMC(RecordingNUTS(plain), num_samples=2)), r"keeps its draws")


def test_latents_without_draws():
    def model():
        plain()
        pyro.sample("nu", dist.Normal(0.0, 1.0))

    sentence(lambda: converted(model), r"none of 'nu'.*log_likelihood=False")
    tree = converted(model, log_likelihood=False)
    assert tree.observed_data["y"].dims == ("datum",)
    mcmc = MCMC(RecordingNUTS(model), num_samples=3, warmup_steps=2, save_params=["mu"], disable_progbar=True)
    mcmc.run()
    assert list(from_pyro(mcmc, log_likelihood=False).posterior.data_vars) == ["mu"]
    sentence(
        lambda: from_pyro_svi(model, lambda: pyro.sample("mu", dist.Normal(0.0, 1.0))), r"none of 'nu'.*to the guide"
    )


def test_sites_of_changing_shape():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("steps", torch.zeros(1 + int(mu.item())))

    sentence(lambda: converted(model, {"mu": torch.tensor([[0.0, 1.0]])}), r"'steps'.*same shape at every draw")

    def growing():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if mu.item() > 0:
            pyro.deterministic("other", mu)

    sentence(lambda: converted(growing, {"mu": torch.tensor([[0.0, 1.0]])}), r"'other' at some draws only")

    def guide():
        size = int(torch.randint(1, 9, ()))
        pyro.sample("mu", dist.Normal(torch.zeros(size), 1.0).to_event(1))

    sentence(lambda: from_pyro_svi(plain, guide, num_samples=20), r"'mu' of the guide")


def test_discrete_sites_in_the_guide():
    def model():
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    sentence(lambda: from_pyro_svi(model, lambda: pyro.sample("z", dist.Bernoulli(0.6))), r"discrete sites; got 'z'")

    def counts():
        n = pyro.sample("n", dist.Poisson(3.0))
        pyro.sample("y", dist.Normal(n, 1.0), obs=torch.tensor(1.0))

    guide = lambda: pyro.sample("n", dist.Poisson(2.0))  # noqa: E731
    sentence(lambda: from_pyro_svi(counts, guide), r"discrete sites; got 'n': its support cannot be summed out")


def test_a_guide_that_has_never_run():
    guide = AutoNormal(plain)
    sentence(lambda: from_pyro_svi(plain, guide), r"fitted guide; got an AutoNormal that has never run: fit it by SVI")
    assert guide.prototype_trace is None
    guide()
    assert from_pyro_svi(plain, guide, num_samples=2).posterior.sizes["draw"] == 2


def test_forgotten_data():
    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 3):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    guide = lambda *_: pyro.sample("mu", dist.Normal(0.0, 1.0))  # noqa: E731
    sentence(lambda: from_pyro_svi(model, guide), r"none of 'y'.* if it is observed, pass its data by model_args")

    def binary(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 3):
            pyro.sample("y", dist.Bernoulli(logits=mu), obs=y)

    tree = from_pyro_svi(binary, guide, num_samples=2)
    assert tree.attrs["log_likelihood_omitted"] == "The model observes nothing: pass the data by model_args."
    assert "pass the data by model_args" in obstacle(tree, "loo_approximate_posterior")

    def factor():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("likelihood", -mu.square())

    assert "pyro.factor has no pointwise density" in obstacle(converted(factor), "loo")
    assert "log_likelihood_omitted" not in converted(factor, log_likelihood=False).attrs


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_numbers_of_draws(value):
    sentence(lambda: from_pyro_svi(plain, plain, num_samples=value), r"num_samples of 1 or more")
