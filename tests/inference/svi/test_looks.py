"""Between steps in which only the library's own code runs, what does not change is looked up every 20th time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from latentmix.inference import Callback, SVIResult, TrainingState, fit
from latentmix.inference.svi import fused

SIZE = 4
CHECKS = 3  # calls of the model before the first step


class Line(nn.Module):
    """A location that an embedding shifts in minibatches whose first datum is above a threshold."""

    def __init__(self, threshold: float, *, sparse: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.threshold = threshold
        self.location = nn.Parameter(torch.zeros(3))
        self.other = nn.Parameter(torch.zeros(2, dtype=dtype))
        self.shift = nn.Embedding(5, 1, sparse=sparse)
        self.infinite_at = -1
        self.calls = 0

    def model(self, x: Tensor) -> None:
        pyro.module("line", self)
        location = self.location.sum() + self.other.sum().float()
        if x[0] > self.threshold:
            location = location + self.shift(torch.tensor([1, 2])).sum()
        self.calls += 1
        scale = math.inf if self.calls == self.infinite_at else 1.0
        with pyro.plate("data", 200, subsample=x):
            pyro.sample("x", dist.Normal(location * scale, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pass


class AtEpochEnd(Callback):
    """Changes the optimizer at the end of the first epoch."""

    def __init__(self, *, load: bool = False, hook: bool = False, replace: bool = False) -> None:
        self.load, self.hook, self.replace = load, hook, replace
        self.seen = 0

    def on_epoch_end(self, state: TrainingState) -> None:
        optimizer: Any = state.optimizer
        if state.epoch != 1:
            return
        if self.load:
            saved = optimizer.state_dict()
            for values in saved["state"].values():
                for name, value in values.items():
                    values[name] = torch.zeros_like(value)
            saved["param_groups"][0]["lr"] = 0.01
            optimizer.load_state_dict(saved)
        if self.hook:
            optimizer.register_step_post_hook(lambda *_: self._note())
        if self.replace:
            step = optimizer.step
            optimizer.step = lambda: (self._note(), step())[1]

    def _note(self) -> None:
        self.seen += 1


def train(line: Line, make: Callable[..., Any], callback: Callback) -> SVIResult:
    x = torch.randn(200, generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(
            line.model,
            line.guide,
            x,
            epochs=2,
            batch_size=SIZE,
            seed=0,
            optimizer=make,
            callbacks=[callback],
            compile=False,
        )


ADAM = partial(Adam, lr=0.1, fused=True)
CASES: dict[str, tuple[Callable[[], Line], partial[Any], Callable[[], AtEpochEnd]]] = {
    "a leaf often without gradient": (lambda: Line(0.0), ADAM, AtEpochEnd),
    "a leaf seldom without gradient": (lambda: Line(-1.5), partial(AdamW, lr=0.1, fused=True), AtEpochEnd),
    "sparse gradients": (lambda: Line(0.0, sparse=True), partial(SGD, lr=0.001), AtEpochEnd),
    "sparse gradients in every step": (lambda: Line(-9.0, sparse=True), partial(SGD, lr=0.001), AtEpochEnd),
    "two types": (lambda: Line(-9.0, dtype=torch.float64), partial(SGD, lr=0.001, momentum=0.9), AtEpochEnd),
    "another state": (lambda: Line(-9.0), ADAM, partial(AtEpochEnd, load=True)),
    "a hook": (lambda: Line(-9.0), ADAM, partial(AtEpochEnd, hook=True)),
    "another step": (lambda: Line(-9.0), ADAM, partial(AtEpochEnd, replace=True)),
    "another state and a hook": (lambda: Line(-9.0), ADAM, partial(AtEpochEnd, load=True, hook=True)),
}


@pytest.mark.parametrize("first_is_skipped", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_that_of_an_optimizer_which_is_stepped_as_it_is(name: str, first_is_skipped: bool) -> None:
    make_line, make, make_callback = CASES[name]
    results, seen = [], []
    for kind in (type("Own", (make.func,), {}), make.func):
        torch.manual_seed(0)
        line, callback = make_line(), make_callback()
        line.infinite_at = 200 // SIZE + CHECKS + 1 if first_is_skipped else -1
        results.append(train(line, partial(kind, **make.keywords), callback))
        seen.append(callback.seen)
    expected, result = results
    for each in results:
        assert [record.skipped for record in each.history] == [0, int(first_is_skipped)]
    assert all(torch.equal(value, expected.parameters[key]) for key, value in result.parameters.items())
    assert result.losses == expected.losses
    assert seen[0] == seen[1]


def test_the_optimizer_is_looked_up_every_twentieth_step(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    checks: list[int] = []
    of, is_finite = fused._Kernel.of, fused.is_finite
    monkeypatch.setattr(fused._Kernel, "of", lambda *given: (looks.append(1), of(*given))[1])
    monkeypatch.setattr(fused, "is_finite", lambda tensor: (checks.append(1), is_finite(tensor))[1])
    train(Line(-9.0), ADAM, Callback())
    # Of 50 steps an epoch the first, the 21st and the 41st; and the second of all, as the first makes the state.
    assert len(looks) == 7
    assert len(checks) == 6 * 3


def test_a_callback_with_a_function_of_its_own_is_looked_after_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    of = fused._Kernel.of
    monkeypatch.setattr(fused._Kernel, "of", lambda *given: (looks.append(1), of(*given))[1])
    callback = Callback()
    callback.on_batch_end = lambda state: None  # type: ignore[method-assign]
    train(Line(-9.0), ADAM, callback)
    assert len(looks) == 100
