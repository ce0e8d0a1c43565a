"""Any ELBO that Pyro exports trains, is monitored and evaluated, or is refused before anything is trained."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.distributions import constraints
from torch.optim import SGD

from latentmix.inference import EarlyStopping, TrainingState, Weighted, evaluate, fit
from latentmix.inference.objectives.conversion import CallableObjective, as_objective
from latentmix.inference.objectives.elbos import TraceObjective

from tests.inference.pairs import (
    TOTAL,
    Pair,
    assert_equal_to_pyro,
    auxiliary_pair,
    chain_pair,
    data,
    gradients,
    score_function_pair,
    subsampled_pair,
    vae_pair,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "TraceTailAdaptive_ELBO": {"num_particles": 3, "vectorize_particles": True},
    "Trace_MMD": {"kernel": RBF(input_dim=8), "num_particles": 3},
    "RenyiELBO": {"num_particles": 3},
    "JitTraceEnum_ELBO": {"max_plate_nesting": 1, "strict_enumeration_warning": False},
    "TraceEnum_ELBO": {"strict_enumeration_warning": False},
    "TraceTMC_ELBO": {"strict_enumeration_warning": False},
}
EXPORTED = [
    name
    for name in pyro.infer.__all__
    if isinstance(kind := getattr(pyro.infer, name), type) and issubclass(kind, ELBO) and kind is not ELBO
]


def exported(name: str, **options: Any) -> ELBO:
    elbo: ELBO = getattr(pyro.infer, name)(**{**OPTIONS.get(name, {}), **options})
    return elbo


@pytest.mark.parametrize("particles", [1, 3], ids=["alone", "vectorised"])
@pytest.mark.parametrize("name", EXPORTED)
def test_every_elbo_of_pyro_fits_monitors_and_evaluates(name: str, particles: int) -> None:
    options = {"num_particles": 3, "vectorize_particles": True} if particles > 1 else {}
    elbo = exported(name, **options)
    model, guide, (x,), _ = vae_pair()
    expected = evaluate(model, guide, x, objective=Trace_ELBO(), seed=2).loss
    assert evaluate(model, guide, x, objective=elbo, seed=2).loss == pytest.approx(expected, abs=0.8)
    result = fit(
        model, guide, x, epochs=2, batch_size=4, objective=elbo, validation=x[:7], callbacks=[EarlyStopping(3)], seed=1
    )
    assert result.losses[0] == pytest.approx(expected, abs=0.8)
    assert result.validation_losses[0] == pytest.approx(expected, abs=0.8)
    monitored = fit(model, guide, x, epochs=1, batch_size=4, monitor=elbo, validation=x[:7], seed=1)
    assert monitored.losses[0] == pytest.approx(expected, abs=0.8)
    assert monitored.validation_losses[0] == pytest.approx(expected, abs=0.8)


@pytest.mark.parametrize("name", ["ReweightedWakeSleep", "TraceTailAdaptive_ELBO", "Trace_MMD"])
def test_evaluate_measures_the_elbo_for_other_losses(name: str) -> None:
    model, guide, (x,), _ = vae_pair()
    expected = evaluate(model, guide, x, objective=Trace_ELBO(), seed=2)
    assert evaluate(model, guide, x, objective=exported(name), seed=2) == expected
    assert evaluate(model, guide, x, objective=Weighted(exported(name)), seed=2) == expected


def test_wake_sleep_has_the_gradients_of_pyro() -> None:
    model, guide, batch, count = vae_pair()
    pyro.set_rng_seed(2)
    theta, phi = ReweightedWakeSleep(num_particles=3).loss_and_grads(model, guide, *batch)
    theirs = gradients()
    pyro.set_rng_seed(2)
    terms = as_objective(ReweightedWakeSleep(num_particles=3)).backward(model, guide, *batch)
    assert terms.loss.item() * count == pytest.approx(theta + phi)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient * count, theirs[name])


def test_compiled_elbos_run_as_the_eager_ones() -> None:
    assert isinstance(as_objective(JitTrace_ELBO()), TraceObjective)
    model, guide, (x,), _ = vae_pair()
    start = copy.deepcopy((model.__self__, guide))
    ours = fit(model, guide, x, epochs=2, batch_size=5, objective=JitTrace_ELBO(), seed=1)
    eager = fit(start[0].model, start[1], x, epochs=2, batch_size=5, objective=Trace_ELBO(), seed=1)
    assert ours.losses == eager.losses


def baseline_pair(baseline: Any, net: nn.Module | None = None) -> tuple[Callable[..., Any], ...]:
    """A global and a local Bernoulli latent, both with a baseline."""
    model, _, _, _ = score_function_pair()

    def guide(x: Tensor) -> None:
        q = pyro.param("q", torch.tensor(0.6, dtype=torch.float64), constraint=constraints.unit_interval)
        slope = pyro.param("slope", torch.tensor(0.5, dtype=torch.float64))
        local: Any = baseline
        if net is not None:
            pyro.module("net", net)
            local = {"nn_baseline": lambda x: net(x)[:, 0], "nn_baseline_input": x[:, None]}
        pyro.sample("switch", dist.Bernoulli(q), infer=infer(baseline))
        with pyro.plate("data", TOTAL, subsample=x):
            pyro.sample("side", dist.Bernoulli(logits=slope * x), infer=infer(local))
            pyro.sample("z", dist.Normal(slope * x, 0.5))

    return model, guide


def infer(baseline: Any) -> Any:
    return {"baseline": baseline}


AVERAGE = {"use_decaying_avg_baseline": True, "baseline_beta": 0.5}


@pytest.mark.parametrize(
    "options", [{}, {"num_particles": 2}, {"num_particles": 2, "vectorize_particles": True}], ids=str
)
def test_running_averages_are_those_of_pyro_step_by_step(options: dict[str, Any]) -> None:
    model, guide = baseline_pair(AVERAGE)
    theirs = []
    elbo = TraceGraph_ELBO(**options)
    for step in range(4):
        pyro.set_rng_seed(step)
        elbo.loss_and_grads(model, guide, data())
        theirs.append(gradients())
    pyro.clear_param_store()
    objective = as_objective(TraceGraph_ELBO(**options))
    for step in range(4):
        pyro.set_rng_seed(step)
        objective.backward(model, guide, data())
        for name, gradient in gradients().items():
            torch.testing.assert_close(gradient * TOTAL, theirs[step][name])
    assert not [name for name in pyro.get_param_store() if "baseline" in name]


def test_running_averages_are_state_and_no_parameters() -> None:
    """The last minibatch is shorter; a fit resumed from a file is equal bit for bit."""

    def run(epochs: int, state: TrainingState | None = None) -> Any:
        model, guide = baseline_pair(AVERAGE)
        return fit(
            model,
            guide,
            data(TOTAL),
            epochs=epochs,
            batch_size=30,
            objective=TraceGraph_ELBO(),
            optimizer=lambda leaves: SGD(leaves, lr=0.05),
            seed=3,
            state=state,
        )

    whole, half = run(4), run(2)
    assert set(whole.parameters) == {"shift", "q", "slope"}
    assert any(average.abs().sum() > 0 for average in half.state.buffers.values())
    file = io.BytesIO()
    torch.save(half.state.state_dict(), file)
    file.seek(0)
    resumed = run(4, TrainingState.from_state_dict(torch.load(file, weights_only=True)))
    assert resumed.losses == whole.losses
    assert all(torch.equal(value, whole.parameters[name]) for name, value in resumed.parameters.items())


def test_a_network_for_a_baseline_is_trained() -> None:
    torch.manual_seed(0)
    net = nn.Linear(1, 1).double()
    before = net.weight.clone()
    model, guide = baseline_pair(AVERAGE, net)
    result = fit(model, guide, data(TOTAL), epochs=2, batch_size=30, objective=TraceGraph_ELBO(), seed=3)
    assert "net$$$weight" in result.parameters
    assert not torch.equal(net.weight, before)


def wake_guide(x: Tensor, observations: Any = None) -> None:
    subsampled_pair()[1](x)


TAIL = TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True)
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "tail, one by one": (TraceTailAdaptive_ELBO(num_particles=3), vae_pair, "vectorize_particles==True"),
    "tail, discrete": (TAIL, score_function_pair, "TraceTailAdaptive_ELBO takes; got .*fully reparameterized"),
    "tail, subsample": (TAIL, subsampled_pair, "Expected all 100 data in one step for TraceTailAdaptive_ELBO"),
    "wake, subsample": (ReweightedWakeSleep(), subsampled_pair, "Expected all 100 data in one step for Reweighted"),
    "sleep": (ReweightedWakeSleep(insomnia=0.5), vae_pair, "guide.*observations=...*insomnia=1 leaves it out"),
    "MMD, discrete": (Trace_MMD(RBF(1)), score_function_pair, "not reparameterizable"),
    "Renyi, discrete": (RenyiELBO(num_particles=2), score_function_pair, "reparameterised guide at site 'switch'"),
    "Graph, enumerated": (TraceGraph_ELBO(), chain_pair, "an ELBO that enumerates 'first'.*got TraceGraph_ELBO"),
    "wake, enumerated": (ReweightedWakeSleep(), chain_pair, "an ELBO that enumerates 'first'.*got Reweighted"),
    "energy, discrete": (EnergyDistance(), score_function_pair, "fully reparametrized guides"),
    "a class": (Trace_ELBO, vae_pair, r"got the class Trace_ELBO: make one, Trace_ELBO\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_combinations_are_refused_before_training(case: str) -> None:
    objective, pair, message = REFUSED[case]
    model, guide, (x,), _ = pair()
    modules = [part for part in (getattr(model, "__self__", None), guide) if isinstance(part, nn.Module)]
    before = copy.deepcopy([part.state_dict() for part in modules])
    steps: list[int] = []

    def optimizer(leaves: Any) -> SGD:
        steps.append(1)
        return SGD(leaves, lr=0.1)

    full = TOTAL if pair is not vae_pair else len(x)
    seen = x if pair is vae_pair else data(full)
    with pytest.raises(ValueError, match=message):
        fit(model, guide, seen, epochs=1, batch_size=12, objective=objective, optimizer=optimizer)
    assert not steps
    for part, old in zip(modules, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in part.state_dict().items())


@pytest.mark.parametrize(
    "elbo", [ReweightedWakeSleep(), TAIL, TraceTMC_ELBO(), Trace_MMD(RBF(1))], ids=lambda elbo: type(elbo).__name__
)
def test_a_weighted_prior_is_refused_where_it_would_be_ignored_or_wrong(elbo: ELBO) -> None:
    for nested in (elbo, Weighted(elbo)):
        with pytest.raises(ValueError, match=rf"Expected beta=1 and warmup=0 for {type(elbo).__name__}"):
            Weighted(nested, beta=2.0)


class Unknown(Trace_ELBO):  # type: ignore[misc]
    """Half of Trace_ELBO, in code of its own."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss / 2, surrogate / 2


@pytest.mark.parametrize("elbo", [Unknown(), TraceGraph_ELBO()], ids=lambda elbo: type(elbo).__name__)
@pytest.mark.parametrize("pair", [vae_pair, subsampled_pair, auxiliary_pair])
def test_other_elbos_run_as_they_are(elbo: ELBO, pair: Callable[[], Pair]) -> None:
    terms = assert_equal_to_pyro(elbo, pair())
    assert terms.log_likelihood is None
    assert terms.kl is None


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
    assert all(map(math.isnan, terms.totals(5)[:3]))
    assert terms.totals(5)[3] == 5
    assert as_objective(objective) is objective


@pytest.mark.parametrize("value", [1.0, torch.zeros(2), None])
def test_a_callable_that_gives_no_scalar_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="Expected a scalar tensor from the objective; got"):
        as_objective(lambda model, guide: value)(lambda: None, lambda: None)


def test_other_objects_are_refused_as_objectives() -> None:
    with pytest.raises(ValueError, match="Expected an objective, a Pyro ELBO or a callable; got str"):
        as_objective("Trace_ELBO")  # type: ignore[arg-type]
