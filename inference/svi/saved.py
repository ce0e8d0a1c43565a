"""Checks of a saved state of training before anything of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from latentmix.inference.objectives.precision import PRECISIONS
from latentmix.models.reading import damaged
from latentmix.models.words import plural

__all__ = ["StateError", "check_optimizer", "check_saved", "check_schedule", "restoring"]

PLACE = "the state of training"
REMEDY = "train anew, or resume from a copy"
_LEAST = {"seed": 0, "epoch": 0, "batch": 0, "length": 1, "batch_size": 1}


class StateError(ValueError):
    """A saved state of training that no fit has left, or that another fit than the one to be resumed has left."""


def restoring(what: str) -> AbstractContextManager[None]:
    """A block in which errors on values of other kinds become a `StateError`.

    Args:
        what: The part of the state that is restored, for the message.
    """
    return damaged(PLACE, what, remedy=REMEDY, kind=StateError)


def check_saved(saved: Mapping[str, Any]) -> None:
    """Refuse a saved state whose counters, records or tensors are not those of a fit.

    Args:
        saved: As `TrainingState.state_dict` returns it.

    Raises:
        StateError: If a part is missing or of another kind, counters contradict each other, or a parameter is not
            finite.

    Example:
        >>> from latentmix.inference.svi.saved import check_saved
        >>> check_saved({"seed": 0, "epoch": -1})
        Traceback (most recent call last):
            ...
        latentmix.inference.svi.saved.StateError: Expected epoch of at least 0 in the state of training; got -1: train \
anew, or resume from a copy.
    """
    with restoring("the parts that a fit leaves"):
        for name, least in _LEAST.items():
            value = saved[name]
            if not _is_whole(value) or value < least:
                raise _error(f"{name} of at least {least}", f"{value!r:.60}")
        for name in ("stopped", "drop_last"):
            if not isinstance(saved.get(name, False), bool):
                raise _error(f"{name} to be true or false", f"{saved[name]!r:.60}")
        if saved.get("precision", PRECISIONS[0]) not in PRECISIONS:
            raise _error(f"a precision of {' or '.join(PRECISIONS)}", f"{saved['precision']!r:.60}")
        if saved["seed"] >= 2**32:
            raise _error("a seed below 2**32", str(saved["seed"]))
        epoch, batch, length, size = (saved[name] for name in ("epoch", "batch", "length", "batch_size"))
        if size > length:
            raise _error(f"a batch_size of at most {length}, the number of data,", str(size))
        batches = length // size if saved.get("drop_last", False) else -(-length // size)
        if batch >= max(batches, 1) + 1:
            raise _error(f"at most {plural(batches, 'batch', 'batches')} of an epoch", str(batch))
        _check_history(saved["history"], epoch)
        _check_order(saved["order"], length)
        skipped = saved.get("skipped", 0)
        if not _is_whole(skipped) or not 0 <= skipped <= batch:
            raise _error(f"skipped steps among the {batch} of an epoch", f"{skipped!r:.60}")
        succession = saved.get("skipped_in_succession", 0)
        if not _is_whole(succession) or succession < 0:
            raise _error("skipped steps in succession, 0 or more", f"{succession!r:.60}")
        totals = saved["totals"]
        if totals is not None and tuple(totals.shape) != (4,):
            raise _error("four totals", f"shape {tuple(totals.shape)}")
        for kind in ("parameters", "buffers"):
            for name, tensor in saved[kind].items():
                if not isinstance(name, str) or not isinstance(tensor, Tensor):
                    raise _error(f"{kind} by name", f"{name!r:.60}")
                if tensor.is_floating_point() and bool((tensor if kind == "parameters" else 0 * tensor).isnan().any()):
                    raise _error(f"finite {name!r}", "NaN")
                if kind == "parameters" and not bool(tensor.isfinite().all()):
                    raise _error(f"finite {name!r}", "infinity")
        for name in ("optimizer", "random"):
            if not isinstance(saved[name], Mapping):
                raise _error(f"the {name} state by name", f"{saved[name]!r:.60}")
        if not all(isinstance(own, Mapping) for own in saved["callbacks"]):
            raise _error("the callbacks' states by name", "others")


def check_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], *, finite: bool) -> None:
    """Refuse the state of an optimizer that one step of such an optimizer would not leave.

    Args:
        optimizer: An optimizer of copies of the parameters, made as that which the state is for; it takes a step, with
            gradients of zero.
        saved: As `optimizer.state_dict()` returns it.
        finite: Whether its values have to be finite, as they are unless a fit has diverged.

    Raises:
        StateError: If options or tensors have other names, kinds or shapes, or a value is not finite.
    """
    with restoring("the state of the optimizer of this fit"):
        fresh = optimizer.state_dict()["param_groups"]
        groups = saved["param_groups"]
        if [group["params"] for group in groups] != [group["params"] for group in fresh]:
            raise _error("the optimizer's groups of parameters of this fit", "others")
        for group, own in zip(groups, fresh, strict=True):
            for name, value in own.items():
                if name != "params" and (not _is_alike(group[name], value) or _is_below(group[name], value)):
                    raise _error(f"a value such as {value!r:.40} for {name} of the optimizer", f"{group[name]!r:.60}")
        optimizer.load_state_dict({"state": {}, "param_groups": groups})
        for group in optimizer.param_groups:
            for leaf in group["params"]:
                leaf.grad = torch.zeros_like(leaf)
        optimizer.step()
        expected = optimizer.state_dict()["state"]
        if any(index not in expected for index in saved["state"]):
            raise _error("the optimizer's state by parameter", "that of others")
        for index, own in saved["state"].items():
            for name, value in expected[index].items():
                if value is not None and name not in own:
                    raise _error(f"{name} of every parameter of the optimizer", "none")
                if value is not None:
                    _check_value(name, own[name], value, finite)


def check_schedule(fresh: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse the state of a learning-rate schedule with values of other kinds than those of a new one.

    Raises:
        StateError: If so.
    """
    with restoring("the state of the schedule of this fit"):
        for name, value in saved.items():
            if name in fresh and not _is_alike(value, fresh[name]):
                raise _error(f"a value such as {fresh[name]!r:.40} for {name} of the schedule", f"{value!r:.60}")
        missing = next((name for name in ("last_epoch",) if name in fresh and name not in saved), None)
        if missing is not None:
            raise _error(f"{missing} of the schedule", "none")


