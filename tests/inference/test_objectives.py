from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.elbo import ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import Terms, as_objective
from latentmix.inference.objectives import CallableObjective, Objective, data_plate
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...], int]
TOTAL = 100  # size of the plate that a subsampled pair names


def data(n: int = 12) -> Tensor:
    return torch.linspace(-2.0, 3.0, n, dtype=torch.float64)


def vae_pair() -> Pair:
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 3, 3)), StandardNormal(2), Bernoulli()).double()
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 3, 3))).double()
    x = torch.bernoulli(torch.full((12, 1, 3, 3), 0.4, dtype=torch.float64))
    return vae.model, guide, (x,), 12


def subsampled_pair() -> Pair:
    """A global latent, a plate of TOTAL data of which 12 are seen, a scale and a mask."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
        spread = pyro.param("spread", torch.tensor(1.5, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("data", TOTAL, subsample=x), poutine.mask(mask=x < 2.9):
            local = pyro.sample("local", dist.Normal(loc, spread))
            pyro.sample("x", dist.Normal(local, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc_q", torch.tensor(0.3, dtype=torch.float64))
        scale = pyro.param("scale_q", torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)
        slope = pyro.param("slope", torch.tensor(0.4, dtype=torch.float64))
        pyro.sample("loc", dist.Normal(loc, scale))
        with pyro.plate("data", TOTAL, subsample=x), poutine.mask(mask=x < 2.9):
            pyro.sample("local", dist.Normal(slope * x, scale))

    return model, guide, (data(),), TOTAL


def score_function_pair() -> Pair:
    """A global and a local Bernoulli latent, whose gradients need the score function."""

    def model(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.2, dtype=torch.float64))
        switch = pyro.sample("switch", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        with pyro.plate("data", TOTAL, subsample=x):
            side = pyro.sample("side", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(shift * switch + 2 * side + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        switch = pyro.param("switch_q", torch.tensor(0.6, dtype=torch.float64), constraint=constraints.unit_interval)
        slope = pyro.param("slope", torch.tensor(0.5, dtype=torch.float64))
        pyro.sample("switch", dist.Bernoulli(switch))
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("side", dist.Bernoulli(logits=slope * x))
            pyro.sample("z", dist.Normal(slope * x, 0.5))

    return model, guide, (data(),), TOTAL


def auxiliary_pair() -> Pair:
    """AutoNormal over a positive latent: an auxiliary site, a Delta with a log-density."""

    def model(x: Tensor) -> None:
        one = torch.ones((), dtype=torch.float64)
        scale = pyro.sample("scale", dist.LogNormal(0 * one, one))
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("x", dist.Normal(0 * one, scale), obs=x)

    return model, AutoNormal(model), (data(),), TOTAL


def mixture(x: Tensor, size: int) -> None:
    """Two components over points, with a site that does not depend on the component, enumerated."""
    one = torch.ones(2, dtype=torch.float64)
    weights = pyro.sample("weights", dist.Dirichlet(2 * one))
    with pyro.plate("components", 2):
        means = pyro.sample("means", dist.Normal(0 * one[0], 3 * one[0]))
    scale = pyro.param("scale", torch.tensor(0.8, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("data", size, subsample=x):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(Vindex(means.unsqueeze(-2))[..., k], scale), obs=x)
        pyro.sample("y", dist.Normal(weights[..., 0], scale), obs=x + 1)


def mixture_pair(guide: Callable[[Any], Any], size: int) -> Pair:
    def model(x: Tensor) -> None:
        mixture(x, size)

    hidden = poutine.block(model, expose=["weights", "means"])
    return model, guide(hidden), (data(),), size


def chain_pair() -> Pair:
    """Two enumerated variables, one dependent on the other, and a plate on the right of the data's."""

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([[0.1, 0.9], [0.6, -0.4]], dtype=torch.float64))
        means = pyro.param("means", torch.tensor([-1.0, 2.0], dtype=torch.float64))
        with pyro.plate("data", TOTAL, subsample=x, dim=-2):
            first = pyro.sample("first", dist.Categorical(logits=logits[0]), infer={"enumerate": "parallel"})
            second = pyro.sample("second", dist.Categorical(logits=logits[first]), infer={"enumerate": "parallel"})
            with pyro.plate("values", 3, dim=-1):
                pyro.sample("x", dist.Normal(means[second], 1.0), obs=x[:, None].expand(-1, 3))

    def guide(x: Tensor) -> None:
        pass

    return model, guide, (data(),), TOTAL


def guide_enumeration_pair(how: str) -> Pair:
    """A global variable that the guide enumerates, and a local one that it samples."""

    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.tensor([-1.0, 2.0], dtype=torch.float64))
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
        with pyro.plate("data", TOTAL, subsample=x):
            z = pyro.sample("z", dist.Normal(means[k], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.4, -0.3], dtype=torch.float64))
        slope = pyro.param("slope", torch.tensor(0.5, dtype=torch.float64))
        k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": how})
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("z", dist.Normal(slope * x + k, 1.0))

    return model, guide, (data(),), TOTAL


