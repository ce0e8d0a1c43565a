import copy
import gc
import pickle
import weakref

import pyro.distributions as dist
import pytest
import torch

from latentmix.models.mixture import gaussians
from latentmix.models.mixture.gaussians import FactoredNormal, FeatureCache, QuadraticFeatures, SelectedNormal, select


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def components(kind: str, n_features: int = 3, n_components: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    loc = draw(n_components, n_features, seed=1)
    if kind == "diag":
        return loc, draw(n_components, n_features, seed=2).exp()
    return loc, draw(n_components, n_features, n_features, seed=2).tril(-1) + torch.eye(n_features).double() * 0.7


def oracle(x: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`n x K` log-densities, one Gaussian at a time."""
    parts = [
        dist.Normal(a, b).to_event(1) if b.ndim == 1 else dist.MultivariateNormal(a, scale_tril=b)
        for a, b in zip(loc, scale, strict=True)
    ]
    return torch.stack([part.log_prob(x) for part in parts])


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize("cached", [False, True])
def test_enumerated_densities_and_gradients_are_the_gaussians(kind: str, n_features: int, cached: bool) -> None:
    x, (loc, scale) = draw(30, n_features) * 2 + 5, components(kind, n_features)
    upstream = draw(4, 30, seed=3)
    values, gradients = [], []
    for fast in (True, False):
        leaves = [loc.clone().requires_grad_(), scale.clone().requires_grad_()]
        if fast:
            cache = FeatureCache() if cached else None
            normal = SelectedNormal(*leaves, torch.arange(4)[:, None], cache).expand([4, 30])
            density = normal.log_prob(x)
            assert cache is None or cache.features(x, pairs=kind == "full").allow(torch.tensor(1e3).double())
        else:
            density = oracle(x, *leaves)
        values.append(density.detach())
        gradients.append(torch.autograd.grad((density * upstream).sum(), leaves))
    torch.testing.assert_close(*values, rtol=0, atol=1e-11)
    for one, other in zip(*gradients, strict=True):
        one, other = (part.tril() if kind == "full" else part for part in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_sampled_assignments_take_their_own_gaussian(kind: str) -> None:
    x, (loc, scale) = draw(30, 3), components(kind)
    assignment = torch.arange(30) % 4
    normal = SelectedNormal(loc, scale, assignment, FeatureCache())
    expected = oracle(x, loc, scale)[assignment, torch.arange(30)]
    torch.testing.assert_close(normal.log_prob(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(normal.expand([2, 30]).log_prob(x), expected.expand(2, 30), rtol=0, atol=1e-11)
    several = torch.stack([x, x + 1])
    expected = torch.stack([expected, oracle(x + 1, loc, scale)[assignment, torch.arange(30)]])
    torch.testing.assert_close(normal.log_prob(several), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_draws_have_the_moments_of_their_gaussian(kind: str) -> None:
    """At 20,000 draws each moment lies within 5 standard errors: a false alarm in 1e5 runs, were it not seeded."""
    loc, scale = components(kind, 2)
    normal = SelectedNormal(loc, scale, torch.tensor([3, 1]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = normal.sample((20_000,))
    assert x.shape == (20_000, 2, 2)
    for index, component in enumerate((3, 1)):
        root = scale[component].diag() if kind == "diag" else scale[component]
        covariance = root @ root.T
        error = 5 * covariance.diagonal().sqrt() / 20_000**0.5
        assert ((x[:, index].mean(0) - loc[component]).abs() < error).all()
        spread = 5 * 1.5 * covariance.diagonal().max() / 20_000**0.5
        assert ((x[:, index].T.cov() - covariance).abs() < spread).all()


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_products_would_cancel_the_data_are_centred(kind: str, dtype: torch.dtype) -> None:
    """Two clusters 2e4 standard deviations apart: the features lose the digits that centring keeps."""
    x = torch.cat([draw(20, 3), draw(20, 3, seed=5) + 2e4])
    loc, scale = components(kind)
    loc = loc + torch.tensor([0.0, 2e4, 0.0, 2e4])[:, None].double()
    expected = oracle(x.to(dtype).double(), loc.to(dtype).double(), scale.to(dtype).double())
    normal = SelectedNormal(loc.to(dtype), scale.to(dtype), torch.arange(4)[:, None], FeatureCache())
    found = normal.log_prob(x.to(dtype)).double()
    near = expected > -1e3
    assert 20 <= int(near.sum()) < near.numel()
    error = (found - expected)[near].abs().max()
    assert error < 1e4 * torch.finfo(dtype).eps
    features = QuadraticFeatures.of(x.to(dtype), pairs=kind == "full")
    inverse = gaussians._inverse(scale) if kind == "full" else scale.reciprocal()
    lost = (gaussians._product(features, loc.to(dtype), inverse.to(dtype)).double() - expected)[near].abs().max()
    assert lost > 100 * error


def test_features_are_made_once_for_the_same_data_and_are_not_outlived_by_them() -> None:
    cache, x = FeatureCache(), draw(10, 3)
    first = cache.features(x, pairs=True)
    assert cache.features(x, pairs=True) is first
    assert cache.features(x[:10], pairs=True) is first
    assert cache.features(x[:9], pairs=True).features.shape == (10, 9)
    assert cache.features(x, pairs=False).features.shape == (7, 10)
    again = cache.features(x, pairs=True)
    torch.testing.assert_close(again.features, first.features, rtol=0, atol=0)
    x[0] += 1
    changed = cache.features(x, pairs=True)
    assert changed is not again
    assert not torch.equal(changed.features, again.features)
    watched = weakref.ref(changed)
    del first, again, changed, x
    gc.collect()
    assert watched() is None


def test_copies_of_a_cache_are_empty() -> None:
    cache, x = FeatureCache(), draw(10, 3)
    cache.features(x, pairs=True)
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert copied._value is None
        assert copied.features(x, pairs=True).features.shape == (10, 10)


def test_data_too_large_to_keep_features_of_are_centred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussians, "_BYTES", 100)
    cache, x, (loc, scale) = FeatureCache(), draw(10, 3), components("full")
    found = SelectedNormal(loc, scale, torch.arange(4)[:, None], cache).log_prob(x)
    assert cache._value is None
    torch.testing.assert_close(found, oracle(x, loc, scale), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_batches_of_mixtures_are_selected_too(kind: str) -> None:
    x, (loc, scale) = draw(30, 3), components(kind)
    locs, scales = torch.stack([loc, loc + 1])[:, None], torch.stack([scale, scale])[:, None]
    made = dist.Normal(locs, scales).to_event(1) if kind == "diag" else dist.MultivariateNormal(locs, scale_tril=scales)
    found = select(made, torch.arange(4).reshape(4, 1, 1), FeatureCache()).log_prob(x)
    expected = torch.stack([oracle(x, loc, scale), oracle(x, loc + 1, scale)], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_factored_normal_is_the_multivariate_normal() -> None:
    x, (loc, scale) = draw(30, 3), components("full")
    shared = FactoredNormal(loc[:, None], scale_tril=scale[:, None]).log_prob(x)
    torch.testing.assert_close(shared, oracle(x, loc, scale), rtol=0, atol=1e-11)
    one = FactoredNormal(loc[0], scale_tril=scale[0]).log_prob(x)
    torch.testing.assert_close(one, oracle(x, loc, scale)[0], rtol=0, atol=1e-11)