def _check_value(name: str, value: Any, expected: Any, finite: bool) -> None:
    if isinstance(expected, Tensor):
        shape = tuple(value.shape)
        if shape != tuple(expected.shape):
            raise _error(f"{name} of shape {tuple(expected.shape)} of the optimizer", str(shape))
        if finite and not bool(value.isfinite().all()):
            raise _error(f"finite {name} of the optimizer", "NaN or infinity")
    elif not _is_alike(value, expected):
        raise _error(f"a value such as {expected!r:.40} for {name} of the optimizer", f"{value!r:.60}")


def _check_history(history: Any, epoch: int) -> None:
    if not isinstance(history, list) or len(history) != epoch:
        count = len(history) if isinstance(history, list) else "none"
        raise _error(f"a record of each of {plural(epoch, 'epoch')}", f"{count}")
    for number, record in enumerate(history, 1):
        bounds = [record["training"], *([] if record["validation"] is None else [record["validation"]])]
        numbers = [record["learning_rate"], record["seconds"]]
        numbers += [bound[name] for bound in bounds for name in ("loss", "log_likelihood", "kl")]
        if record["epoch"] != number or not all(map(_is_number, numbers)):
            raise _error(f"the figures of epoch {number} in its record", "others")


def _check_order(order: Any, length: int) -> None:
    if order is None:
        return
    rows = torch.arange(length)
    if order.dtype != torch.int64 or not torch.equal(order.cpu().sort().values, rows):
        raise _error(f"an order of {plural(length, 'datum', 'data')}", "another")


def _is_alike(value: Any, like: Any) -> bool:
    """Whether a value is of the kind of another: a finite number, a truth value, a word, nothing, a list of such."""
    if isinstance(like, Tensor):
        return isinstance(value, Tensor | int | float) and bool(torch.as_tensor(value).isfinite().all())
    if like is None or isinstance(like, bool):
        return value is None or isinstance(value, bool | int | float)
    if isinstance(like, int | float):
        return _is_number(value) and (math.isfinite(value) or not math.isfinite(like))
    if isinstance(like, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(like) and all(map(_is_alike, value, like))
    return isinstance(value, type(like))


def _is_below(value: Any, like: Any) -> bool:
    """Whether a number is negative where another is not, such as a learning rate."""
    return _is_number(value) and _is_number(like) and value < 0 <= like


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _error(expected: str, got: str) -> StateError:
    return StateError(f"Expected {expected} in {PLACE}; got {got}: {REMEDY}.")
