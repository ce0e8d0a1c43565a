from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from latentmix.inference import Callback, DivergenceError, TrainingState, fit
from latentmix.inference.compiled import objective as compiled_objective
from latentmix.inference.compiled.python_state import PythonState

from tests.inference.compiled.interpreter import interpreted
from tests.inference.svi.test_fit import fit_vae, make_pair
from tests.inference.svi.test_state import Pair, Recorder


class Poison(Callback):
    """Sets the data of given steps, counted from 0, to a value; serves as the transform too."""

    def __init__(self, *steps: int, value: float = math.nan) -> None:
        self.steps, self.value, self.step = steps, value, -1
        self.weights: list[dict[str, Tensor]] = []

    def on_fit_begin(self, state: TrainingState) -> None:
        self.step = 0

    def on_batch_end(self, state: TrainingState) -> None:
        self.step += 1
        self.weights.append(state.copy_weights())

    def __call__(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value) if self.step in self.steps else x


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_changes_neither_parameters_nor_buffers_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, binary_images: Tensor, value: float, compile: bool
) -> None:
    monkeypatch.setattr(compiled_objective, "compile_graph", interpreted)
    poison, state = Poison(1, 4, 5, value=value), TrainingState()
    pair = make_pair(batch_norm=True)
    message = r"skipped, the first at step 2, in epoch 1: the loss (nan|-?inf), because .* site '(z|x)' is"
    with pytest.warns(UserWarning, match=message):
        result = fit_vae(
            pair, binary_images[:48], epochs=3, transform=poison, callbacks=[poison], state=state, compile=compile
        )
    assert [record.skipped for record in result.history] == [1, 2, 0]
    assert all(math.isfinite(record.loss) for record in result.history)
    for bad in (1, 4, 5):
        before, after = poison.weights[bad - 1], poison.weights[bad]
        assert all(torch.equal(after[name], before[name]) for name in before)
    running = [name for name in poison.weights[0] if name.endswith("running_mean")]
    assert running
    for good in (0, 2, 3, 6):
        before = poison.weights[good - 1] if good else {}
        assert all(not torch.equal(poison.weights[good][name], before.get(name, torch.empty(0))) for name in running)
    assert state.skipped == 0


def test_only_good_steps_count_in_the_reported_bound(binary_images: Tensor) -> None:
    poison = Poison(1)
    with pytest.warns(UserWarning, match="skipped"):
        bad = fit_vae(make_pair(), binary_images[:32], epochs=1, transform=poison, callbacks=[poison])
    good = fit_vae(make_pair(), binary_images[:32], epochs=1)
    assert bad.history[0].loss != good.history[0].loss

    class First(Callback):
        loss = math.nan

        def on_batch_end(self, state: TrainingState) -> None:
            if state.batch == 1 and state.totals is not None:
                self.loss = -float(state.totals[0] / state.totals[3])

    first = First()
    fit_vae(make_pair(), binary_images[:32], epochs=1, callbacks=[first])
    assert bad.history[0].loss == first.loss


