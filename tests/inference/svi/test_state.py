from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, SequentialLR, StepLR

from latentmix.guides import AmortizedGuide, ConvEncoder
from latentmix.inference import Callback, EarlyStopping, SVIResult, TrainingState, fit
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

EPOCHS, BATCH = 4, 16  # 40 images: batches of 16, 16 and 8


class Pair:
    """A VAE with batch normalisation and dropout, whose buffers and draws a resumed fit has to restore."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
        decoder.body.append(nn.Dropout(0.3))
        self.vae = VAE(decoder, StandardNormal(2), Bernoulli())
        encoder = ConvEncoder(latent_dim=2, channels=(3, 4), shape=(1, 8, 8), batch_norm=(False, True))
        self.guide = AmortizedGuide(encoder=encoder)

    def fit(self, images: Tensor, **options: Any) -> SVIResult:
        arguments = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 5, **options}
        return fit(self.vae.model, self.guide, images, **arguments)

    def values(self) -> dict[str, Tensor]:
        both = {"vae": self.vae, "guide": self.guide}
        return {f"{name}.{key}": value for name, part in both.items() for key, value in part.state_dict().items()}


class Recorder(Callback):
    """Saves the state of training at every call, as in a file."""

    def __init__(self) -> None:
        self.saved: dict[str, bytes] = {}

    def keep(self, name: str, state: TrainingState) -> None:
        file = io.BytesIO()
        torch.save(state.state_dict(), file)
        self.saved[name] = file.getvalue()

    def on_batch_end(self, state: TrainingState) -> None:
        self.keep(f"batch {state.epoch}.{state.batch}", state)

    def on_checkpoint(self, state: TrainingState) -> None:
        self.keep(f"epoch {state.epoch}", state)

    def load(self, name: str) -> dict[str, Any]:
        saved: dict[str, Any] = torch.load(io.BytesIO(self.saved[name]), weights_only=True)
        return saved


def noisy(images: Tensor) -> Tensor:
    return torch.bernoulli(0.1 + 0.8 * images)


CONFIGURATIONS: dict[str, Callable[[Tensor], dict[str, Any]]] = {
    "plain": lambda images: {},
    "full batch": lambda images: {"batch_size": None},
    "validation and transform": lambda images: {"validation": images[:10], "transform": noisy},
    "step schedule, AdamW": lambda images: {
        "optimizer": lambda leaves: AdamW(leaves, lr=0.01),
        "scheduler": lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.1),
    },
    "plateau schedule, SGD with momentum": lambda images: {
        "optimizer": lambda leaves: SGD(leaves, lr=0.01, momentum=0.9),
        "scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=1e3),
        "validation": images[:10],
    },
    "function schedule": lambda images: {
        "scheduler": lambda optimizer: LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    },
    "schedules in sequence": lambda images: {
        "scheduler": lambda optimizer: SequentialLR(
            optimizer, [CosineAnnealingLR(optimizer, 4), StepLR(optimizer, 1)], milestones=[2]
        )
    },
    "early stopping": lambda images: {"callbacks": [EarlyStopping(patience=1, min_delta=0.05)], "epochs": 12},
}


def options_with(recorder: Recorder | None, name: str, images: Tensor) -> dict[str, Any]:
    options = CONFIGURATIONS[name](images)
    recorders = () if recorder is None else (recorder,)
    return {**options, "callbacks": [*options.get("callbacks", ()), *recorders]}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_resumed_from_any_callback_bit_for_bit(binary_images: Tensor, configuration: str) -> None:
    recorder, whole = Recorder(), Pair(seed=1)
    expected = whole.fit(binary_images, **options_with(recorder, configuration, binary_images))
    for name in [*list(recorder.saved)[::3], f"epoch {len(expected.history)}"]:
        resumed = Pair(seed=2)
        state = TrainingState.from_state_dict(recorder.load(name))
        result = resumed.fit(binary_images, **options_with(None, configuration, binary_images), state=state)
        assert_same_end(result, expected, name)
        for key, value in whole.values().items():
            assert torch.equal(resumed.values()[key], value), (name, key)


def assert_same_end(first: SVIResult, other: SVIResult, name: str = "") -> None:
    assert first.losses == other.losses, name
    assert [replace(record, seconds=0.0) for record in first.history] == [
        replace(record, seconds=0.0) for record in other.history
    ], name
    assert (first.seed, first.stopped_early) == (other.seed, other.stopped_early), name
    assert first.parameters.keys() == other.parameters.keys(), name
    for key, value in other.parameters.items():
        assert torch.equal(first.parameters[key], value), (name, key)
    assert same(first.state.state_dict()["random"], other.state.state_dict()["random"]), name


def same(first: Any, other: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, other)
    if isinstance(first, Mapping):
        return first.keys() == other.keys() and all(same(first[key], other[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(other) and all(map(same, first, other))
    return bool(first == other)


def test_order_of_callbacks_does_not_matter_for_resuming(binary_images: Tensor) -> None:
    """A state saved by a callback before EarlyStopping includes the memory of EarlyStopping after that epoch."""
    recorder = Recorder()
    stopping = EarlyStopping(patience=2, min_delta=100.0)
    expected = Pair(seed=1).fit(binary_images, callbacks=[recorder, stopping], epochs=6)
    assert len(expected.history) == 3
    state = TrainingState.from_state_dict(recorder.load("epoch 1"))
    callbacks = [Recorder(), EarlyStopping(patience=2, min_delta=100.0)]
    assert_same_end(Pair(seed=2).fit(binary_images, callbacks=callbacks, state=state, epochs=6), expected)


def test_resuming_twice_from_one_state_dict(binary_images: Tensor) -> None:
    recorder = Recorder()
    expected = Pair(seed=1).fit(binary_images, callbacks=[recorder])
    saved = recorder.load("batch 1.2")
    for _ in range(2):
        assert Pair(seed=2).fit(binary_images, state=TrainingState.from_state_dict(saved)).losses == expected.losses
    assert same(saved, recorder.load("batch 1.2"))


def test_state_dict_is_a_copy(binary_images: Tensor) -> None:
    pair = Pair(seed=1)
    state = pair.fit(binary_images, epochs=1).state
    saved = state.state_dict()
    kept = io.BytesIO()
    torch.save(saved, kept)
    pair.fit(binary_images, state=state, epochs=3)
    kept.seek(0)
    assert same(saved, torch.load(kept, weights_only=True))


def test_more_epochs_in_one_process(binary_images: Tensor) -> None:
    expected = Pair(seed=1).fit(binary_images)
    pair = Pair(seed=1)
    first = pair.fit(binary_images, epochs=2)
    second = pair.fit(binary_images, state=first.state)
    assert first.losses == expected.losses[:2]
    assert_same_end(second, expected)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, OSError])
def test_an_interrupted_fit_resumes_from_its_state(binary_images: Tensor, exception: type[BaseException]) -> None:
    class Interrupt(Callback):
        def on_batch_end(self, state: TrainingState) -> None:
            if (state.epoch, state.batch) == (1, 2):
                raise exception

    expected = Pair(seed=1).fit(binary_images)
    pair, state = Pair(seed=1), TrainingState()
    with pytest.raises(exception):
        pair.fit(binary_images, callbacks=[Interrupt()], state=state)
    assert (state.epoch, state.batch, len(state.history)) == (1, 2, 1)
    assert_same_end(pair.fit(binary_images, state=state), expected)


def test_resuming_pyro_parameters_and_autoguides() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", 40, subsample=x):
            pyro.sample("x", dist.Normal(loc, scale).expand((len(x),)), obs=x)

    options: dict[str, Any] = {"epochs": 4, "batch_size": 16, "seed": 5}
    x, recorder = torch.linspace(-1.0, 4.0, 40), Recorder()
    expected = fit(model, AutoNormal(model), x, callbacks=[recorder], **options)
    for name in recorder.saved:
        state = TrainingState.from_state_dict(recorder.load(name))
        assert_same_end(fit(model, AutoNormal(model), x, state=state, **options), expected, name)


class Average(nn.Module):
    """A guide with a buffer that every call replaces rather than changes in place."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("seen", torch.tensor(0.0))

    def forward(self, x: Tensor) -> None:
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.mean()
        pyro.module("average", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.seen, self.scale.exp()))


