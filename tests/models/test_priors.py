from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions import validation_enabled
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.models import (
    VAE,
    Bernoulli,
    FlowPrior,
    MixturePrior,
    MLPDecoder,
    Prior,
    StandardNormal,
    StudentT,
    VampPrior,
)
from latentmix.models.pretrained import build, describe


def posterior(x: Tensor) -> dist.TorchDistribution:
    """A stand-in for a guide's, for data of shape (1, 8, 8)."""
    return dist.Normal(4 * x[:, 0, 0, :3] - 2, 0.5 + x[:, 0, 1, :3]).to_event(1)


# Every Prior, with latent_dim=3, as one site. Extend with each new class.
PRIORS: dict[str, Callable[[], Prior]] = {
    "standard_normal": lambda: StandardNormal(3),
    "student_t": lambda: StudentT(3, df=6.0),
    "mixture_diag": lambda: MixturePrior(3, 4),
    "mixture_full": lambda: MixturePrior(3, 4, covariance_type="full"),
    "mixture_of_one": lambda: MixturePrior(3, 1),
    "mixture_frozen": lambda: MixturePrior(3, 4, covariance_type="full", frozen=True),
    "vamp": lambda: VampPrior(3, (1, 8, 8), n_components=5).bind(posterior),
    "flow": lambda: FlowPrior(3, transforms=2, hidden=(16,)),
}


class LogDensity(torch.nn.Module):
    def __init__(self, prior: Prior, batch_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.prior = prior
        self.batch_shape = batch_shape

    def forward(self, z: Tensor) -> Tensor:
        distribution = self.prior()
        return (distribution.expand(self.batch_shape) if self.batch_shape else distribution).log_prob(z)


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


def test_samples_have_the_density(prior: Prior) -> None:
    """For z from p, the mean of g(z) / p(z) is one for any density g; false alarm at 5 standard errors below 1e-6."""
    z = prior().sample((20_000,))
    inner = dist.Normal(z.mean(0), 0.5 * z.std(0)).to_event(1)
    ratios = (inner.log_prob(z) - prior().log_prob(z)).exp().detach()
    assert abs(ratios.mean().item() - 1.0) < 5 * ratios.std().item() / len(z) ** 0.5 < 0.1


def test_gradient_reaches_every_parameter(prior: Prior) -> None:
    if not list(prior.parameters()):
        pytest.skip("a prior without parameters")
    prior().log_prob(torch.randn(8, 3)).sum().backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("expanded", [(), (8,), (2, 8)])
def test_gradients_equal_finite_differences(prior: Prior, expanded: tuple[int, ...]) -> None:
    prior.double()
    z = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    leaves = {name: leaf.detach() for name, leaf in prior.named_parameters()}

    def total(z: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(leaves, values, strict=True))
        called: Tensor = torch.func.functional_call(
            LogDensity(prior, expanded), {f"prior.{k}": v for k, v in state.items()}, z
        )
        return called

    inputs = (z, *(leaf.clone().requires_grad_() for leaf in leaves.values()))
    assert torch.autograd.gradcheck(total, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_module(prior: Prior, dtype: torch.dtype) -> None:
    assert prior.to(dtype)().sample((2,)).dtype == dtype


def test_device_follows_the_module(prior: Prior) -> None:
    """On the device `meta`, whose tensors cannot be combined with those of other devices."""
    prior.to("meta")
    with validation_enabled(False):
        distribution = prior()
        assert distribution.log_prob(torch.randn(5, 3, device="meta")).device.type == "meta"
        assert distribution.sample().device.type == "meta"


def test_state_dict_round_trip_and_repr(prior: Prior, request: pytest.FixtureRequest) -> None:
    copy = PRIORS[request.node.callspec.params["prior"]]()
    copy.load_state_dict(prior.state_dict())
    z = torch.randn(5, 3)
    assert torch.equal(copy().log_prob(z), prior().log_prob(z))
    assert repr(prior).startswith(type(prior).__name__)


def test_a_prior_is_rebuilt_from_its_arguments(prior: Prior) -> None:
    again = build(describe(prior))
    assert repr(again) == repr(prior)
    again.load_state_dict(prior.state_dict())
    if isinstance(prior, VampPrior):
        again.bind(posterior)
    z = torch.randn(5, 3)
    assert torch.equal(again().log_prob(z), prior().log_prob(z))


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


def make_guide() -> AmortizedGuide:
    return AmortizedGuide(encoder=MLPEncoder(latent_dim=3, hidden=(16,), shape=(1, 8, 8)))


def make_vae(prior: Prior, guide: AmortizedGuide) -> VAE:
    if isinstance(prior, VampPrior):
        prior.bind(guide.posterior)
    return VAE(MLPDecoder(latent_dim=3, hidden=(16,), shape=(1, 8, 8)), prior, Bernoulli())


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True),
    ],
    ids=["trace", "particles", "renyi"],
)
def test_plain_svi_trains_the_prior_with_the_vae(prior: Prior, binary_images: Tensor, elbo: Trace_ELBO) -> None:
    guide = make_guide()
    vae = make_vae(prior, guide)
    before = {id(parameter): parameter.clone() for part in (vae, guide) for parameter in part.parameters()}
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    losses = [svi.step(binary_images) for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])
    for part in (vae, guide):
        for name, parameter in part.named_parameters():
            moved = not torch.equal(parameter, before[id(parameter)])
            assert moved or parameter.numel() == 1, name  # one component's weight is one, whatever its logit
    assert vae.generate(5).shape == (5, 1, 8, 8)
    assert torch.equal(vae.generate(5, seed=1), vae.generate(5, seed=1))


