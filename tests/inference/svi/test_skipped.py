"""What a skipped step leaves as it was, and what its warning says."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from latentmix.inference import DivergenceError, Objective, Terms, TrainingState, fit
from latentmix.inference.compiled import objective as compiled_objective
from latentmix.inference.objectives.conversion import as_objective
from latentmix.inference.svi.saved import StateError

from tests.inference.compiled.interpreter import interpreted
from tests.inference.svi.test_fit import fit_vae, make_pair
from tests.inference.svi.test_state import Recorder
from tests.inference.svi.test_steps import Poison

LENGTH = 20


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-1.0, 1.0, LENGTH).reshape(LENGTH, 1)


class Regression(nn.Module):
    """A latent by a network with buffers of four kinds: set in place, by normalisation, by power iteration, anew."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(spectral_norm(nn.Linear(1, 4)), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.mean: Tensor
        self.last: Tensor
        self.rebind = True

    def model(self, x: Tensor) -> None:
        pyro.module("regression", self)
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        if self.rebind:
            self.last = x.detach().mean()
        with pyro.plate("data", LENGTH, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(self.network(x)[:, 0] + z, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", LENGTH, subsample=x):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    def fit(self, x: Tensor, **options: Any) -> Any:
        return fit(self.model, self.guide, x, **{"epochs": 3, "batch_size": 5, "seed": 0, **options})


@pytest.mark.parametrize("compile", [False, True])
def test_buffers_of_all_kinds_are_those_before_a_skipped_step(
    monkeypatch: pytest.MonkeyPatch, x: Tensor, compile: bool
) -> None:
    monkeypatch.setattr(compiled_objective, "compile_graph", interpreted)
    poison, regression = Poison(2, 3), Regression()
    regression.rebind = not compile  # a graph has no buffer that is another tensor in every step
    with pytest.warns(UserWarning, match="skipped"):
        result = regression.fit(x, transform=poison, callbacks=[poison], compile=compile)
    assert result.compilation == ("compiled" if compile else "not compiled (compile=False)")
    assert "skipped steps  2, for numerical reasons" in repr(result)
    names = [name for name in poison.weights[0] if name.endswith(("mean", "var", "_u", "_v", "tracked"))]
    assert len(names) == 6
    for bad in (2, 3):
        assert all(torch.equal(poison.weights[bad][name], value) for name, value in poison.weights[bad - 1].items())
    changed = {name for name in names if not torch.equal(poison.weights[4][name], poison.weights[3][name])}
    assert {name.rpartition(".")[2] for name in changed} >= {"mean", "running_mean", "running_var", "_u"}


def test_a_buffer_that_a_callback_sets_is_kept_by_a_skipped_step(x: Tensor) -> None:
    regression = Regression()

    class Sets(Poison):
        def on_batch_end(self, state: TrainingState) -> None:
            super().on_batch_end(state)
            if self.step == 2:
                with torch.no_grad():
                    regression.mean.fill_(7.0)
            elif self.step == 3:
                self.mean = float(regression.mean)

    poison = Sets(2)
    with pytest.warns(UserWarning, match="skipped"):
        regression.fit(x, transform=poison, callbacks=[poison])
    assert poison.mean == 7.0


class Monitor(Objective):
    """The ELBO, without a value at one step."""

    def __init__(self, poison: Poison) -> None:
        self.poison = poison

    def terms(self, model: Any, guide: Any, *batch: Tensor) -> Terms:
        terms = as_objective(pyro.infer.Trace_ELBO()).terms(model, guide, *batch)
        assert terms.elbo is not None
        return terms._replace(elbo=terms.elbo * (math.nan if self.poison.step == 1 else 1.0))


def test_a_monitor_without_a_value_is_named(binary_images: Tensor) -> None:
    poison = Poison()
    with pytest.warns(UserWarning, match=r"step 2, in epoch 1: the reported ELBO nan\. "):
        result = fit_vae(make_pair(), binary_images[:48], callbacks=[poison], monitor=Monitor(poison))
    assert [record.skipped for record in result.history] == [1, 0, 0]


def test_a_loss_without_a_value_is_named_though_the_monitor_has_one(binary_images: Tensor) -> None:
    poison = Poison()

    def objective(model: Any, guide: Any, *batch: Tensor) -> Tensor:
        loss: Tensor = as_objective(pyro.infer.Trace_ELBO())(model, guide, *batch)
        return loss + (math.nan if poison.step == 1 else 0.0)

    with pytest.warns(UserWarning, match="step 2, in epoch 1: the loss nan"):
        result = fit_vae(make_pair(), binary_images[:48], callbacks=[poison], objective=objective)
    assert [record.skipped for record in result.history] == [1, 0, 0]


class Steep(nn.Module):
    """A penalty whose gradient has a square that overflows in float32."""

    def __init__(self, factor: float = 1e25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.factor = factor

    def model(self, x: Tensor) -> None:
        pyro.module("steep", self)
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", LENGTH, subsample=x):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])
        pyro.factor("penalty", -self.factor * self.weight.sum())


def test_gradients_whose_norm_overflows_are_clipped(x: Tensor) -> None:
    steep = Steep()
    optimizer = partial(torch.optim.SGD, lr=1.0)
    fit(steep.model, AutoNormal(steep.model), x, epochs=1, optimizer=optimizer, clip_norm=0.5, seed=0)
    torch.testing.assert_close(steep.weight.detach(), torch.full((2,), 1.0 - 0.5 / math.sqrt(2)))


class Masked(nn.Module):
    """Missing values under a mask, and a factor that loses its value when told."""

    def __init__(self, poison: Poison) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.poison, self.calls = poison, 0
        self.generator = torch.Generator().manual_seed(0)

    def model(self, x: Tensor) -> None:
        pyro.module("masked", self)
        self.calls += 1
        torch.rand(1, generator=self.generator)
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        observed: Any = x[:, 0] > 0
        with pyro.plate("data", LENGTH, subsample=x), poutine.mask(mask=observed):
            pyro.sample("x", dist.Normal(loc.expand(len(x)), 1.0).mask(observed), obs=x[:, 0])
        pyro.factor("penalty", -self.weight * (math.nan if self.poison.step == 1 else 1.0))


def test_the_site_is_named_whose_density_counts(x: Tensor) -> None:
    poison = Poison()
    masked = Masked(poison)
    with pytest.warns(UserWarning, match="because the model's log-density of site 'penalty' is nan"):
        fit(masked.model, AutoNormal(masked.model), x, epochs=1, batch_size=5, callbacks=[poison], seed=0)


def test_a_minibatch_without_values_is_named_and_its_plate_is_not(x: Tensor) -> None:
    poison, regression = Poison(2), Regression()
    message = r"because the model's log-density of site 'x' is nan, in a minibatch with nan among its data\."
    with pytest.warns(UserWarning, match=message):
        regression.fit(x, transform=poison, callbacks=[poison])


def test_a_diagnosis_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    """Losses, counters and generators are those of a fit in which nothing is looked for."""

    def run() -> tuple[list[float], int, Tensor, Tensor]:
        poison = Poison()
        masked, state = Masked(poison), TrainingState()
        guide = AutoNormal(masked.model)
        with pytest.warns(UserWarning, match="skipped"):
            losses = fit(masked.model, guide, x, epochs=2, batch_size=5, callbacks=[poison], seed=0, state=state).losses
        assert state.random is not None
        return losses, masked.calls, masked.generator.get_state(), state.random.torch

    with_diagnosis = run()
    monkeypatch.setattr("latentmix.inference.svi.steps.find_fault", lambda *_: "a fault")
    without = run()
    assert with_diagnosis[:2] == without[:2]
    assert all(map(torch.equal, with_diagnosis[2:], without[2:]))


def test_the_warning_points_at_the_call_of_fit(x: Tensor) -> None:
    poison = Poison(2)
    with pytest.warns(UserWarning, match="skipped") as caught:
        fit_vae(make_pair(), torch.ones(48, 1, 8, 8), transform=poison, callbacks=[poison])
    (warning,) = [each for each in caught if "skipped" in str(each.message)]
    assert warning.filename.endswith("test_fit.py")


def divergence(images: Tensor, **options: Any) -> str:
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DivergenceError) as raised:
        fit_vae(make_pair(), images[:48], epochs=5, max_skipped=3, **options)
    return str(raised.value)


def test_a_resumed_fit_ends_at_the_same_step(binary_images: Tensor) -> None:
    class Later(Poison):
        def on_fit_begin(self, state: TrainingState) -> None:
            self.step = state.epoch * 3 + state.batch

    poison, recorder = Later(*range(5, 100)), Recorder()
    whole = divergence(binary_images, transform=poison, callbacks=[poison, recorder])
    assert "at step 9, in epoch 3, as in the 3 steps before" in whole
    for name in ("batch 1.3", "epoch 2", "batch 2.1"):
        later = Later(*range(5, 100))
        state = TrainingState.from_state_dict(recorder.load(name))
        assert divergence(binary_images, transform=later, callbacks=[later], state=state) == whole


def test_the_state_of_a_fit_that_diverged_can_be_resumed(binary_images: Tensor) -> None:
    poison, state = Poison(0, 1, 2), TrainingState()
    options: dict[str, Any] = {"transform": poison, "callbacks": [poison], "state": state, "max_skipped": 2}
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DivergenceError):
        fit_vae(make_pair(), binary_images, **options)
    resumed = TrainingState.from_state_dict(state.state_dict())
    assert (resumed.batch, resumed.skipped) == (2, 2)
    result = fit_vae(make_pair(), binary_images, state=resumed)
    assert [record.skipped for record in result.history] == [2, 0, 0]


def test_a_damaged_count_is_refused(binary_images: Tensor) -> None:
    recorder = Recorder()
    fit_vae(make_pair(), binary_images[:48], epochs=1, callbacks=[recorder])
    for name in ("skipped", "skipped_in_succession"):
        with pytest.raises(StateError, match="skipped steps"):
            TrainingState.from_state_dict({**recorder.load("batch 0.2"), name: -1})
    earlier = {key: value for key, value in recorder.load("batch 0.2").items() if not key.startswith("skipped")}
    assert TrainingState.from_state_dict(earlier).skipped == 0


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_schedule_warns_of_nothing_where_the_first_step_is_skipped_or_a_fit_is_resumed(
    binary_images: Tensor, by_steps: bool
) -> None:
    poison, recorder = Poison(0), Recorder()
    options: dict[str, Any] = {"scheduler": partial(ExponentialLR, gamma=0.9), "schedule_steps": by_steps, "epochs": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_vae(make_pair(), binary_images[:48], transform=poison, callbacks=[poison, recorder], **options)
    assert ["skipped" in str(warning.message) for warning in caught] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = TrainingState.from_state_dict(recorder.load("batch 0.2"))
        fit_vae(make_pair(), binary_images[:48], state=state, **options)


@pytest.mark.parametrize(("by_steps", "total", "unit"), [(True, 8, "9 at least, the minibatches"), (False, 2, "3 at")])
def test_a_schedule_that_ends_before_the_fit_is_refused(
    binary_images: Tensor, by_steps: bool, total: int, unit: str
) -> None:
    def run(total: int) -> None:
        scheduler = partial(OneCycleLR, max_lr=0.1, total_steps=total)
        fit_vae(make_pair(), binary_images[:48], scheduler=scheduler, schedule_steps=by_steps)

    with pytest.raises(ValueError, match=f"Expected total_steps of OneCycleLR of {unit}"):
        run(total)
    run(total + 1)


def test_steps_of_no_schedule_are_refused(binary_images: Tensor) -> None:
    with pytest.raises(ValueError, match="schedule_steps=True; got none: pass a scheduler"):
        fit_vae(make_pair(), binary_images[:48], schedule_steps=True)
