"""The state of training as one object, and the contract of the callbacks that see it."""

from __future__ import annotations

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
from latentmix.inference.objectives.base import Totals
from latentmix.inference.objectives.precision import Precision
from latentmix.inference.svi.fused import is_finite
from latentmix.inference.svi.optimizers import MakeOptimizer, MakeScheduler, make_optimizer, make_scheduler
from latentmix.inference.svi.saved import check_optimizer, check_saved, check_schedule, restoring
from latentmix.models.arguments import first_mismatch
from latentmix.models.display import Displayed
from latentmix.models.words import plural

__all__ = ["Callback", "DivergenceError", "EpochRecord", "TrainingState"]


class DivergenceError(ArithmeticError):
    """The loss of a fit, or a parameter, is no longer finite.

    With `EarlyStopping` the best weights have been restored, and a fit with the same `state` returns them.
    """


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a fit.

    Attributes:
        epoch: Number of the epoch, from 1.
        training: The bound on the training data, averaged over the epoch's minibatches.
        validation: The bound on the validation data after the epoch; None if there are none.
        learning_rate: Learning rate of the first group of parameters at the start of the epoch.
        seconds: Time of the epoch, validation included.
        skipped: Number of steps that were left out, see `max_skipped` of `fit`.
    """

    epoch: int
    training: Bound
    validation: Bound | None
    learning_rate: float
    seconds: float
    skipped: int = 0

    @property
    def loss(self) -> float:
        """Negative ELBO at beta = 1 on the training data, nats per datum."""
        return self.training.loss


class Callback(ABC):  # noqa: B024
    """Hooks of a fit; a subclass overrides those that it needs.

    A fit resumed from the `state.state_dict()` of `on_batch_end` or `on_checkpoint` is equal bit for bit to one that
    was not interrupted.
    """

    def on_fit_begin(self, state: TrainingState) -> None:  # noqa: B027
        """Called first, to reset the callback; a resumed fit calls `load_state_dict` afterwards."""

    def on_batch_end(self, state: TrainingState) -> None:  # noqa: B027
        """Called after every step of the optimizer."""

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Called after every epoch, whose record is `state.history[-1]`; True ends the fit."""
        return None

    def on_checkpoint(self, state: TrainingState) -> None:  # noqa: B027
        """Called after every epoch, when `on_epoch_end` of all callbacks has set `state.stopped`."""

    def on_fit_end(self, state: TrainingState) -> None:  # noqa: B027
        """Called once, when training has ended without an error or an interrupt."""

    def on_divergence(self, state: TrainingState) -> None:  # noqa: B027
        """Called before a `DivergenceError` is raised, where loss or parameters are no longer finite."""

    def on_error(self, state: TrainingState, error: BaseException) -> None:  # noqa: B027
        """Called last, when an error or an interrupt ends the fit, which raises it afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """The callback's own state, for a fit that is resumed: tensors, numbers, strings, lists and dictionaries."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


