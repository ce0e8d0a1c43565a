from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import (
    Callback,
    DivergenceError,
    EarlyStopping,
    FreeBits,
    TrainingState,
    Weighted,
    evaluate,
    fit,
)
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.svi.test_callbacks import record
from tests.inference.svi.test_fit import fit_vae, make_pair
from tests.inference.svi.test_state import Recorder


class Explode(Callback):
    """Sets the weights to NaN at a minibatch."""

    def __init__(self, epoch: int, value: float = math.nan, last: bool = False) -> None:
        self.epoch, self.value, self.last = epoch, value, last

    def on_batch_end(self, state: TrainingState) -> None:
        if state.epoch == self.epoch and state.batch == (state.batches if self.last else 1):
            with torch.no_grad():
                for leaf in state.parameters.values():
                    leaf.fill_(self.value)


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_best_weights_are_restored_after_a_divergence(binary_images: Tensor, validation: bool, last: bool) -> None:
    state, stopping, recorder = TrainingState(), EarlyStopping(), Recorder()
    vae, guide = make_pair(batch_norm=True)
    options: dict[str, Any] = {"validation": binary_images[:20]} if validation else {}
    with pytest.raises(DivergenceError, match="Expected"):
        fit_vae(
            (vae, guide),
            binary_images,
            epochs=8,
            callbacks=[stopping, recorder, Explode(3, last=last)],
            state=state,
            **options,
        )
    tensors = [*vae.state_dict().values(), *guide.state_dict().values()]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    held = {**state.parameters, **state.buffers}
    assert stopping.best
    assert all(torch.equal(held[name], value) for name, value in stopping.best.items())
    assert (state.stopped, state.batch, state.order, state.totals) == (True, 0, None, None)
    result = fit_vae((vae, guide), binary_images, epochs=8, callbacks=[EarlyStopping()], state=state, **options)
    assert result.stopped_early
    assert len(result.losses) == state.epoch
    assert all(bool(value.isfinite().all()) for value in result.parameters.values())


def test_a_divergence_without_early_stopping_keeps_the_last_state(binary_images: Tensor) -> None:
    state = TrainingState()
    with pytest.raises(DivergenceError):
        fit_vae(make_pair(), binary_images, callbacks=[Explode(1)], state=state)
    assert (state.epoch, state.stopped) == (1, False)


def test_an_interrupt_leaves_the_present_weights_to_resume_from(binary_images: Tensor) -> None:
    class Interrupt(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            if (state.epoch, state.batch) == (2, 1):
                raise KeyboardInterrupt

    whole = fit_vae(make_pair(), binary_images, epochs=4, callbacks=[EarlyStopping()])
    state, pair = TrainingState(), make_pair()
    with pytest.raises(KeyboardInterrupt):
        fit_vae(pair, binary_images, epochs=4, callbacks=[EarlyStopping(), Interrupt()], state=state)
    assert fit_vae(pair, binary_images, epochs=4, callbacks=[EarlyStopping()], state=state).losses == whole.losses


def test_early_stopping_waits_until_the_warm_up_is_over() -> None:
    class Plain:
        def run(self, losses: list[float], warmup: float, patience: int) -> tuple[int, int | None]:
            stopping, state = EarlyStopping(patience), TrainingState(warmup=warmup)
            stopping.on_fit_begin(state)
            for epoch, loss in enumerate(losses, 1):
                state.history.append(record(epoch, loss))
                if stopping.on_epoch_end(state):
                    return stopping.best_epoch, epoch
            return stopping.best_epoch, None

    run = Plain().run
    assert run([1, 2, 3, 4, 5, 6, 7, 8], 0, 2) == (1, 3)
    assert run([1, 2, 3, 4, 5, 6, 7, 8], 4, 2) == (4, 6)
    assert run([1, 2, 3, 4, 5, 6, 7, 8], 3.5, 2) == (4, 6)
    assert run([1, 2, 3, 9, 8, 7, 6, 5], 4, 2) == (8, None)
    assert run([1, 2, 3, 4, 5, 6, 7, 8], 9, 2)[1] is None
    assert run([1, 2, math.nan, math.nan, math.nan], 3, 2)[1] == 4


@pytest.mark.parametrize("validation", [False, True])
def test_a_fit_with_a_warm_up_does_not_stop_within_it(binary_images: Tensor, validation: bool) -> None:
    options: dict[str, Any] = {"validation": binary_images[:20]} if validation else {}
    for objective in (Weighted(Trace_ELBO(), warmup=4), Weighted(Weighted(FreeBits(0.1), warmup=4), beta=2.0)):
        stopping = EarlyStopping(patience=1, min_delta=1e9)
        result = fit_vae(make_pair(), binary_images, epochs=9, objective=objective, callbacks=[stopping], **options)
        assert len(result.losses) == 5
        assert stopping.best_epoch == 4


def test_a_plateau_schedule_waits_too(binary_images: Tensor) -> None:
    def plateau(optimizer: Any) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")

    result = fit_vae(
        make_pair(), binary_images, epochs=6, objective=Weighted(Trace_ELBO(), warmup=3), scheduler=plateau
    )
    rates = [record.learning_rate for record in result.history]
    assert rates[:4] == [1e-3] * 4
    assert rates[4] < 1e-3


def test_a_warm_up_longer_than_the_fit_warns(binary_images: Tensor) -> None:
    with pytest.warns(UserWarning, match="Expected a warm-up within the 3 epochs of the fit; got one of 10"):
        fit_vae(make_pair(), binary_images, objective=Weighted(Trace_ELBO(), warmup=10))


def test_a_warm_up_as_long_as_the_fit_does_not_warn(binary_images: Tensor, recwarn: pytest.WarningsRecorder) -> None:
    fit_vae(make_pair(), binary_images, objective=Weighted(Trace_ELBO(), warmup=3))
    assert not recwarn.list


def normalised() -> tuple[Any, Any]:
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)), StandardNormal(2), Bernoulli())
    encoder = MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
    guide = AmortizedGuide(encoder=encoder)
    norm = nn.BatchNorm1d(8)
    encoder.add_module("norm", norm)
    inner = encoder.forward
    encoder.forward = lambda x: norm(inner(x))  # type: ignore[method-assign]
    return vae, guide