def test_buffers_that_are_replaced_are_resumed() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    options: dict[str, Any] = {"epochs": 4, "batch_size": 16, "seed": 5}
    x, recorder = torch.linspace(-1.0, 4.0, 40), Recorder()
    expected = fit(model, Average(), x, callbacks=[recorder], **options)
    state = TrainingState.from_state_dict(recorder.load("batch 1.2"))
    assert fit(model, Average(), x, state=state, **options).losses == expected.losses


class TestRefusals:
    """A state resumes the fit that it belongs to, and no other."""

    @pytest.fixture
    def state(self, binary_images: Tensor) -> TrainingState:
        recorder = Recorder()
        Pair(seed=1).fit(binary_images, epochs=2, callbacks=[recorder])
        return TrainingState.from_state_dict(recorder.load("batch 1.1"))

    def test_another_model(self, binary_images: Tensor, state: TrainingState) -> None:
        pair = Pair(seed=1)
        pair.guide.register_buffer("extra", torch.zeros(1))
        with pytest.raises(
            ValueError, match="Expected the parameters of this model and guide in the state of training"
        ):
            pair.fit(binary_images, state=state)

    def test_another_shape(self, binary_images: Tensor, state: TrainingState) -> None:
        pair = Pair(seed=1)
        pair.vae.decoder.body[0] = nn.Linear(2, 9)
        pair.vae.decoder.out = nn.Linear(9, 64)  # type: ignore[assignment]
        with pytest.raises(ValueError, match=r"Expected .* of shape \(8, 2\)|Expected .* of shape \(9, 2\)"):
            pair.fit(binary_images, state=state)

    def test_another_batch_size_in_the_middle_of_an_epoch(self, binary_images: Tensor, state: TrainingState) -> None:
        with pytest.raises(ValueError, match=r"batch_size|minibatch"):
            Pair(seed=1).fit(binary_images, state=state, batch_size=8)

    def test_other_data_in_the_middle_of_an_epoch(self, binary_images: Tensor, state: TrainingState) -> None:
        with pytest.raises(ValueError, match="data"):
            Pair(seed=1).fit(binary_images[:35], state=state)

    def test_another_seed(self, binary_images: Tensor, state: TrainingState) -> None:
        with pytest.raises(ValueError, match="seed"):
            Pair(seed=1).fit(binary_images, state=state, seed=6)

    def test_an_unused_state_has_nothing_to_save(self) -> None:
        assert not TrainingState().started
        with pytest.raises(ValueError, match="fit"):
            TrainingState().state_dict()


def test_optimizers_hold_every_leaf_once(binary_images: Tensor) -> None:
    groups: list[list[Tensor]] = []

    def make(leaves: Iterable[Tensor]) -> Optimizer:
        groups.append(list(leaves))
        return SGD(groups[-1], lr=0.01)

    pair = Pair(seed=1)
    pair.fit(binary_images, epochs=1, optimizer=make)
    expected = [*pair.vae.parameters(), *pair.guide.parameters()]
    assert {id(leaf) for leaf in groups[0]} == {id(leaf) for leaf in expected}
    assert len(groups[0]) == len(expected)
