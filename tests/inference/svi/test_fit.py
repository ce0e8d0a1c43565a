from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from latentmix.guides import AmortizedGuide, ConvEncoder, MLPEncoder
from latentmix.inference import Callback, DivergenceError, EarlyStopping, SVIResult, TrainingState, evaluate, fit
from latentmix.inference.objectives.base import Objective, Terms
from latentmix.inference.objectives.conversion import as_objective
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.normal import normal_data, normal_model


def make_pair(seed: int = 1, batch_norm: bool = False) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(seed)
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    if batch_norm:
        return vae, AmortizedGuide(encoder=ConvEncoder(2, (3, 4), (1, 8, 8), batch_norm=(False, True)))
    return vae, AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)))


def fit_vae(pair: tuple[VAE, AmortizedGuide], images: Tensor, **options: Any) -> SVIResult:
    arguments = {"epochs": 3, "batch_size": 16, "seed": 5, **options}
    return fit(pair[0].model, pair[1], images, **arguments)


def plain_model(x: Tensor) -> None:
    normal_model(1_000)(x)


def plain_guide(x: Tensor) -> None:
    loc = pyro.param("m", lambda: torch.randn((), dtype=x.dtype))
    scale = pyro.param("s", torch.ones((), dtype=x.dtype), constraint=dist.constraints.positive)
    pyro.sample("loc", dist.Normal(loc, scale))


def fit_plain(shift: float) -> SVIResult:
    return fit(plain_model, plain_guide, normal_data(1_000) + shift, epochs=2, batch_size=50, seed=3)


def fit_autoguide(shift: float) -> SVIResult:
    model = normal_model(1_000)
    return fit(model, AutoNormal(model), normal_data(1_000) + shift, epochs=2, batch_size=50, seed=3)


def fit_module(shift: float) -> SVIResult:
    torch.manual_seed(int(shift))
    images = torch.bernoulli(torch.full((40, 1, 8, 8), 0.3))
    return fit_vae(make_pair(seed=2 + int(shift), batch_norm=True), images, epochs=2)


@pytest.mark.parametrize("kind", [fit_plain, fit_autoguide, fit_module])
def test_same_seed_same_losses_and_a_then_b_is_b_alone(kind: Callable[[float], SVIResult]) -> None:
    alone = kind(1.0)
    kind(0.0)
    torch.randn(17)
    after = kind(1.0)
    assert after.losses == alone.losses
    assert after.parameters.keys() == alone.parameters.keys()
    assert all(torch.equal(value, alone.parameters[name]) for name, value in after.parameters.items())
    assert kind(0.0).losses != alone.losses


def test_initial_tensors_of_parameters_are_not_trained() -> None:
    """pyro.param uses an unconstrained tensor itself as its leaf: a second fit would begin where the first ended."""
    start = torch.zeros((), dtype=torch.float64)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", start), 1.0))

    def run() -> SVIResult:
        return fit(normal_model(100), guide, normal_data(100), epochs=3, batch_size=20, seed=3)

    first = run()
    assert first.parameters["m"] != 0
    assert start == 0
    assert not start.requires_grad
    assert run().losses == first.losses


def test_seed(binary_images: Tensor) -> None:
    by_chance = fit_vae(make_pair(), binary_images, seed=None)
    assert fit_vae(make_pair(), binary_images, seed=by_chance.seed).losses == by_chance.losses
    assert fit_vae(make_pair(), binary_images, seed=None).seed != by_chance.seed
    assert fit_vae(make_pair(), binary_images).seed == 5


