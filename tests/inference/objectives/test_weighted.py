from __future__ import annotations

import copy
import io
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from latentmix.guides import AmortizedGuide, ConvEncoder
from latentmix.inference import Callback, FreeBits, TrainingState, Weighted, as_objective, fit
from latentmix.inference.objectives.conversion import bound_of
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.pairs import assert_traceable, gradients, local_pair, subsampled_pair

ELBOS: dict[str, tuple[ELBO, str]] = {
    "Trace_ELBO": (Trace_ELBO(max_plate_nesting=1), "normal"),
    "Trace_ELBO, vectorised": (Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True), "normal"),
    "Trace_ELBO, collapsed mixture": (Trace_ELBO(max_plate_nesting=1), "collapsed"),
    "Trace_ELBO, score function": (Trace_ELBO(max_plate_nesting=1), "discrete"),
    "TraceMeanField_ELBO": (TraceMeanField_ELBO(max_plate_nesting=1), "normal"),
    "TraceEnum_ELBO": (TraceEnum_ELBO(max_plate_nesting=1), "mixture"),
    "TraceEnum_ELBO, score function": (TraceEnum_ELBO(max_plate_nesting=1), "discrete"),
}


@pytest.mark.parametrize("beta", [0.25, 4.0])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_the_weight_is_poutine_scale_on_both_sides(name: str, warm: bool, beta: float) -> None:
    """Loss and gradient of Pyro's ELBO with the latents scaled by hand; reported is the ELBO at beta = 1."""
    elbo, prior = ELBOS[name]
    model, guide, batch, count = local_pair(prior, weight=beta)
    copy.copy(elbo).loss(model, guide, *batch)
    pyro.set_rng_seed(2)
    loss = copy.copy(elbo).loss_and_grads(model, guide, *batch)
    theirs = gradients()
    plain, guide, batch, _ = local_pair(prior)
    objective = Weighted(elbo, beta=2 * beta, warmup=4) if warm else Weighted(elbo, beta=beta)
    objective.begin_step(2.0)
    pyro.set_rng_seed(2)
    terms = objective.backward(plain, guide, *batch)
    ours = gradients()
    assert terms.loss.item() * count == pytest.approx(loss, rel=1e-9)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key] * count, value, rtol=1e-8, atol=1e-10)
    pyro.set_rng_seed(2)
    for part, expected in zip(terms[1:], as_objective(elbo).terms(plain, guide, *batch)[1:], strict=True):
        torch.testing.assert_close(part, expected)


def test_a_weight_of_one_changes_nothing() -> None:
    model, guide, batch, _ = local_pair("normal")
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(), RenyiELBO(num_particles=3)):
        for warmup in (0, 3) if not isinstance(elbo, RenyiELBO) else (0,):
            pyro.set_rng_seed(2)
            expected = as_objective(elbo).terms(model, guide, *batch)
            pyro.set_rng_seed(2)
            torch.testing.assert_close(Weighted(elbo, warmup=warmup).terms(model, guide, *batch), expected)


def test_weights_multiply() -> None:
    model, guide, batch, _ = local_pair("normal")
    nested = Weighted(Weighted(TraceMeanField_ELBO(), beta=2.0), beta=3.0)
    pyro.set_rng_seed(2)
    ours = nested.terms(model, guide, *batch)
    pyro.set_rng_seed(2)
    torch.testing.assert_close(ours, Weighted(TraceMeanField_ELBO(), beta=6.0).terms(model, guide, *batch))


def test_the_bound_of_a_weighted_objective_is_unweighted() -> None:
    inner = as_objective(TraceMeanField_ELBO())
    assert bound_of(Weighted(inner, beta=3.0)) is inner
    assert isinstance(bound_of(Weighted(TraceGraph_ELBO(), beta=3.0)).elbo, Trace_ELBO)  # type: ignore[attr-defined]


def test_an_elbo_that_does_not_split_its_bound_reports_none() -> None:
    model, guide, batch, count = local_pair("normal", weight=3.0)
    pyro.set_rng_seed(2)
    loss = TraceGraph_ELBO().loss(model, guide, *batch)
    model, guide, batch, _ = local_pair("normal")
    pyro.set_rng_seed(2)
    terms = Weighted(TraceGraph_ELBO(), beta=3.0).terms(model, guide, *batch)
    assert terms.loss.item() * count == pytest.approx(loss)
    assert terms[1:] == (None, None, None)


def make_pair(seed: int = 1) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(seed)
    encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
    decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
    return VAE(decoder, StandardNormal(2), Bernoulli()), AmortizedGuide(encoder=encoder)


class Weights(Callback):
    """Keeps the weight of every step, and the state in the middle of the warm-up."""

    def __init__(self, objective: Weighted) -> None:
        self.objective = objective
        self.seen: list[float] = []
        self.saved = io.BytesIO()

    def on_batch_end(self, state: TrainingState) -> None:
        self.seen.append(self.objective.weight)
        if len(self.seen) == 4:
            torch.save(state.state_dict(), self.saved)
            self.saved.seek(0)


