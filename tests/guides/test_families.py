from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import validation_enabled
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

from latentmix.guides import AutoregressiveFlow, ConditionalDistribution, DiagonalNormal, Family, FullNormal
from latentmix.models import FlowPrior, MixturePrior, Prior, StandardNormal, StudentT
from latentmix.models.pretrained import build, describe

# Every Family. Extend with each new class.
FAMILIES: dict[str, Callable[[], Family]] = {
    "diagonal_normal": DiagonalNormal,
    "diagonal_normal_softplus": lambda: DiagonalNormal(scale="softplus"),
    "full_normal": FullNormal,
    "autoregressive_flow": lambda: AutoregressiveFlow(transforms=2, hidden=(16,), context=4),
}


def shaken(head: ConditionalDistribution, size: float = 0.3) -> ConditionalDistribution:
    """The head with weights far from the initial ones."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return head


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


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_samples_are_reparameterised(family: Family, latent_dim: int) -> None:
    head = family.build(features=6, latent_dim=latent_dim)
    q = head(torch.randn(32, 6))
    assert q.has_rsample
    z = q.rsample()
    (z * torch.randn_like(z)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_gradients_of_the_density_equal_finite_differences(family: Family, latent_dim: int) -> None:
    head = shaken(family.build(features=6, latent_dim=latent_dim).double())
    features = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, latent_dim, dtype=torch.float64, requires_grad=True)
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in head.named_parameters()}

    class LogDensity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, features: Tensor, z: Tensor) -> Tensor:
            density: Tensor = self.head(features).log_prob(z)
            return density

    def density(features: Tensor, z: Tensor, *values: Tensor) -> Tensor:
        state = {f"head.{name}": value for name, value in zip(leaves, values, strict=True)}
        result: Tensor = torch.func.functional_call(LogDensity(), state, (features, z))
        return result

    assert torch.autograd.gradcheck(density, (features, z, *leaves.values()), fast_mode=True)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_mean_and_covariance_are_those_of_samples(family: Family, latent_dim: int) -> None:
    """Within 5 standard errors of 20,000 samples: false alarm below 1e-4 over all entries."""
    head = shaken(family.build(features=6, latent_dim=latent_dim), 0.1)
    features = torch.randn(4, 6)
    samples = head(features).sample((20_000,)).double()
    mean, covariance = head.mean(features).double(), head.covariance(features).double()
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - mean).abs() < 5 * error).all()
    deviations = samples - samples.mean(0)
    products = deviations[..., :, None] * deviations[..., None, :]
    if covariance.dim() == 2:
        covariance = torch.diag_embed(covariance)
    assert covariance.shape == (4, latent_dim, latent_dim)
    error = products.std(0) / len(samples) ** 0.5
    assert ((products.mean(0) - covariance).abs() < 5 * error).all()


def test_vectorised_particles(family: Family) -> None:
    head = family.build(features=6, latent_dim=3)
    q = head(torch.randn(5, 6))

    def model() -> None:
        with pyro.plate("particles", 7, dim=-2), pyro.plate("data", 5, dim=-1):
            pyro.sample("z", q)

    trace = poutine.trace(model).get_trace()
    trace.compute_score_parts()
    z, density = trace.nodes["z"]["value"], trace.nodes["z"]["log_prob"]
    assert z.shape == (7, 5, 3)
    assert len(z.reshape(-1, 3).unique(dim=0)) == 35
    torch.testing.assert_close(density, q.log_prob(z.clone()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(family: Family, dtype: torch.dtype) -> None:
    head = family.build(features=6, latent_dim=3).to(dtype)
    assert head(torch.randn(4, 6, dtype=dtype)).sample().dtype == dtype


def test_device_follows_the_module(family: Family) -> None:
    """On the device `meta`, whose tensors cannot be combined with those of other devices."""
    head = family.build(features=6, latent_dim=3).to("meta")
    features = torch.randn(4, 6, device="meta")
    with validation_enabled(False):
        q = head(features)
        made = (
            q.rsample(),
            q.log_prob(torch.randn(4, 3, device="meta")),
            head.mean(features),
            head.covariance(features),
        )
    assert {first.device.type for first in made} == {"meta"}


def test_one_family_serves_two_guides(family: Family) -> None:
    first, other = family.build(6, 3), family.build(6, 3)
    features = torch.randn(4, 6)
    assert not torch.equal(first.mean(features), other.mean(features))
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in other.parameters())
    other.load_state_dict(first.state_dict())
    z = torch.randn(4, 3)
    assert torch.equal(first(features).log_prob(z), other(features).log_prob(z))


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


def test_families_are_equal_values(family: Family, request: pytest.FixtureRequest) -> None:
    again = FAMILIES[request.node.callspec.params["family"]]()
    assert family == again
    assert hash(family) == hash(again)
    assert build(describe(family)) == family
    assert [FAMILIES[name]() for name in FAMILIES].count(family) == 1


def test_softplus_is_the_variance_from_one_layer() -> None:
    head = DiagonalNormal(scale="softplus").build(features=6, latent_dim=3).double()
    (layer,) = head.children()
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 6
    features, z = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    outputs = layer(features)
    mean, variance = outputs[:, :3], softplus(outputs[:, 3:])
    torch.testing.assert_close(head(features).log_prob(z), Normal(mean, variance.sqrt()).log_prob(z).sum(-1))
    torch.testing.assert_close(head.mean(features), mean)
    torch.testing.assert_close(head.covariance(features), variance)


def test_softplus_of_far_negative_outputs_stays_a_variance() -> None:
    head = DiagonalNormal(scale="softplus").build(features=6, latent_dim=3)
    with torch.no_grad():
        head.out.bias.fill_(-500.0)  # type: ignore[union-attr, operator]
    z = head(torch.zeros(4, 6)).rsample()
    z.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Expected scale in \('log_variance', 'softplus'\) for DiagonalNormal; got 'exp'"
    ):
        DiagonalNormal(scale="exp")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"transforms": 0}, {"hidden": (8, 0)}, {"context": 0}])
def test_bad_sizes_of_a_flow_are_refused(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"Expected {name} to hold positive integers; got"):
        AutoregressiveFlow(**options)  # type: ignore[arg-type]
    assert AutoregressiveFlow(hidden=[8]) == AutoregressiveFlow(hidden=(8,))


@pytest.mark.parametrize("latent_dim", [1, 3, 8])
def test_full_normal_is_a_multivariate_normal_near_a_diagonal_one(latent_dim: int) -> None:
    head = FullNormal().build(features=6, latent_dim=latent_dim).double()
    features, z = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, latent_dim, dtype=torch.float64)
    covariance = head.covariance(features)
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    correlation = covariance / (variances[..., :, None] * variances[..., None, :]).sqrt()
    assert (correlation - torch.eye(latent_dim, dtype=torch.float64)).abs().max() < 0.1
    shaken(head)
    expected = torch.distributions.MultivariateNormal(head.mean(features), head.covariance(features)).log_prob(z)
    torch.testing.assert_close(head(features).log_prob(z), expected)


KNOWN: dict[str, Callable[[], Family]] = {
    name: make for name, make in FAMILIES.items() if name != "autoregressive_flow"
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_analytic_kl_equals_the_sampled_one(name: str, latent_dim: int) -> None:
    """Within 5 standard errors of 20,000 samples for each of 4 data: false alarm below 1e-5."""
    head = shaken(KNOWN[name]().build(features=6, latent_dim=latent_dim).double())
    q, p = head(torch.randn(4, 6, dtype=torch.float64)), StandardNormal(latent_dim).double()()
    z = q.sample((20_000,))
    ratios = (q.log_prob(z) - p.log_prob(z)).detach()
    error = ratios.std(0) / len(z) ** 0.5
    assert ((ratios.mean(0) - kl_divergence(q, p)).abs() < 5 * error).all()


def test_kl_of_a_full_normal_equals_torch_s() -> None:
    head = shaken(FullNormal().build(features=6, latent_dim=3).double())
    q = head(torch.randn(4, 6, dtype=torch.float64))
    loc, scale = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    diagonal = dist.Normal(loc, scale).to_event(1)
    torchs = kl_divergence(
        torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril),
        torch.distributions.MultivariateNormal(loc, scale_tril=torch.diag(scale)),
    )
    torch.testing.assert_close(kl_divergence(q, diagonal), torchs, rtol=1e-12, atol=1e-12)
    wide = q.expand((2, 4))
    torch.testing.assert_close(kl_divergence(wide, diagonal.expand((2, 4))), torchs.expand(2, 4))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "prior", [StudentT(3), MixturePrior(3, 2), MixturePrior(3, 2, covariance_type="full"), FlowPrior(3), None], ids=repr
)
def test_no_other_kl_is_analytic(name: str, prior: Prior | None) -> None:
    q = FAMILIES[name]().build(features=6, latent_dim=3)(torch.randn(4, 6))
    if prior is None:
        if name == "autoregressive_flow":
            with pytest.raises(NotImplementedError):
                kl_divergence(q, StandardNormal(3)())
        return
    with pytest.raises(NotImplementedError):
        kl_divergence(q, prior())


def test_moments_of_a_flow_are_the_same_each_time_and_exact_where_it_is_affine() -> None:
    head = AutoregressiveFlow(transforms=1, hidden=(8,), context=4).build(features=6, latent_dim=5).double()
    features = torch.randn(3, 6, dtype=torch.float64)
    state = torch.get_rng_state()
    assert torch.equal(head.mean(features), head.mean(features))
    assert torch.equal(torch.get_rng_state(), state)
    assert "draws" not in head.state_dict()
    base = DiagonalNormal().build(features=6, latent_dim=5)
    with torch.no_grad():
        for parameter in head.flow.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    normal = head.base
    assert type(normal) is type(base)
    torch.testing.assert_close(head.mean(features), normal.mean(features), rtol=1e-6, atol=1e-6)
    expected = torch.diag_embed(normal.covariance(features))
    torch.testing.assert_close(head.covariance(features), expected, rtol=1e-5, atol=1e-6)
    again = AutoregressiveFlow(transforms=1, hidden=(8,), context=4).build(features=6, latent_dim=5).double()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.mean(features), head.mean(features))