def gradients() -> dict[str, Tensor]:
    """Gradients of the leaves in the parameter store, which they are then without."""
    found = {}
    for name, leaf in pyro.get_param_store().named_parameters():
        if leaf.grad is not None:
            found[name] = leaf.grad.clone()
            leaf.grad = None
    return found


def assert_equal_to_pyro(elbo: ELBO, pair: Pair) -> Terms:
    """The twin's value and gradient are Pyro's, per datum, from the same seed."""
    model, guide, batch, count = pair
    pyro.set_rng_seed(1)
    copy.copy(elbo).loss(model, guide, *batch)  # lazy parameters exist from here on
    pyro.set_rng_seed(2)
    loss = copy.copy(elbo).loss_and_grads(model, guide, *batch)
    theirs = gradients()
    pyro.set_rng_seed(2)
    terms = as_objective(elbo).backward(model, guide, *batch)
    ours = gradients()
    assert terms.loss.shape == ()
    assert terms.loss.item() * count == pytest.approx(float(loss), rel=1e-9)
    assert ours.keys() == theirs.keys()
    assert any(value.abs().sum() > 0 for value in theirs.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name] * count, value, rtol=1e-8, atol=1e-10)
    assert terms.elbo is not None
    assert terms.elbo.item() == pytest.approx(-terms.loss.item(), rel=1e-9)
    if terms.log_likelihood is not None and not terms.log_likelihood.isnan():
        assert terms.kl is not None
        assert (terms.log_likelihood - terms.kl).item() == pytest.approx(terms.elbo.item(), rel=1e-9)
    return terms


PARTICLES: dict[str, dict[str, Any]] = {
    "one": {},
    "three": {"num_particles": 3},
    "three_vectorised": {"num_particles": 3, "vectorize_particles": True},
    "nesting_known": {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1},
}
CONTINUOUS = {"vae": vae_pair, "subsampled": subsampled_pair, "auxiliary": auxiliary_pair}


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("pair", [*CONTINUOUS, "score_function"])
def test_trace_elbo(pair: str, particles: str) -> None:
    made = {**CONTINUOUS, "score_function": score_function_pair}[pair]()
    assert_equal_to_pyro(Trace_ELBO(**PARTICLES[particles]), made)


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("pair", CONTINUOUS)
def test_trace_mean_field_elbo(pair: str, particles: str) -> None:
    assert_equal_to_pyro(TraceMeanField_ELBO(**PARTICLES[particles]), CONTINUOUS[pair]())


@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("size", [12, TOTAL])
def test_trace_enum_elbo_on_a_mixture(guide: Callable[[Any], Any], size: int, particles: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(**PARTICLES[particles]), mixture_pair(guide, size))


@pytest.mark.parametrize("particles", ["one", "three", "three_vectorised"])
@pytest.mark.parametrize("pair", [chain_pair, vae_pair, subsampled_pair, auxiliary_pair])
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_trace_enum_elbo_elsewhere(pair: Callable[[], Pair], particles: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(**PARTICLES[particles]), pair())


@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_trace_enum_elbo_with_guide_enumeration_is_pyro_s_own(how: str) -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(max_plate_nesting=1), guide_enumeration_pair(how))


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_trace_enum_elbo_with_a_score_function_is_pyro_s_own() -> None:
    assert_equal_to_pyro(TraceEnum_ELBO(max_plate_nesting=1), score_function_pair())