def test_result(binary_images: Tensor) -> None:
    vae, guide = make_pair()
    result = fit_vae((vae, guide), binary_images, validation=binary_images[:10])
    assert len(result.losses) == len(result.validation_losses) == 3
    assert all(type(loss) is float for loss in result.losses)
    assert [record.epoch for record in result.history] == [1, 2, 3]
    assert result.seconds >= sum(record.seconds for record in result.history) > 0
    for record in result.history:
        assert record.loss == record.training.loss == pytest.approx(record.training.kl - record.training.log_likelihood)
        assert record.learning_rate == 1e-3
    assert not result.stopped_early
    for name, parameter in vae.named_parameters():
        assert torch.equal(result.parameters[f"vae$$${name}"], parameter)
    assert set(result.parameters) == {f"vae$$${n}" for n, _ in vae.named_parameters()} | {
        f"guide$$${n}" for n, _ in guide.named_parameters()
    }
    assert fit_vae(make_pair(), binary_images).validation_losses == []


def test_training_lowers_the_loss_and_moves_every_parameter(binary_images: Tensor) -> None:
    pair = make_pair(batch_norm=True)
    before = {name: value.clone() for part in pair for name, value in part.named_parameters()}
    result = fit_vae(pair, binary_images, epochs=25, optimizer=lambda leaves: Adam(leaves, lr=0.01, fused=True))
    assert result.losses[-1] < 0.9 * result.losses[0]
    for part in pair:
        for name, value in part.named_parameters():
            assert not torch.equal(value, before[name]), name


def test_losses_are_means_over_data_of_minibatches_of_any_size() -> None:
    """At learning rate 0 and without draws the loss is exact, the incomplete last minibatch included."""
    seen: list[int] = []

    def model(x: Tensor, y: Tensor) -> None:
        seen.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros((), dtype=x.dtype)), 1.0), obs=x + y)

    x = normal_data(40)
    result = fit(
        model, lambda x, y: None, (x, 0.5 * x), epochs=2, batch_size=16, optimizer=lambda p: SGD(p, lr=0.0), seed=0
    )
    expected = -dist.Normal(0.0, 1.0).log_prob(1.5 * x).mean().item()
    assert result.losses == pytest.approx([expected, expected], rel=1e-12)
    assert seen[-6:] == [16, 16, 8, 16, 16, 8]


def test_every_datum_once_an_epoch_in_a_new_order() -> None:
    orders: list[list[float]] = [[]]

    class Epochs(Callback):
        def on_epoch_end(self, state: TrainingState) -> None:
            orders.append([])

    def note(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(2 * x, y)
        orders[-1].extend(x.tolist())
        return x, y

    def model(x: Tensor, y: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(())), 1.0).expand((len(x),)).to_event(1), obs=x)

    x = torch.arange(20.0)
    fit(model, lambda x, y: None, (x, 2 * x), epochs=3, batch_size=8, transform=note, callbacks=[Epochs()], seed=0)
    epochs = [order[-20:] for order in orders[:3]]
    assert all(sorted(order) == x.tolist() for order in epochs)
    assert len({tuple(order) for order in [*epochs, x.tolist()]}) == 4


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_any_optimizer_and_schedule(binary_images: Tensor, optimizer: type[SGD]) -> None:
    result = fit_vae(
        make_pair(),
        binary_images,
        optimizer=lambda leaves: optimizer(leaves, lr=0.01),
        scheduler=lambda made: StepLR(made, step_size=1, gamma=0.5),
    )
    assert [record.learning_rate for record in result.history] == [0.01, 0.005, 0.0025]


def test_sgd_step_is_a_step_along_the_gradient_of_the_mean() -> None:
    x = normal_data(40)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros((), dtype=x.dtype)), 1.0), obs=x)

    result = fit(model, lambda x: None, x, epochs=1, optimizer=lambda leaves: SGD(leaves, lr=0.1), seed=0)
    assert result.parameters["m"].item() == pytest.approx(0.1 * x.mean().item(), rel=1e-12)