def run(images: Tensor, objective: Any, pair: tuple[VAE, AmortizedGuide] | None = None, **options: Any) -> Any:
    vae, guide = make_pair() if pair is None else pair
    arguments = {"epochs": 3, "batch_size": 16, "seed": 5, "validation": images[:10], **options}
    return fit(vae.model, guide, images, objective=objective, **arguments)


def test_a_warm_up_is_resumed_within_it(binary_images: Tensor) -> None:
    """40 images in batches of 16 are three steps an epoch."""
    objective = Weighted(Trace_ELBO(), beta=3.0, warmup=2)
    weights = Weights(objective)
    whole = run(binary_images, objective, callbacks=[weights])
    assert weights.seen == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0, 3.0])
    state = TrainingState.from_state_dict(torch.load(weights.saved, weights_only=True))
    again = Weighted(Trace_ELBO(), beta=3.0, warmup=2)
    rest = Weights(again)
    resumed = run(binary_images, again, make_pair(2), state=state, callbacks=[rest])
    assert rest.seen == weights.seen[4:]
    assert resumed.losses == whole.losses
    assert resumed.validation_losses == whole.validation_losses
    assert all(torch.equal(value, whole.parameters[name]) for name, value in resumed.parameters.items())


def test_reports_at_beta_one_take_no_second_pass(binary_images: Tensor) -> None:
    """Nothing moves (rate 0), so that the reports of any weight are those of weight 1, in training and validation."""

    def frozen(objective: Any) -> tuple[Any, int]:
        vae, guide = make_pair()
        calls = []

        def model(x: Tensor) -> Tensor:
            calls.append(len(x))
            return vae.model(x)

        def still(leaves: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(leaves, lr=0.0)

        options = {"epochs": 2, "batch_size": 16, "seed": 5, "validation": binary_images}
        return fit(model, guide, binary_images, objective=objective, optimizer=still, **options), len(calls)

    plain, calls = frozen(Weighted(TraceMeanField_ELBO()))
    assert calls == 3 + 2 * (3 + 3)  # three to look at the problem; three minibatches, and three of validation
    for objective in (Weighted(TraceMeanField_ELBO(), beta=7.0, warmup=1.5), FreeBits(2.0)):
        other, calls = frozen(objective)
        assert other.losses == pytest.approx(plain.losses, rel=1e-5)
        assert other.validation_losses == pytest.approx(plain.validation_losses, rel=1e-6)
        assert calls == 3 + 2 * (3 + 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, r"Expected a weight beta > 0; got 0\.0"),
        ({"beta": -1.0}, "beta > 0; got -1"),
        ({"beta": float("nan")}, "beta > 0; got nan"),
        ({"warmup": -1}, "Expected a warmup of at least 0 epochs; got -1"),
    ],
)
def test_bad_weights_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Weighted(Trace_ELBO(), **arguments)


@pytest.mark.parametrize("arguments", [{"beta": 2.0}, {"warmup": 1}])
def test_weighted_renyi_bounds_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected beta=1 and warmup=0 for RenyiELBO.*: use Trace_ELBO"):
        Weighted(RenyiELBO(), **arguments)
    with pytest.raises(ValueError, match="Expected beta=1 and warmup=0 for RenyiELBO"):
        Weighted(Weighted(RenyiELBO()), **arguments)


@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO"])
def test_weighted_objectives_can_be_traced(name: str) -> None:
    elbo, prior = ELBOS[name]
    assert_traceable(Weighted(elbo, beta=2.0), local_pair(prior))


def test_the_weight_of_a_warm_up_is_not_constant_in_a_traced_graph() -> None:
    model, guide, (x,), _ = local_pair("normal")
    objective = Weighted(TraceMeanField_ELBO(), beta=2.0, warmup=4)
    objective(model, guide, x)
    with pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.terms(model, guide, x)[:3])(x)
    for epochs in (1.0, 3.0):
        objective.begin_step(epochs)
        pyro.set_rng_seed(3)
        traced = graph(x)
        pyro.set_rng_seed(3)
        torch.testing.assert_close(traced, objective.terms(model, guide, x)[:3])


def test_sites_outside_the_data_plate_are_weighted_too() -> None:
    model, guide, (x,), _ = subsampled_pair()
    pyro.set_rng_seed(2)
    plain = as_objective(TraceMeanField_ELBO()).terms(model, guide, x)
    pyro.set_rng_seed(2)
    terms = Weighted(TraceMeanField_ELBO(), beta=5.0).terms(model, guide, x)
    assert plain.log_likelihood is not None
    assert plain.kl is not None
    assert terms.loss.item() == pytest.approx((5 * plain.kl - plain.log_likelihood).item(), rel=1e-9)
