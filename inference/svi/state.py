"""The state of a training run as one object, and the callbacks that watch it."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from latentmix.inference.evaluation import Bound
from latentmix.inference.isolation import RandomState
from latentmix.inference.svi.optimizers import MakeOptimizer, MakeScheduler, make_optimizer, make_scheduler
from latentmix.models.arguments import first_mismatch

__all__ = ["Callback", "DivergenceError", "EarlyStopping", "EpochRecord", "TrainingState"]


class DivergenceError(ArithmeticError):
    """The loss of a fit, or a parameter, is no longer finite.

    Where `EarlyStopping` holds the best weights they are back in place, and a fit with the same `state` returns them.
    """


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a fit.

    Attributes:
        epoch: Number of the epoch, from 1.
        training: The bound on the training data, averaged over the epoch's minibatches.
        validation: The bound on the validation data after the epoch.
        learning_rate: Of the first group of parameters, during the epoch.
        seconds: Time of the epoch, validation included.
    """

    epoch: int
    training: Bound
    validation: Bound | None
    learning_rate: float
    seconds: float

    @property
    def loss(self) -> float:
        """Negative ELBO at beta = 1 on the training data, nats per datum."""
        return self.training.loss


class Callback(ABC):  # noqa: B024
    """Watches a fit; a subclass fills the hooks that it needs.

    A fit resumed from the `state.state_dict()` of `on_batch_end` or `on_checkpoint` goes on bit for bit.
    """

    def on_fit_begin(self, state: TrainingState) -> None:  # noqa: B027
        """Called first; a callback that remembers anything forgets it here, before a resumed fit's memory comes."""

    def on_batch_end(self, state: TrainingState) -> None:  # noqa: B027
        """Called after every step of the optimizer."""

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Called after every epoch, `state.history[-1]` being its record; True ends the fit."""
        return None

    def on_checkpoint(self, state: TrainingState) -> None:  # noqa: B027
        """Called after every epoch when all callbacks have had their say, `state.stopped` included."""

    def on_fit_end(self, state: TrainingState) -> None:  # noqa: B027
        """Called once, when training has ended by itself."""

    def on_divergence(self, state: TrainingState) -> None:  # noqa: B027
        """Called before a `DivergenceError` is raised, when loss or parameters are no longer finite."""

    def state_dict(self) -> dict[str, Any]:
        """What the callback must remember when a fit is resumed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take up what `state_dict` gave."""


class EarlyStopping(Callback):
    """Ends a fit when the loss has not improved for a while, and brings the best weights back.

    It watches the validation loss where there is one, else the training loss, and waits until a warm-up of the
    objective is over: patience counts from there, and what was best before, under another objective, is replaced.
    The best weights come back where the fit diverges, too; the state has then stopped after the last whole epoch. An
    interrupt leaves all as it is, so that the fit can be resumed.

    Args:
        patience: Epochs without improvement before the fit ends.
        min_delta: What counts as an improvement, nats per datum.
        restore_best: Whether parameters and buffers of the best epoch are restored at the end.
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
                self.best = _copies({**state.parameters, **state.buffers})
        return record.epoch >= settled and record.epoch - max(self.best_epoch, settled - 1) >= self.patience

    def on_fit_end(self, state: TrainingState) -> None:
        """See `Callback.on_fit_end`; within a warm-up no epoch is the best, and all stays as it is."""
        if state.epoch >= math.ceil(state.warmup):
            self._restore(state)

    def on_divergence(self, state: TrainingState) -> None:
        """See `Callback.on_divergence`."""
        if self._restore(state):
            state.stopped, state.batch, state.order, state.totals = True, 0, None, None

    def _restore(self, state: TrainingState) -> bool:
        if self.restore_best and self.best:
            _copy_into({**state.parameters, **state.buffers}, self.best)
        return self.restore_best and bool(self.best)

    def state_dict(self) -> dict[str, Any]:
        """See `Callback.state_dict`."""
        return {"best_loss": self.best_loss, "best_epoch": self.best_epoch, "best": _copies(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.best_loss = state["best_loss"]
        self.best_epoch = state["best_epoch"]
        self.best = dict(state["best"])


@dataclass(eq=False)
class TrainingState:
    """Everything that training depends on besides the data, the model and the guide.

    Pass an empty one to `fit` to keep hold of it, and the same one, or one made by `from_state_dict`, to go on.

    Attributes:
        seed: Seed of the fit.
        epoch: Epochs that are complete.
        batch: Minibatches of the present epoch that are complete.
        stopped: Whether a callback has ended training.
        length: Number of data.
        batch_size: Data a step.
        drop_last: Whether a last minibatch of fewer data is left out of every epoch.
        warmup: Epochs in which the objective still changes.
        order: The present epoch's order of the data.
        totals: The present epoch's sums of ELBO, log-likelihood, KL and number of data.
        parameters: The leaves that are optimized, unconstrained, by name.
        modules: The modules of model and guide, whose buffers (such as running means) belong to the state.
        history: One record per epoch.
    """

    seed: int = 0
    epoch: int = 0
    batch: int = 0
    stopped: bool = False
    length: int = 0
    batch_size: int = 0
    drop_last: bool = False
    warmup: float = 0.0
    order: Tensor | None = None
    totals: Tensor | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    modules: Sequence[nn.Module] = ()
    history: list[EpochRecord] = field(default_factory=list)
    optimizer: Optimizer | None = None
    scheduler: LRScheduler | ReduceLROnPlateau | None = None
    callbacks: Sequence[Callback] = ()
    random: RandomState | None = None
    _saved: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def started(self) -> bool:
        """Whether a fit has used this state."""
        return self._saved is not None or self.optimizer is not None

    @property
    def batches(self) -> int:
        """Minibatches an epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    @property
    def finite(self) -> bool:
        """Whether every parameter is."""
        return all(bool(leaf.detach().isfinite().all()) for leaf in self.parameters.values())

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers of the modules by name."""
        return {
            f"{index}.{name}": buffer
            for index, module in enumerate(self.modules)
            for name, buffer in module.named_buffers()
        }

    def state_dict(self) -> dict[str, Any]:
        """A copy as tensors, numbers, strings, lists and dictionaries.

        Raises:
            ValueError: If no fit has used the state.
        """
        if self._saved is not None:
            return _cloned(self._saved)
        if self.optimizer is None:
            raise ValueError("Expected a state that a fit has used; got an empty one.")
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "stopped": self.stopped,
            "length": self.length,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "order": None if self.order is None else self.order.clone(),
            "totals": None if self.totals is None else self.totals.clone(),
            "parameters": _copies(self.parameters),
            "buffers": _copies(self.buffers),
            "history": [asdict(record) for record in self.history],
            "optimizer": _cloned(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else _plain(self.scheduler.state_dict()),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "random": (self.random or RandomState.capture()).state_dict(),
        }

    @classmethod
    def from_state_dict(cls, saved: dict[str, Any]) -> TrainingState:
        """The state that `state_dict` gave; `fit` puts it into the model's and the guide's leaves."""
        counters = {name: saved[name] for name in _COUNTERS}
        counters["drop_last"] = saved.get("drop_last", False)  # absent from states of earlier versions
        history = [_record(record) for record in saved["history"]]
        return cls(seed=saved["seed"], **counters, history=history, _saved=_cloned(saved))

    def begin(
        self,
        parameters: dict[str, Tensor],
        modules: Sequence[nn.Module],
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None,
        callbacks: Sequence[Callback],
    ) -> None:
        """Take hold of the leaves, and bring back what an earlier fit left.

        Raises:
            ValueError: If an earlier fit had other parameters, or optimizer or schedule cannot be made.
        """
        saved = self.state_dict() if self.started else None
        self.parameters = parameters
        self.modules = modules
        self.optimizer = make_optimizer(optimizer, list(parameters.values()))
        self.scheduler = None if scheduler is None else make_scheduler(scheduler, self.optimizer)
        self.callbacks = callbacks
        self.random = None
        self._saved = None
        for callback in callbacks:
            callback.on_fit_begin(self)
        if saved is None:
            return
        _copy_into({**self.parameters, **self.buffers}, {**saved["parameters"], **saved["buffers"]})
        device = next(iter(parameters.values())).device
        self.order, self.totals = (
            None if saved[name] is None else saved[name].to(device) for name in ("order", "totals")
        )
        self.epoch, self.batch, self.stopped = (saved[name] for name in ("epoch", "batch", "stopped"))
        self.history = [_record(record) for record in saved["history"]]
        self.optimizer.load_state_dict(_cloned(saved["optimizer"]))
        if self.scheduler is not None and saved["scheduler"] is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        for callback, memory in zip(callbacks, saved["callbacks"], strict=False):
            callback.load_state_dict(memory)
        RandomState.from_state_dict(saved["random"]).restore()

    def end_epoch(self, record: EpochRecord) -> None:
        """Note an epoch's record, step the schedule, and call the callbacks, which may end the fit."""
        self.epoch, self.batch, self.order, self.totals = self.epoch + 1, 0, None, None
        self.history.append(record)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.epoch >= self.warmup:
                self.scheduler.step((record.validation or record.training).loss)
        elif self.scheduler is not None:
            self.scheduler.step()
        answers = [callback.on_epoch_end(self) for callback in self.callbacks]
        self.stopped = any(answers)
        for callback in self.callbacks:
            callback.on_checkpoint(self)


_COUNTERS = ("epoch", "batch", "stopped", "length", "batch_size")


def _record(saved: EpochRecord | Mapping[str, Any]) -> EpochRecord:
    if isinstance(saved, EpochRecord):
        return saved
    bounds = {key: None if saved[key] is None else Bound(**saved[key]) for key in ("training", "validation")}
    return EpochRecord(**{**saved, **bounds})


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    mismatch = first_mismatch(targets, sources)
    if mismatch is not None:
        name, expected, given = mismatch
        if expected is None or given is None:
            raise ValueError(
                f"Expected a state of training with the parameters of this model and guide; {name!r} is in only one of "
                "the two: resume with the model and guide of the first fit."
            )
        raise ValueError(f"Expected {name!r} of shape {expected} in the state of training; got {given}.")
    for name, target in targets.items():
        target.copy_(sources[name])


def _cloned(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _cloned(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_cloned(value) for value in tree)
    return tree


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without functions, which it makes again by itself."""
    return {key: value for key, value in state.items() if isinstance(value, int | float | str | bool | list | None)}