@dataclass(eq=False, repr=False)
class TrainingState(Displayed):
    """The state of training: all that a fit depends on besides the data, the model and the guide.

    Pass an empty state to `fit` to have access to it; pass the same one, or one of `from_state_dict`, to resume.

    Attributes:
        seed: Seed of the fit.
        epoch: Number of complete epochs.
        batch: Number of complete minibatches of the present epoch.
        stopped: Whether a callback has ended training.
        length: Number of data.
        batch_size: Data a step.
        drop_last: Whether an incomplete last minibatch is left out of every epoch.
        precision: Precision of the products of networks, see `fit`.
        warmup: Epochs in which the objective still changes.
        order: The present epoch's order of the data, `(length,)`; None in full batches and between epochs.
        skipped: Number of the present epoch's steps that were left out, see `max_skipped` of `fit`.
        skipped_in_succession: Number of steps that were left out since the last good one.
        totals: The present epoch's sums of ELBO, log-likelihood, KL and number of data.
        parameters: The unconstrained leaves that are optimized, by name.
        modules: The modules of model and guide, whose buffers (such as running means) belong to the state.
        history: One record per epoch.
        optimizer: The optimizer; None before a fit.
        scheduler: The learning-rate schedule.
        callbacks: The callbacks of the fit.
        random: Random states after the fit; None during it.
    """

    seed: int = 0
    epoch: int = 0
    batch: int = 0
    stopped: bool = False
    length: int = 0
    batch_size: int = 0
    drop_last: bool = False
    precision: Precision = "full"
    warmup: float = 0.0
    skipped: int = 0
    skipped_in_succession: int = 0
    order: Tensor | None = None
    totals: Totals | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    modules: Sequence[nn.Module] = ()
    history: list[EpochRecord] = field(default_factory=list)
    optimizer: Optimizer | None = None
    scheduler: LRScheduler | ReduceLROnPlateau | None = None
    callbacks: Sequence[Callback] = ()
    random: RandomState | None = None
    _saved: dict[str, Any] | None = field(default=None, repr=False)

    def shown(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"epoch": self.epoch, "batch": f"{self.batch} of the epoch under way"}
        if self.history:
            figures["training loss"] = f"{self.history[-1].loss:.6g} nats per datum, the negative ELBO at beta = 1"
        size = sum(value.numel() for value in self.parameters.values())
        return {
            **figures,
            "data": f"{self.length:,}, {self.batch_size:,} a step",
            "precision": self.precision,
            "parameters": f"{plural(size, 'number')} in {plural(len(self.parameters), 'tensor')}",
            "optimizer": None if self.optimizer is None else type(self.optimizer).__name__,
            "stopped": self.stopped,
            "seed": self.seed,
        }

    @property
    def started(self) -> bool:
        """Whether a fit has used this state."""
        return self._saved is not None or self.optimizer is not None

    @property
    def batches(self) -> int:
        """Number of minibatches an epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    @property
    def step(self) -> int:
        """Number of minibatches that the fit has passed."""
        return self.epoch * self.batches + self.batch

    @property
    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return all(map(is_finite, self.parameters.values()))

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers of the modules by name."""
        return {
            f"{index}.{name}": buffer
            for index, module in enumerate(self.modules)
            for name, buffer in module.named_buffers()
        }

    def copy_weights(self) -> dict[str, Tensor]:
        """A copy of parameters and buffers, by name."""
        return _copies({**self.parameters, **self.buffers})

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy parameters and buffers into those of the fit.

        Args:
            weights: Tensors by name, as `copy_weights` gives them.

        Raises:
            ValueError: If names, shapes or dtypes differ; nothing is copied then.
        """
        targets = {**self.parameters, **self.buffers}
        mismatch = first_mismatch(targets, weights)
        if mismatch is not None:
            name, expected, given = mismatch
            if expected is None or given is None:
                raise ValueError(
                    f"Expected the parameters of this model and guide in the state of training; {name!r} is in only "
                    "one of the two: resume with the model and guide of the first fit."
                )
            raise ValueError(f"Expected {name!r} of shape {expected} in the state of training; got {given}.")
        for name, target in targets.items():
            if weights[name].dtype != target.dtype:
                raise ValueError(
                    f"Expected {name!r} of {target.dtype} in the state of training; got {weights[name].dtype}."
                )
        for name, target in targets.items():
            target.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state in tensors, numbers, strings, lists and dictionaries.

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
            "skipped": self.skipped,
            "skipped_in_succession": self.skipped_in_succession,
            "precision": self.precision,
            "order": None if self.order is None else self.order.clone(),
            "totals": None if self.totals is None else torch.tensor(self.totals, dtype=torch.float64, device="cpu"),
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
        """The state that `state_dict` returned; `fit` loads it into the parameters of model and guide.

        Raises:
            StateError: If a part is missing or of another kind, counters contradict each other, or a parameter is not
                finite.
        """
        check_saved(saved)
        counters = {name: saved[name] for name in _COUNTERS}
        # Absent from states of earlier versions:
        counters["drop_last"] = saved.get("drop_last", False)
        counters["precision"] = saved.get("precision", "full")
        counters |= {name: saved.get(name, 0) for name in _SKIPPED}
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
        """Bind the state to the leaves of a fit, and restore the saved state of an earlier fit.

        Raises:
            ValueError: If an earlier fit had other parameters, or optimizer or schedule cannot be made.
            StateError: If the states of optimizer, schedule, callbacks or generators are none of this fit.
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
        with restoring("the weights of this fit"):
            self.load_weights({**saved["parameters"], **saved["buffers"]})
        device = next(iter(parameters.values())).device
        self.order = None if saved["order"] is None else saved["order"].to(device)
        self.totals = None if saved["totals"] is None else tuple(saved["totals"].tolist())
        self.epoch, self.batch, self.stopped = (saved[name] for name in ("epoch", "batch", "stopped"))
        self.skipped, self.skipped_in_succession = (saved.get(name, 0) for name in _SKIPPED)
        self.history = [_record(record) for record in saved["history"]]
        copies = [leaf.detach().clone().requires_grad_() for leaf in parameters.values()]
        try:
            rehearsed = make_optimizer(optimizer, copies)
        except ValueError:  # the function makes it of the leaves alone
            rehearsed = None
        if rehearsed is not None:
            check_optimizer(rehearsed, saved["optimizer"], finite=not self.stopped)
        with restoring("the state of the optimizer of this fit"):
            self.optimizer.load_state_dict(_cloned(saved["optimizer"]))
        if self.scheduler is not None and saved["scheduler"] is not None:
            check_schedule(_plain(self.scheduler.state_dict()), saved["scheduler"])
            with restoring("the state of the schedule of this fit"):
                self.scheduler.load_state_dict(saved["scheduler"])
        with restoring("the states of the callbacks of this fit"):
            for callback, own in zip(callbacks, saved["callbacks"], strict=False):
                callback.load_state_dict(own)
        with restoring("the states of the random generators"):
            RandomState.from_state_dict(saved["random"]).restore()

    def clear_epoch(self) -> None:
        """Forget the minibatches of the present epoch."""
        self.batch, self.skipped, self.order, self.totals = 0, 0, None, None

    def end_epoch(self, record: EpochRecord, *, scheduled: bool = True) -> None:
        """Append the record of an epoch, step the schedule, and call the callbacks, which may end the fit.

        Args:
            record: The record.
            scheduled: Whether the schedule is stepped by epochs.
        """
        self.epoch += 1
        self.clear_epoch()
        self.history.append(record)
        if scheduled:
            self._step_schedule(record)
        answers = [callback.on_epoch_end(self) for callback in self.callbacks]
        self.stopped = any(answers)
        for callback in self.callbacks:
            callback.on_checkpoint(self)

    def _step_schedule(self, record: EpochRecord) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.epoch >= self.warmup:
                self.scheduler.step((record.validation or record.training).loss)
        elif self.scheduler is not None:
            self.scheduler.step()


_COUNTERS = ("epoch", "batch", "stopped", "length", "batch_size")
_SKIPPED = ("skipped", "skipped_in_succession")


def _record(saved: EpochRecord | Mapping[str, Any]) -> EpochRecord:
    if isinstance(saved, EpochRecord):
        return saved
    bounds = {key: None if saved[key] is None else Bound(**saved[key]) for key in ("training", "validation")}
    return EpochRecord(**{**saved, **bounds})


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _cloned(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _cloned(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_cloned(value) for value in tree)
    return tree


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a schedule without functions, which its constructor makes."""
    return {key: value for key, value in state.items() if isinstance(value, int | float | str | bool | list | None)}