def kinked_model(x: Tensor) -> None:
    """A penalty with a value everywhere, and no gradient at a datum of 0."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    weight = pyro.param("weight", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", 20, subsample=x):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    pyro.factor("penalty", -(weight * x).abs().sqrt().mean())


def test_a_gradient_without_a_value_names_its_site_and_parameter() -> None:
    x = torch.linspace(0.0, 1.0, 20)
    message = r"a gradient, because the gradient of the model's log-density of site 'penalty' is not finite in 'weight'"
    with pytest.warns(UserWarning, match=message) as caught:
        result = fit(kinked_model, AutoNormal(kinked_model), x, epochs=4, batch_size=5, seed=0)
    assert sum("skipped" in str(warning.message) for warning in caught) == 1
    assert [record.skipped for record in result.history] == [1, 1, 1, 1]
    assert all(bool(value.isfinite().all()) for value in result.parameters.values())


def test_after_a_bound_the_fit_stops_at_its_last_good_state(binary_images: Tensor) -> None:
    poison, state = Poison(*range(4, 100)), TrainingState()
    pair = make_pair(batch_norm=True)
    message = r"Expected a finite loss with finite gradients; got the loss nan, .* at step 8, in epoch 3, as in the 3"
    with pytest.warns(UserWarning, match="step 5"), pytest.raises(DivergenceError, match=message):
        fit_vae(pair, binary_images[:48], epochs=5, transform=poison, callbacks=[poison], state=state, max_skipped=3)
    good = poison.weights[3]
    assert all(torch.equal(value, good[name]) for name, value in state.copy_weights().items())


def test_an_epoch_without_a_good_step_is_the_end(binary_images: Tensor) -> None:
    poison = Poison(3, 4, 5)
    with pytest.warns(UserWarning, match="step 4"), pytest.raises(DivergenceError, match="step 6, in epoch 2"):
        fit_vae(make_pair(), binary_images[:48], transform=poison, callbacks=[poison], max_skipped=50)


def test_steps_in_succession_only_count_towards_the_bound(binary_images: Tensor) -> None:
    poison = Poison(1, 4, 7)
    with pytest.warns(UserWarning, match="skipped"):
        result = fit_vae(make_pair(), binary_images[:48], transform=poison, callbacks=[poison], max_skipped=1)
    assert [record.skipped for record in result.history] == [1, 1, 1]


def test_a_good_fit_skips_nothing_and_warns_of_nothing(binary_images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit_vae(make_pair(), binary_images)
    assert [record.skipped for record in result.history] == [0, 0, 0]


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_gradients_are_clipped_by_their_common_norm(binary_images: Tensor, clip_norm: float) -> None:
    """Of SGD with learning rate 1, a step is as long as the gradient."""
    options: dict[str, Any] = {"epochs": 1, "batch_size": 40, "optimizer": partial(SGD, lr=1.0)}

    def change(**more: Any) -> Tensor:
        pair = make_pair()
        before = [leaf.detach().clone() for module in pair for leaf in module.parameters()]
        fit_vae(pair, binary_images[:40], **options, **more)
        after = [leaf.detach() for module in pair for leaf in module.parameters()]
        return torch.cat([(one - other).flatten() for one, other in zip(after, before, strict=True)])

    free, clipped = change(), change(clip_norm=clip_norm)
    norm = float(free.norm())
    assert norm > 0.5
    torch.testing.assert_close(clipped, free * min(1.0, clip_norm / norm), rtol=1e-4, atol=1e-6)


def test_a_schedule_by_steps(binary_images: Tensor) -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            assert state.optimizer is not None
            rates.append(state.optimizer.param_groups[0]["lr"])

    options: dict[str, Any] = {"epochs": 2, "scheduler": partial(ExponentialLR, gamma=0.5), "callbacks": [Rates()]}
    result = fit_vae(make_pair(), binary_images[:48], schedule_steps=True, **options)
    assert rates == [1e-3 * 0.5**step for step in range(1, 7)]
    assert [record.learning_rate for record in result.history] == [1e-3, 1e-3 * 0.5**3]
    with pytest.raises(ValueError, match="Expected a schedule that needs no loss for schedule_steps=True"):
        fit_vae(make_pair(), binary_images, scheduler=ReduceLROnPlateau, schedule_steps=True)


def test_resuming_with_clipping_and_a_schedule_by_steps_is_bit_for_bit(binary_images: Tensor) -> None:
    options: dict[str, Any] = {
        "scheduler": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
        "schedule_steps": True,
        "clip_norm": 3.0,
    }
    recorder = Recorder()
    pair = Pair(seed=1)
    whole = pair.fit(binary_images, callbacks=[recorder], **options)
    for name in list(recorder.saved)[::3]:
        state = TrainingState.from_state_dict(recorder.load(name))
        other = Pair(seed=2)
        assert other.fit(binary_images, state=state, **options).losses == whole.losses
        assert all(torch.equal(value, other.values()[key]) for key, value in pair.values().items())


def test_the_count_of_an_interrupted_epoch_is_resumed(binary_images: Tensor) -> None:
    poison, recorder = Poison(0), Recorder()
    with pytest.warns(UserWarning, match="skipped"):
        fit_vae(make_pair(), binary_images[:48], epochs=1, transform=poison, callbacks=[poison, recorder])
    state = TrainingState.from_state_dict(recorder.load("batch 0.2"))
    assert state.skipped == 1
    result = fit_vae(make_pair(), binary_images[:48], epochs=1, state=state)
    assert [record.skipped for record in result.history] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "Expected clip_norm as a positive number, or None for no bound; got 0.0"),
        ({"clip_norm": math.nan}, "Expected clip_norm as a positive number"),
        ({"max_skipped": -1}, "Expected max_skipped as a whole number of steps, 0 or more; got -1"),
    ],
)
def test_refusals(binary_images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_vae(make_pair(), binary_images, **options)


@pytest.mark.parametrize("observed", [False, True])
def test_python_values_are_compared_where_code_of_the_users_has_run(
    monkeypatch: pytest.MonkeyPatch, binary_images: Tensor, observed: bool
) -> None:
    """Between steps of a fit that is alone, in the first of an epoch and in every 20th."""
    monkeypatch.setattr(compiled_objective, "compile_graph", interpreted)
    compared: list[int] = []
    same = PythonState.same.fget
    assert same is not None
    monkeypatch.setattr(PythonState, "same", property(lambda self: (compared.append(1), same(self))[1]))
    x = binary_images[:1].repeat(50, 1, 1, 1)
    options: dict[str, Any] = {"callbacks": [Recorder()]} if observed else {}
    fit_vae(make_pair(), x, epochs=2, batch_size=1, compile=True, **options)
    assert len(compared) == (99 if observed else 5)  # the very first step is traced


def test_a_change_at_the_end_of_an_epoch_is_seen_by_a_fit_that_is_alone(
    monkeypatch: pytest.MonkeyPatch, binary_images: Tensor
) -> None:
    class Freeze(Callback):
        def on_epoch_end(self, state: TrainingState) -> None:
            pair[0].decoder.requires_grad_(False)

    monkeypatch.setattr(compiled_objective, "compile_graph", interpreted)
    weights = []
    for compile in (False, True):
        pair = make_pair()
        fit_vae(pair, binary_images, callbacks=[Freeze()], compile=compile)
        weights.append([leaf.detach().clone() for module in pair for leaf in module.parameters()])
    torch.testing.assert_close(*weights)


class Covariance:
    """A model with a density that needs a decomposition, and a guide that draws a component."""

    def __init__(self, poison: Poison, kind: str) -> None:
        self.poison, self.kind = poison, kind

    def model(self, x: Tensor) -> None:
        bad = self.poison.step in self.poison.steps
        pyro.sample("choice", dist.Categorical(logits=torch.zeros(2)))
        factor = -1.0 if bad and self.kind == "decomposition" else 1.0
        scale = pyro.param("scale", torch.ones(2))
        covariance = torch.diag(scale.square() * factor)
        if bad and self.kind == "shape":
            covariance = covariance @ torch.ones(3, 2)
        if bad and self.kind == "value":
            raise ValueError("Expected something else.")
        with pyro.plate("data", 8, subsample=x):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance), obs=x.nan_to_num())

    def guide(self, x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(2))
        bad = self.poison.step in self.poison.steps and self.kind == "draw"
        shift = x.mean() if self.kind == "data" else 0.0
        pyro.sample("choice", dist.Categorical(logits=logits * (math.nan if bad else 1.0) + shift))


@pytest.mark.parametrize(("kind", "name"), [("decomposition", "linalg.cholesky: The factorization"), ("draw", "inf")])
def test_a_step_whose_numbers_raise_an_error_is_skipped_and_named(kind: str, name: str) -> None:
    poison, x = Poison(2, 3), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    pair = Covariance(poison, kind)
    with pytest.warns(UserWarning, match=f"skipped, the first at step 3, in epoch 1: the error .*{name}"):
        result = fit(pair.model, pair.guide, x, epochs=2, batch_size=2, callbacks=[poison], seed=0)
    assert [record.skipped for record in result.history] == [2, 0]
    assert all(torch.equal(poison.weights[3][name], value) for name, value in poison.weights[1].items())
    assert not torch.equal(poison.weights[4]["scale"], poison.weights[3]["scale"])


def test_errors_in_succession_end_the_fit_at_its_last_good_state() -> None:
    poison, x = Poison(2, 3), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    pair = Covariance(poison, "decomposition")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(
            DivergenceError, match=r"finite gradients; got the error .*, at step 4, in epoch 1, as in the 1"
        ) as raised,
    ):
        fit(pair.model, pair.guide, x, epochs=2, batch_size=2, callbacks=[poison], seed=0, max_skipped=1)
    assert "Trace Shapes" not in str(raised.value)
    assert isinstance(raised.value.__context__, torch.linalg.LinAlgError)


def test_a_step_whose_data_raise_an_error_is_skipped() -> None:
    poison, x = Poison(2), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    pair = Covariance(poison, "data")
    with pytest.warns(UserWarning, match="the error .* in a minibatch with nan among its data"):
        result = fit(pair.model, pair.guide, x, epochs=2, batch_size=2, transform=poison, callbacks=[poison], seed=0)
    assert [record.skipped for record in result.history] == [1, 0]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("kind", "error"), [("shape", RuntimeError), ("value", ValueError)])
def test_an_error_that_is_none_of_numbers_is_raised(kind: str, error: type[Exception], missing: bool) -> None:
    poison, x = Poison(2), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    if missing:
        x[:, 0] = math.nan
    pair = Covariance(poison, kind)
    with pytest.raises(error, match=r"shapes cannot be multiplied|something else"):
        fit(pair.model, pair.guide, x, epochs=2, batch_size=2, callbacks=[poison], seed=0)
