"""The pointwise log likelihood: what is summed out, what is labelled, and what is refused with the reason."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

from latentmix.inference import from_pyro, from_pyro_svi
from latentmix.inference.datatree import Draws, obstacle

from tests.inference.datatree.examples import IMAGES, autoencoder, encoder, hidden_markov

X = torch.tensor([-1.0, 0.5, 2.0, 0.1])
LOCS = torch.tensor([[[-1.0, 1.0], [0.2, 0.4], [0.0, 3.0]]])  # one chain of three draws


def converted(model, *args, samples=None, **options):
    samples = {"locs": LOCS} if samples is None else samples
    return from_pyro(Draws(samples, model=model, model_args=args), **options)


def components():
    return pyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))


def test_sites_that_share_an_enumerated_variable_are_one_variable():
    def model():
        locs = components()
        with pyro.plate("datum", 4):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=X)
            pyro.sample("y", dist.Normal(-locs[z], 2.0), obs=X)

    values = converted(model).log_likelihood
    assert list(values.data_vars) == ["x+y"]
    assert values["x+y"].attrs["summed_out"] == "z"
    assert values["x+y"].dims == ("chain", "draw", "datum")
    locs = LOCS[0, :, None]
    terms = Normal(locs, 1.0).log_prob(X[:, None]) + Normal(-locs, 2.0).log_prob(X[:, None])
    np.testing.assert_allclose(
        values["x+y"].values[0], torch.logsumexp(terms + torch.tensor([0.3, 0.7]).log(), -1), rtol=1e-5
    )


def test_two_enumerated_variables_in_sequence_are_summed_out():
    def model():
        locs = components()
        with pyro.plate("datum", 4):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "sequential"})
            w = pyro.sample("w", dist.Bernoulli(torch.tensor([0.1, 0.8])[z]))
            pyro.sample("x", dist.Normal(locs[w.long()], 1.0), obs=X)

    values = converted(model).log_likelihood["x"]
    one = 0.3 * 0.1 + 0.7 * 0.8
    expected = torch.logsumexp(
        Normal(LOCS[0, :, None], 1.0).log_prob(X[:, None]) + torch.tensor([1 - one, one]).log(), -1
    )
    np.testing.assert_allclose(values.values[0], expected, rtol=1e-5)
    assert values.attrs["summed_out"] == "z, w"


def test_masked_data_of_a_mixture_count_nothing():
    seen = torch.tensor([True, False, True, True])

    def model():
        locs = components()
        with pyro.plate("datum", 4), poutine.mask(mask=seen):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=X)

    values = converted(model).log_likelihood["x"]
    assert (values[..., 1] == 0).all()
    assert (values[..., 0] != 0).all()
    assert values.attrs["masked"] == 1


def test_partly_observed_site():
    seen = torch.tensor([True, False, True, True])

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=X, obs_mask=seen)

    samples = {"mu": torch.zeros(1, 3), "x_unobserved": torch.full((1, 3, 4), 9.0)}
    tree = converted(model, samples=samples)
    assert list(tree.log_likelihood.data_vars) == ["x_observed"]
    assert (tree.log_likelihood["x_observed"][..., 1] == 0).all()
    np.testing.assert_array_equal(tree.posterior["x"].values[0, 0], torch.where(seen, X, 9.0))


def test_nested_plates_and_scale():
    y = torch.arange(6.0).reshape(2, 3)

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("class", 2, dim=-2):
            level = pyro.sample("level", dist.Normal(mu, 1.0))
            with pyro.plate("pupil", 3, dim=-1), poutine.scale(scale=5.0):
                pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    samples = {"mu": torch.zeros(2, 3), "level": torch.randn(2, 3, 2, 1)}
    tree = converted(model, samples=samples)
    assert tree.posterior["level"].dims == ("chain", "draw", "class", "level_dim_0")
    assert tree.log_likelihood["y"].dims == ("chain", "draw", "class", "pupil")
    assert "conditional_on" not in tree.log_likelihood["y"].attrs
    np.testing.assert_allclose(tree.log_likelihood["y"], Normal(samples["level"], 1.0).log_prob(y), rtol=1e-5)


def one_global(locs):
    z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
    with pyro.plate("datum", 4):
        pyro.sample("x", dist.Normal(locs[z], 1.0), obs=X)


def one_per_group(locs):
    with pyro.plate("group_of_data", 2, dim=-2):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        with pyro.plate("datum", 2, dim=-1):
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=X.reshape(2, 2))


@pytest.mark.parametrize(("rest", "reason"), [(one_global, "global"), (one_per_group, "'group_of_data'")])
def test_enumerated_sites_that_link_data_are_refused(rest, reason):
    def model():
        rest(components())

    with pytest.raises(ValueError, match=rf"^Expected enumerated sites .* got 'z'.*{reason}.*log_likelihood=False\.$"):
        converted(model)
    tree = converted(model, log_likelihood=False)
    assert "log_likelihood" not in tree
    assert "observed_data" in tree


def test_markov_chains_are_refused():
    samples = {"rates": LOCS}
    with pytest.raises(ValueError, match=r"^Expected data .* got 'state_0', enumerated in a Markov chain.*\.$"):
        converted(hidden_markov, X, samples=samples)
    tree = converted(hidden_markov, X, samples=samples, log_likelihood=False)
    assert set(tree.observed_data.data_vars) == {"y_0", "y_1", "y_2", "y_3"}


def test_latents_that_depend_on_an_enumerated_site_are_refused():
    def model():
        locs = components()
        with pyro.plate("datum", 4):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            u = pyro.sample("u", dist.Normal(locs[z], 1.0))
            pyro.sample("x", dist.Normal(u + locs[z], 1.0), obs=X)

    samples = {"locs": LOCS, "u": torch.zeros(1, 3, 4)}
    with pytest.raises(ValueError, match=r"^Expected the enumerated 'z' .* got 'u'"):
        converted(model, samples=samples)
    assert "log_prior" not in converted(model, samples=samples, log_likelihood=False)


def test_latent_per_datum_is_labelled():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4):
            u = pyro.sample("u", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=X)

    tree = converted(model, samples={"mu": torch.zeros(1, 3), "u": torch.zeros(1, 3, 4)})
    assert tree.log_likelihood["x"].attrs["conditional_on"] == "u"


def test_autoencoder_has_a_conditional_log_likelihood_alone():
    tree = from_pyro_svi(autoencoder, encoder, model_args=(IMAGES,), num_samples=3)
    assert "log_likelihood" not in tree
    values = tree.conditional_log_likelihood["x"]
    assert values.dims == ("chain", "draw", "image")
    assert values.attrs["conditional_on"] == "z"
    assert "no meaning" in tree.attrs["log_likelihood_omitted"]
    assert tree.posterior["z"].dims == ("chain", "draw", "image", "latent")
    assert tree.observed_data["x"].dims == ("image", "pixel")


@pytest.mark.parametrize(("shared", "group"), [("none", "conditional_log_likelihood"), ("prior", "log_likelihood")])
def test_cross_validation_needs_a_latent_that_data_share(shared, group):
    """A global latent that nothing depends on changes nothing; one in the prior of the latents per datum does."""

    def model():
        nu = pyro.sample("nu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4):
            u = pyro.sample("u", dist.Normal(nu if shared == "prior" else 0.0, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=X)

    tree = converted(model, samples={"nu": torch.zeros(1, 3), "u": torch.arange(12.0).reshape(1, 3, 4)})
    assert [name for name in tree.children if "likelihood" in name] == [group]
    assert tree[group]["x"].attrs["conditional_on"] == "u"
    sentence = obstacle(tree, "loo")
    assert sentence is None if shared == "prior" else "belongs to one datum" in sentence


def test_a_decoder_with_latents_of_its_own_is_shared():
    def model():
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("datum", 4):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((u * weight).sum(-1), 1.0), obs=X)

    tree = converted(model, samples={"weight": torch.zeros(1, 3, 2), "u": torch.zeros(1, 3, 4, 2)})
    assert "log_likelihood" in tree


def test_masks_of_distributions_are_counted():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4), poutine.mask(mask=torch.tensor([False, True, True, True])):
            pyro.sample("x", dist.Normal(mu, 1.0).mask(X > 0), obs=X)

    tree = converted(model, samples={"mu": torch.zeros(1, 3)})
    assert tree.observed_data["x"].attrs["masked"] == tree.log_likelihood["x"].attrs["masked"] == 1
    assert (tree.log_likelihood["x"].values == 0).sum() == 3


@pytest.mark.parametrize("kind", ["subsample_size", "subsample"])
def test_subsampled_plates(kind):
    """A random subsample becomes the full plate; a given one is its coordinate."""
    index = torch.tensor([3, 1])
    options = {"subsample_size": 2} if kind == "subsample_size" else {"subsample": index}

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4, **options) as batch:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=X[batch])

    samples = {"mu": torch.randn(1, 3)}
    expected = Normal(samples["mu"][0, :, None], 1.0).log_prob(X)
    for coords in (None, {"datum": ["a", "b", "c", "d"]}):
        values = converted(model, samples=samples, coords=coords).log_likelihood["x"]
        kept = [0, 1, 2, 3] if kind == "subsample_size" else [3, 1]
        assert list(values["datum"].values) == (kept if coords is None else [coords["datum"][i] for i in kept])
        np.testing.assert_allclose(values.values[0], expected[:, kept], rtol=1e-5)


def test_a_minibatch_in_the_place_of_all_data_is_refused():
    def model(batch):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 10, subsample_size=len(batch)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=batch)

    with pytest.raises(ValueError, match=r"^Expected model_args that hold all 10 data of plate 'datum'"):
        converted(model, X, samples={"mu": torch.zeros(1, 3)})
    assert converted(model, torch.zeros(10), samples={"mu": torch.zeros(1, 3)}).log_likelihood.sizes["datum"] == 10

    def indexed(batch):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 10, subsample_size=4) as index:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=batch[index])

    with pytest.raises(ValueError, match=r"^Expected model_args that hold all 10 data of plate 'datum'"):
        converted(indexed, X, samples={"mu": torch.zeros(1, 3)})


def test_double_precision_is_kept():
    def model():
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with pyro.plate("datum", 4):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=X.double())

    tree = converted(model, samples={"mu": torch.randn(1, 3, dtype=torch.float64)})
    assert tree.posterior["mu"].dtype == tree.log_likelihood["x"].dtype == np.float64


def test_chains_vectorised_by_a_plate():
    """Chains that a model runs side by side come as draws with chains first."""
    samples = {"mu": torch.randn(4, 7)}

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", 4):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=X)

    tree = converted(model, samples=samples)
    assert dict(tree.log_likelihood.sizes) == {"chain": 4, "draw": 7, "datum": 4}
    np.testing.assert_allclose(tree.log_likelihood["x"], Normal(samples["mu"][..., None], 1.0).log_prob(X), rtol=1e-5)
