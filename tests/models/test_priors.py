from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import scipy.stats
import torch
from pyro import poutine

from latentmix.models import Prior, StandardNormal

# Every Prior, with latent_dim=3. Extend with each new class.
PRIORS: dict[str, Callable[[], Prior]] = {"standard_normal": lambda: StandardNormal(3)}


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest) -> Prior:
    return PRIORS[request.param]()


def test_distribution_over_one_latent(prior: Prior) -> None:
    assert prior.latent_dim == 3
    assert prior().batch_shape == ()
    assert prior().event_shape == (3,)
    assert prior().sample((4, 2)).shape == (4, 2, 3)


def test_density_integrates_to_one(prior: Prior) -> None:
    """Importance sampling from a wide Student-t: the mean weight is one."""
    proposal = torch.distributions.Independent(torch.distributions.StudentT(4.0, 0.0, 1.5), 0).expand((3,))
    z = proposal.sample((50_000,))
    weights = (prior().log_prob(z) - proposal.log_prob(z).sum(-1)).exp()
    assert weights.mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("plates", [(), (1,), (5,), (2, 5)])
def test_sample_is_a_site_that_fills_its_plates(prior: Prior, plates: tuple[int, ...]) -> None:
    def model() -> torch.Tensor:
        return prior.sample("latent")

    for position, size in enumerate(reversed(plates)):
        model = pyro.plate(f"plate{position}", size, dim=-1 - position)(model)
    trace = poutine.trace(model).get_trace()
    z = trace.nodes["latent"]["value"]
    assert z.shape == (*plates, 3)
    assert torch.equal(trace.nodes["_RETURN"]["value"], z)
    assert trace.log_prob_sum().item() == pytest.approx(prior().log_prob(z).sum().item(), rel=1e-5)
    assert len(z.reshape(-1, 3).unique(dim=0)) == max(1, torch.Size(plates).numel())


def test_gradient_reaches_every_parameter(prior: Prior) -> None:
    if not list(prior.parameters()):
        pytest.skip("a prior without parameters")
    prior().log_prob(torch.randn(8, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in prior.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(prior: Prior, dtype: torch.dtype) -> None:
    assert prior.to(dtype)().sample((2,)).dtype == dtype


def test_state_dict_round_trip_and_repr(prior: Prior, request: pytest.FixtureRequest) -> None:
    copy = PRIORS[request.node.callspec.params["prior"]]()
    copy.load_state_dict(prior.state_dict())
    z = torch.randn(5, 3)
    assert torch.equal(copy().log_prob(z), prior().log_prob(z))
    assert repr(prior).startswith(type(prior).__name__)


def test_prior_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Prior(2)  # type: ignore[abstract]


def test_standard_normal_equals_scipy() -> None:
    z = torch.randn(20, 3, dtype=torch.float64)
    expected = scipy.stats.multivariate_normal(mean=[0.0] * 3).logpdf(z.numpy())
    torch.testing.assert_close(StandardNormal(3).double()().log_prob(z), torch.from_numpy(expected))


def test_standard_normal_has_nothing_to_train_or_save() -> None:
    prior = StandardNormal(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}


@pytest.mark.parametrize("latent_dim", [0, -2])
def test_bad_latent_dim_is_refused(latent_dim: int) -> None:
    with pytest.raises(ValueError, match=f"Expected latent_dim to hold positive integers; got {latent_dim}"):
        StandardNormal(latent_dim)
