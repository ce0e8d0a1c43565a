from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from latentmix.guides import DiagonalNormal, Family

# Every Family. Extend with each new class.
FAMILIES: dict[str, Callable[[], Family]] = {"diagonal_normal": DiagonalNormal}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


@pytest.mark.parametrize("batch", [(), (1,), (5,), (3, 5)])
def test_shapes(family: Family, batch: tuple[int, ...]) -> None:
    head = family.build(features=6, latent_dim=3)
    features = torch.randn(*batch, 6)
    q = head(features)
    assert q.batch_shape == batch
    assert q.event_shape == (3,)
    assert q.rsample().shape == head.mean(features).shape == (*batch, 3)
    assert q.log_prob(q.sample()).shape == batch


def test_samples_are_reparameterised(family: Family) -> None:
    head = family.build(features=6, latent_dim=3)
    q = head(torch.randn(32, 6))
    assert q.has_rsample
    z = q.rsample()
    (z * torch.randn_like(z)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_mean_is_the_mean_of_samples(family: Family) -> None:
    head = family.build(features=6, latent_dim=3)
    features = torch.randn(4, 6)
    samples = head(features).sample((20_000,))
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - head.mean(features)).abs() < 5 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(family: Family, dtype: torch.dtype) -> None:
    head = family.build(features=6, latent_dim=3).to(dtype)
    assert head(torch.randn(4, 6, dtype=dtype)).sample().dtype == dtype


def test_one_family_serves_two_guides(family: Family) -> None:
    one, other = family.build(6, 3), family.build(6, 3)
    features = torch.randn(4, 6)
    assert not torch.equal(one.mean(features), other.mean(features))
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in other.parameters())
    other.load_state_dict(one.state_dict())
    z = torch.randn(4, 3)
    assert torch.equal(one(features).log_prob(z), other(features).log_prob(z))


def test_repr(family: Family) -> None:
    assert repr(family).startswith(type(family).__name__)


def test_family_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Family()  # type: ignore[abstract]


def test_diagonal_normal_has_mean_and_log_variance_layers() -> None:
    head = DiagonalNormal().build(features=6, latent_dim=3).double()
    features = torch.randn(5, 6, dtype=torch.float64)
    loc, log_variance = (layer for layer in head.children() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        log_variance.weight.zero_()
        log_variance.bias.copy_(torch.tensor([4.0, 1.0, 0.25]).log())
    z = torch.randn(5, 3, dtype=torch.float64)
    scale = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    expected = Normal(features @ loc.weight.T + loc.bias, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(head(features).log_prob(z), expected)


def test_diagonal_normals_are_equal_values() -> None:
    assert DiagonalNormal() == DiagonalNormal()
    assert hash(DiagonalNormal()) == hash(DiagonalNormal())