def test_plateau_schedule_watches_the_validation_loss(binary_images: Tensor) -> None:
    result = fit_vae(
        make_pair(),
        binary_images,
        epochs=4,
        validation=binary_images[:10],
        scheduler=lambda made: ReduceLROnPlateau(made, factor=0.1, patience=0, threshold=1e6, threshold_mode="abs"),
    )
    rates = [record.learning_rate for record in result.history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


def test_validation_is_evaluate_at_the_end_of_the_epoch(binary_images: Tensor) -> None:
    vae, guide = make_pair(batch_norm=True)
    held_out = binary_images[:11]
    result = fit_vae((vae, guide), binary_images, validation=held_out)
    last = result.history[-1].validation
    assert last == evaluate(vae.model, guide, held_out, batch_size=16)
    assert result.losses == fit_vae(make_pair(batch_norm=True), binary_images).losses


def test_early_stopping_in_a_fit(binary_images: Tensor) -> None:
    pair = make_pair()
    stopping = EarlyStopping(patience=2)
    result = fit_vae(
        pair,
        binary_images,
        epochs=50,
        validation=1 - binary_images,
        optimizer=lambda leaves: Adam(leaves, lr=0.05),
        callbacks=[stopping],
    )
    best = min(range(len(result.history)), key=result.validation_losses.__getitem__)
    assert result.stopped_early
    assert len(result.history) == best + 3 < 50
    assert stopping.best_epoch == best + 1
    restored = evaluate(pair[0].model, pair[1], 1 - binary_images, batch_size=16)
    assert restored == result.history[best].validation
    assert torch.equal(result.parameters["vae$$$decoder.out.bias"], pair[0].decoder.out.bias)


def test_callbacks_are_called_in_order(binary_images: Tensor) -> None:
    calls: list[Any] = []

    class Log(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            calls.append((state.epoch, state.batch))

        def on_epoch_end(self, state: TrainingState) -> bool:
            calls.append(f"epoch {state.history[-1].epoch}")
            assert state.epoch == len(state.history)
            return state.epoch == 2

        def on_fit_end(self, state: TrainingState) -> None:
            calls.append("end")

    result = fit_vae(make_pair(), binary_images, epochs=9, callbacks=[Callback(), Log()])
    assert calls == [(0, 1), (0, 2), (0, 3), "epoch 1", (1, 1), (1, 2), (1, 3), "epoch 2", "end"]
    assert result.stopped_early


def test_frozen_parts_stay(binary_images: Tensor) -> None:
    vae, guide = make_pair(batch_norm=True)
    norm = next(part for part in guide.modules() if isinstance(part, nn.BatchNorm2d))
    guide.eval().head.train()
    norm.requires_grad_(False)
    vae.eval().decoder.out.requires_grad_(False)
    modes = [part.training for part in (*vae.modules(), *guide.modules())]
    frozen = nn.ModuleList([norm, vae.decoder.out])
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    moving = guide.head.loc.weight.detach().clone()
    fit_vae((vae, guide), binary_images, validation=binary_images[:10])
    assert [part.training for part in (*vae.modules(), *guide.modules())] == modes
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not torch.equal(guide.head.loc.weight, moving)


@pytest.mark.parametrize("objective", [Trace_ELBO(), RenyiELBO(num_particles=2)], ids=lambda elbo: type(elbo).__name__)
def test_modules_that_are_not_registered_with_pyro_are_trained_once(objective: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc + pyro.param("zero", torch.zeros(())), 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model: Model) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> None:
            pass

    model, x = Model(), normal_data(40)
    fit(model, Guide(model), x, epochs=1, objective=objective, optimizer=lambda p: SGD(p, lr=0.1), seed=0)
    assert model.loc.item() == pytest.approx(0.1 * x.mean().item(), rel=1e-6)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO, RenyiELBO])
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_every_objective_trains(binary_images: Tensor, kind: type[Any]) -> None:
    result = fit_vae(
        make_pair(), binary_images, epochs=20, objective=kind(), optimizer=lambda leaves: Adam(leaves, lr=0.01)
    )
    assert result.losses[-1] < 0.95 * result.losses[0]


