from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from latentmix.models import FlowPrior
from latentmix.models.flows import FlowDistribution, autoregressive


def shaken(module: nn.Module, size: float = 0.3) -> nn.Module:
    """The module with weights far from the initial ones, in float64."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def inverse_flow(latent_dim: int, batch: tuple[int, ...] = ()) -> FlowDistribution:
    """f in the parallel direction, as in a guide."""
    flow = shaken(autoregressive(latent_dim, transforms=2, hidden=(8,), context=2))
    loc = torch.randn(*batch, latent_dim, dtype=torch.float64, requires_grad=True)
    context = torch.randn(*batch, 2, dtype=torch.float64)
    return FlowDistribution(dist.Normal(loc, 0.7).to_event(1), flow(context))


def prior(latent_dim: int) -> FlowPrior:
    module = shaken(FlowPrior(latent_dim, transforms=3, hidden=(8,)))
    assert isinstance(module, FlowPrior)
    return module


def grid(size: int, points: int) -> tuple[Tensor, float]:
    axis = torch.linspace(-25, 25, points, dtype=torch.float64)
    step = (axis[1] - axis[0]).item()
    return torch.cartesian_prod(*[axis] * size).reshape(-1, size), step**size


@pytest.mark.parametrize(("latent_dim", "points"), [(1, 20_001), (2, 1_001)])
def test_density_integrates_to_one_on_a_grid(latent_dim: int, points: int) -> None:
    z, volume = grid(latent_dim, points)
    with torch.no_grad():
        for flow in (prior(latent_dim)(), inverse_flow(latent_dim)):
            assert flow.log_prob(z).exp().sum().item() * volume == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_density_is_the_change_of_variables(latent_dim: int) -> None:
    module = prior(latent_dim)
    z = torch.randn(4, latent_dim, dtype=torch.float64)
    for point, density in zip(z, module().log_prob(z), strict=True):
        jacobian = torch.autograd.functional.jacobian(module.flow(), point)
        noise = module.flow()(point)
        expected = -0.5 * noise.square().sum() - 0.5 * latent_dim * math.log(2 * math.pi)
        torch.testing.assert_close(density, expected + torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 4)])
def test_the_density_of_an_own_sample_is_the_same_with_and_without_inverting(
    latent_dim: int, batch: tuple[int, ...]
) -> None:
    flow = inverse_flow(latent_dim, batch)
    for shape in ((), (6,)):
        z = flow.rsample(shape)
        assert z.shape == (*shape, *batch, latent_dim)
        known, inverted = flow.log_prob(z), flow.log_prob(z.clone())
        assert known.shape == (*shape, *batch)
        torch.testing.assert_close(known, inverted, rtol=1e-9, atol=1e-9)
        leaves = [flow.base.base_dist.loc]
        first, other = (torch.autograd.grad(d.sum(), leaves, retain_graph=True)[0] for d in (known, inverted))
        torch.testing.assert_close(first, other, rtol=1e-8, atol=1e-8)


class Counted:
    """A transformation that counts its inversions."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.inversions = 0

    def call_and_ladj(self, x: Tensor) -> Any:
        return self.transform.call_and_ladj(x)

    @property
    def inv(self) -> Any:
        self.inversions += 1
        return self.transform.inv


def counted(batch: tuple[int, ...] = (4,)) -> tuple[FlowDistribution, Counted]:
    flow = inverse_flow(3, batch)
    transform = Counted(flow.transform)
    return FlowDistribution(flow.base, transform), transform  # type: ignore[arg-type]


def test_a_pyro_site_is_scored_without_inverting() -> None:
    flow, transform = counted()

    def model() -> None:
        with pyro.plate("particles", 2, dim=-2), pyro.plate("data", 4, dim=-1):
            pyro.sample("z", flow)

    trace = poutine.trace(model).get_trace()
    trace.compute_score_parts()
    assert trace.nodes["z"]["log_prob"].shape == (2, 4)
    assert trace.nodes["z"]["log_prob"].requires_grad
    assert transform.inversions == 0
    with torch.no_grad():
        flow.log_prob(flow.sample())
    assert transform.inversions == 0