def test_kl_is_analytic_for_the_standard_normal_alone(prior: Prior) -> None:
    q = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    if isinstance(prior, StandardNormal):
        assert kl_divergence(q, prior()).item() == 0.0
    else:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, prior())


def test_a_vae_with_another_prior_shares_the_rest(prior: Prior, binary_images: Tensor) -> None:
    guide = make_guide()
    vae = make_vae(StandardNormal(3), guide)
    other = vae.with_prior(prior)
    assert other.prior is prior
    assert other.decoder is vae.decoder
    assert other.likelihood is vae.likelihood
    assert isinstance(vae.prior, StandardNormal)
    with pytest.raises(ValueError, match="Expected decoder and prior of one latent_dim; got 3 and 2"):
        vae.with_prior(StandardNormal(2))


def test_mean_field_elbo_runs_where_the_kl_is_known(binary_images: Tensor) -> None:
    guide = make_guide()
    vae = make_vae(StandardNormal(3), guide)
    assert TraceMeanField_ELBO().loss(vae.model, guide, binary_images) > 0


@pytest.mark.parametrize("df", [0.5, 2.0, 5.0])
def test_student_t_equals_scipy(df: float) -> None:
    z = 3 * torch.randn(20, 3, dtype=torch.float64)
    expected = scipy.stats.t(df).logpdf(z.numpy()).sum(-1)
    torch.testing.assert_close(StudentT(3, df).double()().log_prob(z), torch.from_numpy(expected))


def test_student_t_has_nothing_to_train_or_save() -> None:
    assert list(StudentT(3).parameters()) == []
    assert StudentT(3).state_dict() == {}
    assert repr(StudentT(3)) == "StudentT(3, df=5)"


@pytest.mark.parametrize("df", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_df_is_refused(df: float) -> None:
    with pytest.raises(ValueError, match=f"Expected a finite df > 0 for StudentT; got {df}"):
        StudentT(3, df)


@pytest.mark.parametrize(
    "make", [FlowPrior, StudentT, lambda size: MixturePrior(size, 2), lambda size: VampPrior(size, (2,))]
)
def test_every_prior_refuses_no_latent(make: Callable[[int], Prior]) -> None:
    with pytest.raises(ValueError, match="Expected latent_dim to hold positive integers; got 0"):
        make(0)


def test_fewer_than_one_component_is_refused() -> None:
    for make in (lambda: MixturePrior(2, 0), lambda: VampPrior(2, (3,), 0)):
        with pytest.raises(ValueError, match="Expected n_components to hold positive integers; got 0"):
            make()
    with pytest.raises(ValueError, match="Expected transforms to hold positive integers; got 0"):
        FlowPrior(2, transforms=0)