class Unknown(Trace_ELBO):  # type: ignore[misc]
    """Half of Trace_ELBO: only its own code can know."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss / 2, surrogate / 2


@pytest.mark.parametrize(
    "elbo", [Unknown(), RenyiELBO(alpha=0.5, num_particles=4), TraceGraph_ELBO()], ids=lambda elbo: type(elbo).__name__
)
@pytest.mark.parametrize("pair", [vae_pair, subsampled_pair, auxiliary_pair])
def test_other_elbos_run_as_they_are(elbo: ELBO, pair: Callable[[], Pair]) -> None:
    terms = assert_equal_to_pyro(elbo, pair())
    assert terms.log_likelihood is None
    assert terms.kl is None


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO, Unknown])
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_value_without_gradient_moves_nothing(kind: type[ELBO]) -> None:
    elbo = kind(max_plate_nesting=1)
    model, guide, batch, count = auxiliary_pair()
    objective = as_objective(elbo)
    objective(model, guide, *batch)
    with torch.no_grad():
        pyro.set_rng_seed(2)
        value = objective(model, guide, *batch)
    pyro.set_rng_seed(2)
    assert value.item() == pytest.approx(copy.copy(elbo).loss(model, guide, *batch) / count, rel=1e-9)
    assert gradients() == {}


def test_the_user_s_elbo_is_not_changed() -> None:
    elbo = TraceEnum_ELBO()
    model, guide, batch, _ = mixture_pair(AutoDelta, TOTAL)
    as_objective(elbo)(model, guide, *batch)
    assert elbo.max_plate_nesting == math.inf


def test_terms_of_a_vae_are_its_reconstruction_and_divergence() -> None:
    model, guide, (x,), _ = vae_pair()
    terms = as_objective(TraceMeanField_ELBO()).terms(model, guide, x)
    q = guide.posterior(x)
    divergence = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1).mean()
    assert terms.kl is not None
    assert terms.kl.item() == pytest.approx(divergence.item(), rel=1e-9)
    assert terms.loss.requires_grad
    assert not any(part.requires_grad for part in terms[1:])
    totals = terms.totals(7)
    assert totals.dtype == torch.float64
    assert totals.tolist() == pytest.approx([7 * part.item() for part in terms[1:]] + [7.0])


def test_mean_field_refuses_a_pair_without_closed_form() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.StudentT(4.0, 0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

    with pytest.raises(ValueError, match=r"analytic KL divergence at site 'loc'.*Normal against StudentT: use Trace_"):
        as_objective(TraceMeanField_ELBO())(model, guide, torch.zeros(3))


def test_mean_field_refuses_a_guide_without_pathwise_gradient() -> None:
    """Pyro refuses it too; its KL is analytic, but the gradient of the log-likelihood would be lost."""
    model, guide, batch, _ = score_function_pair()
    with pytest.raises((ValueError, NotImplementedError), match="reparam"):
        as_objective(TraceMeanField_ELBO()).backward(model, guide, *batch)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("particles", ["one", "nesting_known"])
@pytest.mark.parametrize("pair", CONTINUOUS)
def test_twins_can_be_traced(kind: type[ELBO], pair: str, particles: str) -> None:
    assert_traceable(as_objective(kind(**PARTICLES[particles])), CONTINUOUS[pair]())


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal])
def test_the_enumeration_twin_can_be_traced(guide: Callable[[Any], Any]) -> None:
    assert_traceable(as_objective(TraceEnum_ELBO(max_plate_nesting=1)), mixture_pair(guide, TOTAL))


def assert_traceable(objective: Objective, pair: Pair) -> None:
    model, guide, (x,), _ = pair
    objective(model, guide, x)
    with pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.terms(model, guide, x)[:3])(x)
    other = x.flip(0)
    for batch in (x, other):
        pyro.set_rng_seed(3)
        traced = graph(batch)
        pyro.set_rng_seed(3)
        for ours, eager in zip(traced, objective.terms(model, guide, batch)[:3], strict=True):
            torch.testing.assert_close(ours, eager)


def test_pyro_s_own_elbo_cannot_be_traced() -> None:
    """The control of the tests above: what they would catch."""
    model, guide, (x,), _ = vae_pair()
    with pyro.validation_enabled(False), pytest.raises(RuntimeError, match="tracing tensor"):
        make_fx(lambda x: Trace_ELBO().differentiable_loss(model, guide, x))(x)


def test_a_callable_is_an_objective() -> None:
    model, guide, (x,), count = vae_pair()

    def loss(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> Tensor:
        return Trace_ELBO().differentiable_loss(model, guide, x) / count

    objective = as_objective(loss)
    assert isinstance(objective, CallableObjective)
    pyro.set_rng_seed(2)
    terms = objective.backward(model, guide, x)
    ours = gradients()
    assert terms[1:] == (None, None, None)
    pyro.set_rng_seed(2)
    assert terms.loss.item() == pytest.approx(as_objective(Trace_ELBO()).backward(model, guide, x).loss.item())
    for name, gradient in gradients().items():
        torch.testing.assert_close(ours[name], gradient)
    assert terms.totals(5)[:3].isnan().all()
    assert terms.totals(5)[3] == 5
    assert as_objective(objective) is objective


@pytest.mark.parametrize("value", [1.0, torch.zeros(2), None])
def test_a_callable_that_gives_no_scalar_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="Expected a scalar tensor from the objective; got"):
        as_objective(lambda model, guide: value)(lambda: None, lambda: None)


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected an objective, a Pyro ELBO or a callable; got str"):
        as_objective("Trace_ELBO")  # type: ignore[arg-type]


def sites(model: Callable[..., Any], *batch: Tensor) -> Any:
    return poutine.trace(model).get_trace(*batch).nodes.values()


def test_data_plate() -> None:
    model, _, (x,), _ = subsampled_pair()
    plate = data_plate(sites(model, x), len(x))
    assert plate is not None
    assert (plate.name, plate.size, plate.full_size) == ("data", 12, TOTAL)
    assert data_plate(sites(model, x), 13) is None
    assert data_plate(sites(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), 1) is None


def test_data_plate_is_not_mistaken_for_another_of_its_length() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", TOTAL, subsample=x, dim=-2), pyro.plate("pixels", 12, dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand((12, 12)), obs=x)

    plate = data_plate(sites(model, torch.zeros(12, 12)), 12)
    assert plate is not None
    assert plate.name == "rows"