@pytest.mark.parametrize(
    ("length", "size", "remedy"),
    [(33, 16, "drop_last=True or another batch_size"), (40, 1, "a batch_size of at least 2"), (1, 16, "at least 2")],
)
def test_batch_normalisation_of_one_datum_is_refused_before_the_first_step(
    binary_images: Tensor, length: int, size: int, remedy: str
) -> None:
    vae, guide = normalised()
    before = {name: value.clone() for name, value in [*vae.state_dict().items(), *guide.state_dict().items()]}
    with pytest.raises(ValueError, match=f"Expected minibatches of more than one datum for BatchNorm1d .* {remedy}"):
        fit(vae.model, guide, binary_images[:length], epochs=1, batch_size=size)
    after = {**vae.state_dict(), **guide.state_dict()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_batches_of_one_are_allowed_in_evaluation_mode_or_over_pixels(binary_images: Tensor) -> None:
    vae, guide = normalised()
    x = binary_images[:33]
    fit(vae.model, guide, x, epochs=1, batch_size=16, drop_last=True, validation=x, seed=0)
    assert math.isfinite(evaluate(vae.model, guide, x, batch_size=16).loss)
    guide.eval()
    fit(vae.model, guide, x, epochs=1, batch_size=16, seed=0)
    fit_vae(make_pair(batch_norm=True), x, epochs=1)  # a convolution's channels have many values in one datum


def test_drop_last_leaves_out_the_remainder(binary_images: Tensor) -> None:
    seen: list[int] = []

    class Count(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            assert state.totals is not None
            seen.append(int(state.totals[3]))

    x = binary_images[:33]
    result = fit_vae(make_pair(), x, epochs=2, drop_last=True, callbacks=[Count()])
    assert seen == [16, 32, 16, 32]
    assert all(math.isfinite(loss) for loss in result.losses)
    assert len(fit_vae(make_pair(), x, epochs=1, batch_size=50, drop_last=True).losses) == 1
    same = [fit_vae(make_pair(), x[:32], drop_last=drop_last).losses for drop_last in (True, False)]
    assert same[0] == same[1]


def test_drop_last_is_resumed_bit_for_bit_and_belongs_to_the_state(binary_images: Tensor) -> None:
    x, recorder = binary_images[:33], Recorder()
    whole = fit_vae(make_pair(), x, drop_last=True, callbacks=[recorder])
    for name in list(recorder.saved):
        state = TrainingState.from_state_dict(recorder.load(name))
        assert fit_vae(make_pair(seed=2), x, drop_last=True, state=state).losses == whole.losses
    state = TrainingState.from_state_dict(recorder.load(name))
    with pytest.raises(ValueError, match="Expected the drop_last of the fit that is resumed, True; got False"):
        fit_vae(make_pair(), x, state=state)


def test_a_learning_rate_that_diverges_at_once_has_no_best_weights(binary_images: Tensor) -> None:
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DivergenceError, match="in epoch 2"):
        fit_vae(make_pair(), binary_images, optimizer=lambda leaves: SGD(leaves, lr=1e30), callbacks=[EarlyStopping()])


def test_the_best_epoch_is_after_the_warm_up() -> None:
    stopping = EarlyStopping(1)
    model, guide = normal_pair()
    with pytest.warns(UserWarning, match="warm-up"):
        fit(
            model,
            guide,
            torch.ones(50),
            epochs=3,
            objective=Weighted(Trace_ELBO(), warmup=5),
            callbacks=[stopping],
            optimizer=partial(torch.optim.SGD, lr=1e-3),
            seed=0,
        )
    leaves = [leaf.detach().clone() for leaf in guide.parameters()]
    assert any(not torch.equal(leaf, best) for leaf, best in zip(leaves, stopping.best.values(), strict=False))


def test_parameters_that_end_infinite_are_a_divergence() -> None:
    model, guide = normal_pair()
    with pytest.raises(DivergenceError, match="Expected finite parameters; got others after epoch 1"):
        fit(model, guide, torch.ones(50), epochs=1, optimizer=partial(torch.optim.SGD, lr=float("inf")), seed=0)


def test_an_error_of_another_kind_keeps_its_cause_where_parameters_are_not_finite() -> None:
    class Faulty(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            raise KeyError("my own")

    model, guide = normal_pair()
    with pytest.raises(DivergenceError, match="my own") as caught:
        fit(
            model,
            guide,
            torch.ones(50),
            epochs=1,
            optimizer=partial(torch.optim.SGD, lr=float("inf")),
            callbacks=[Faulty()],
            seed=0,
        )
    assert isinstance(caught.value.__cause__, KeyError)


def normal_pair() -> tuple[Any, AutoNormal]:
    def model(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 50, subsample=x):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model, AutoNormal(model)