def test_only_the_last_sample_as_drawn_is_known() -> None:
    flow, transform = counted()
    first, last = flow.rsample().detach(), flow.sample()
    for z in (first, last, last.clone(), last + 0):
        before = transform.inversions
        assert flow.log_prob(z).requires_grad  # a sample drawn without gradients has them in its density
        assert transform.inversions == before + 1
    with torch.no_grad():
        z = flow.sample()
        density = flow.log_prob(z).clone()
        z += 1.0
        assert not torch.equal(flow.log_prob(z), density)
        torch.testing.assert_close(flow.log_prob(z), flow.log_prob(z.clone()))


def test_inference_mode_and_expand() -> None:
    flow, _ = counted()
    with torch.inference_mode():
        z = flow.sample((2,))
        torch.testing.assert_close(flow.log_prob(z), flow.log_prob(z.clone()), rtol=1e-9, atol=1e-9)
    wide = flow.expand((5, 4))
    assert (wide.batch_shape, wide.event_shape) == ((5, 4), (3,))
    assert wide.rsample((2,)).shape == (2, 5, 4, 3)
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob(z), flow.log_prob(z).expand(5, 4))


def test_a_value_outside_the_support_is_refused() -> None:
    flow = FlowDistribution(
        dist.Normal(torch.zeros(2), 1.0).to_event(1), autoregressive(2, 1, (4,))(), validate_args=True
    )
    with pytest.raises(ValueError, match="within the support"):
        flow.log_prob(torch.full((2,), torch.nan))


@pytest.mark.parametrize("latent_dim", [1, 2, 7])
@pytest.mark.parametrize("context", [0, 3])
def test_a_flow_starts_near_the_identity(latent_dim: int, context: int) -> None:
    flow = autoregressive(latent_dim, transforms=3, hidden=(32, 32), context=context)
    x = torch.randn(50, latent_dim)
    y = flow(torch.randn(50, context))(x) if context else flow()(x)
    assert 0 < (y - x).abs().max() < 0.3


def test_every_value_depends_on_every_other() -> None:
    """Two transformations in opposite orders: the Jacobian is dense."""
    flow = shaken(autoregressive(4, transforms=2, hidden=(16,)))
    jacobian = torch.autograd.functional.jacobian(flow(), torch.randn(4, dtype=torch.float64))
    assert (jacobian != 0).all()
    transform = shaken(autoregressive(4, transforms=1, hidden=(16,)))
    triangle = torch.autograd.functional.jacobian(transform(), torch.randn(4, dtype=torch.float64))
    assert torch.equal(triangle, triangle.tril())


def test_a_flow_prior_learns_a_curved_density() -> None:
    """Banana-shaped data: the flow beats the Gaussian of highest likelihood."""
    x = torch.randn(2_000, 2)
    x[:, 1] = x[:, 1] * 0.2 + x[:, 0].square()
    gaussian = dist.MultivariateNormal(x.mean(0), torch.cov(x.T)).log_prob(x).mean()
    flow = FlowPrior(2, transforms=3, hidden=(32,))
    adam = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(120):
        adam.zero_grad()
        loss = -flow().log_prob(x).mean()
        loss.backward()
        adam.step()
    assert -loss.item() > gaussian.item() + 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim to hold positive integers; got 0"),
        ({"transforms": 0}, "transforms to hold positive integers; got 0"),
        ({"hidden": (8, 0)}, r"hidden to hold positive integers; got \(8, 0\)"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowPrior(**{"latent_dim": 2, **options})
    with pytest.raises(ValueError, match=message):
        autoregressive(**{"latent_dim": 2, "transforms": 1, "hidden": (4,), **options})
