"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentmix.inference.svi.state import Callback, TrainingState

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends a fit when the loss has not improved for a number of epochs, and restores the best weights.

    It monitors the validation loss if there is one, else the training loss. Patience counts from the end of a warm-up
    of the objective, and the best weights are taken after it. They are restored where the fit diverges as well; the
    state has then stopped after the last whole epoch. An interrupt restores nothing, so that the fit can be resumed.

    Args:
        patience: Epochs without improvement before the fit ends.
        min_delta: Smallest decrease of the loss that is an improvement, nats per datum.
        restore_best: Whether parameters and buffers of the best epoch are restored at the end.

    Attributes:
        best_loss: The lowest loss.
        best_epoch: Its epoch; 0 before the first.
        best: Parameters and buffers after that epoch, by name.

    Raises:
        ValueError: If the patience is below 1.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro.infer.autoguide import AutoDelta
        >>> from latentmix.inference import EarlyStopping, fit
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> callback = EarlyStopping(patience=2, min_delta=10.0)
        >>> fit(model, AutoDelta(model), torch.ones(10), epochs=100, callbacks=[callback], seed=0).stopped_early
        True
        >>> callback.best_epoch
        1
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, restore_best: bool = True) -> None:
        if patience < 1:
            raise ValueError(f"Expected a patience of at least 1 epoch; got {patience}.")
        self.patience = patience
        self.min_delta = min_delta
        self.restore_best = restore_best
        self.best_loss = math.inf
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}

    def on_fit_begin(self, state: TrainingState) -> None:
        """See `Callback.on_fit_begin`."""
        self.best_loss, self.best_epoch, self.best = math.inf, 0, {}

    def on_epoch_end(self, state: TrainingState) -> bool:
        """See `Callback.on_epoch_end`."""
        record = state.history[-1]
        loss = (record.validation or record.training).loss
        settled = math.ceil(state.warmup)
        if self.best_epoch < settled <= record.epoch:
            self.best_loss = math.inf
        if loss < self.best_loss - self.min_delta and state.finite:
            self.best_loss, self.best_epoch = loss, record.epoch
            if self.restore_best:
                self.best = state.copy_weights()
        return record.epoch >= settled and record.epoch - max(self.best_epoch, settled - 1) >= self.patience

    def on_fit_end(self, state: TrainingState) -> None:
        """See `Callback.on_fit_end`; a fit that ends within a warm-up keeps its last weights."""
        if state.epoch >= math.ceil(state.warmup):
            self._restore(state)

    def on_divergence(self, state: TrainingState) -> None:
        """See `Callback.on_divergence`."""
        if self._restore(state):
            state.stopped = True
            state.clear_epoch()

    def _restore(self, state: TrainingState) -> bool:
        if self.restore_best and self.best:
            state.load_weights(self.best)
        return self.restore_best and bool(self.best)

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        best = {name: tensor.clone() for name, tensor in self.best.items()}
        return {"best_loss": self.best_loss, "best_epoch": self.best_epoch, "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.best_loss = float(state["best_loss"])
        self.best_epoch = int(state["best_epoch"])
        self.best = {name: tensor.detach() for name, tensor in state["best"].items()}
