from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from latentmix.inference import Bound, EarlyStopping, EpochRecord, TrainingState

from tests.inference.svi.test_state import Pair, assert_same_end


def record(epoch: int, training: float, validation: float | None = None) -> EpochRecord:
    bounds = [None if loss is None else Bound(loss, -loss, 0.0) for loss in (training, validation)]
    assert bounds[0] is not None
    return EpochRecord(epoch, bounds[0], bounds[1], 1e-3, 0.0)


class Weights:
    """A state of training with one parameter, whose value is the epoch's number."""

    def __init__(self) -> None:
        module = nn.Module()
        module.register_buffer("b", torch.zeros(()))
        self.state = TrainingState(parameters={"w": torch.zeros(())}, modules=[module])

    def run(self, stopping: EarlyStopping, losses: Iterable[tuple[float, float | None]]) -> int | None:
        for epoch, (training, validation) in enumerate(losses, start=1):
            self.state.parameters["w"].fill_(epoch)
            self.state.buffers["0.b"].fill_(10 * epoch)
            self.state.history.append(record(epoch, training, validation))
            if stopping.on_epoch_end(self.state):
                stopping.on_fit_end(self.state)
                return epoch
        stopping.on_fit_end(self.state)
        return None


def test_early_stopping_restores_the_best_weights() -> None:
    weights = Weights()
    validation = [3.0, 2.0, 2.5, 2.0, 2.2]
    assert weights.run(EarlyStopping(patience=3), [(-epoch, loss) for epoch, loss in enumerate(validation)]) == 5
    assert (weights.state.parameters["w"], weights.state.buffers["0.b"]) == (2, 20)


def test_early_stopping_without_restoring_or_validation() -> None:
    weights = Weights()
    assert weights.run(EarlyStopping(patience=2, restore_best=False), [(1.0, None), (2.0, None), (1.0, None)]) == 3
    assert weights.state.parameters["w"] == 3


def test_early_stopping_min_delta_and_nan() -> None:
    losses = [(2.0, None), (1.95, None), (math.nan, None), (1.91, None), (1.0, None)]
    assert Weights().run(EarlyStopping(patience=3, min_delta=0.1), losses) == 4
    assert Weights().run(EarlyStopping(patience=4, min_delta=0.1), losses) is None


def test_early_stopping_restores_the_best_weights_of_a_fit_that_runs_out() -> None:
    weights = Weights()
    assert weights.run(EarlyStopping(patience=3), [(1.0, None), (2.0, None)]) is None
    assert weights.state.parameters["w"] == 1


@pytest.mark.parametrize("patience", [0, -1])
def test_early_stopping_refuses_no_patience(patience: int) -> None:
    with pytest.raises(ValueError, match=f"Expected a patience of at least 1 epoch; got {patience}"):
        EarlyStopping(patience)


def test_early_stopping_serves_one_fit_after_another(binary_images: Tensor) -> None:
    stopping = EarlyStopping(patience=1, min_delta=100.0)
    first, alone, after = Pair(seed=1), Pair(seed=2), Pair(seed=2)
    first.fit(binary_images, callbacks=[stopping], epochs=6)
    expected = alone.fit(binary_images, callbacks=[EarlyStopping(patience=1, min_delta=100.0)], epochs=6)
    assert_same_end(after.fit(binary_images, callbacks=[stopping], epochs=6), expected)
    for key, value in alone.values().items():
        assert torch.equal(after.values()[key], value), key