def test_a_callable_objective_is_monitored_at_beta_one(binary_images: Tensor) -> None:
    elbo = as_objective(TraceMeanField_ELBO())

    def annealed(model: Any, guide: Any, x: Tensor) -> Tensor:
        with pyro.poutine.scale(scale=0.5):
            return 3 * elbo(model, guide, x)

    pair = make_pair()
    result = fit_vae(pair, binary_images, objective=annealed, optimizer=lambda leaves: SGD(leaves, lr=0.0))
    draws = torch.tensor([evaluate(pair[0].model, pair[1], binary_images, seed=seed).loss for seed in range(20)])
    assert result.losses == pytest.approx([draws.mean().item()] * 3, abs=6 * draws.std().item())


def test_an_objective_without_a_bound_is_monitored(binary_images: Tensor) -> None:
    class Silent(Objective):
        def terms(self, model: Any, guide: Any, *batch: Tensor) -> Terms:
            return Terms(as_objective(Trace_ELBO())(model, guide, *batch), None, None, None)

    result = fit_vae(make_pair(), binary_images, objective=Silent())
    assert all(math.isfinite(loss) for loss in result.losses)


def test_training_under_no_grad_trains(binary_images: Tensor) -> None:
    with torch.no_grad():
        pair = make_pair()
        quiet = fit_vae(pair, binary_images)
    assert quiet.losses == fit_vae(make_pair(), binary_images).losses


def test_divergence(binary_images: Tensor) -> None:
    state = TrainingState()
    sentence = r"Expected a finite loss with finite gradients; got .* in epoch 1: lower the learning rate"
    with pytest.raises(DivergenceError, match=sentence):
        fit_vae(make_pair(), binary_images, optimizer=lambda leaves: SGD(leaves, lr=1e30), max_skipped=0, state=state)
    assert state.history == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "Expected epochs and batch_size of at least 1; got 0 and 16"),
        ({"batch_size": 0}, "Expected epochs and batch_size of at least 1; got 3 and 0"),
        ({"validation": torch.zeros(0, 1, 8, 8)}, "at least one datum"),
        ({"objective": "Trace_ELBO"}, "Expected an objective, a Pyro ELBO or a callable; got str"),
        ({"seed": -1}, "Expected .*seed"),
        ({"validation": torch.full((3, 1, 8, 8), 0.5)}, "zeros and ones for Bernoulli"),
    ],
)
def test_bad_options_are_refused(binary_images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_vae(make_pair(), binary_images, **options)


def test_bad_data_are_refused(binary_images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"one length.*\[39, 40\]"):
        fit_vae(make_pair(), (binary_images, binary_images[:39]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zeros and ones for Bernoulli"):
        fit_vae(make_pair(), 0.5 * binary_images)
    with pytest.raises(ValueError, match="Expected a model or a guide with parameters to train; got none"):
        fit(normal_model(3), lambda x: pyro.sample("loc", dist.Normal(0.0, 1.0)), torch.zeros(3), epochs=1)


def test_validation_of_arguments_is_on_for_the_first_step_alone(binary_images: Tensor) -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(pyro.settings.get("validate_distributions_torch"))
        return x

    fit_vae(make_pair(), binary_images, epochs=1, transform=look)
    assert seen == [True, True, False, False, False]  # the first minibatch, the check of all data, three steps


class Undrawn(dist.Categorical):
    """A distribution that cannot be drawn from."""

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        raise AssertionError("drawn")


class UndrawnOneHot(dist.OneHotCategorical):
    """Another, whose values are vectors."""

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        raise AssertionError("drawn")


@pytest.mark.parametrize("kind", [Undrawn, UndrawnOneHot])
def test_sites_that_are_enumerated_are_never_drawn(kind: Any) -> None:
    """A draw for every datum takes longer than a step."""
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))

    def model(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", 20, subsample=x):
            k = pyro.sample("k", kind(torch.ones(3) / 3), infer={"enumerate": "parallel"})
            own = loc[k] if kind is Undrawn else (k * loc).sum(-1)
            pyro.sample("x", dist.Normal(own, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("loc", dist.Delta(pyro.param("at", torch.arange(3.0)), event_dim=1))

    result = fit(model, guide, x, epochs=2, batch_size=10, objective=TraceEnum_ELBO(max_plate_nesting=1), seed=0)
    assert len(result.losses) == 2
