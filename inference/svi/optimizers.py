"""Optimizers and learning-rate schedules: functions that make them, and checks of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from latentmix.models.process_state import import_whole

__all__ = [
    "MakeOptimizer",
    "MakeScheduler",
    "as_optimizer",
    "as_scheduler",
    "check_schedule_steps",
    "make_optimizer",
    "make_scheduler",
]

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]

_OPTIMIZER = "pass a function that makes it, such as optimizer=functools.partial(torch.optim.Adam, lr=0.01)."
_CLIPPING = "clip by clip_norm of fit, and "
_SCHEDULER = (
    "pass a function that makes it, such as scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10)."
)


def as_optimizer(optimizer: Any) -> MakeOptimizer:
    """A function from the leaves to their optimizer.

    Args:
        optimizer: Such a function, an optimizer class of torch, or an optimizer of `pyro.optim`.

    Raises:
        ValueError: If it is an optimizer of torch, which has leaves already, one of `pyro.optim` with options by
            parameter, gradient clipping or a schedule, or not callable.
    """
    if isinstance(optimizer, PyroLRScheduler):
        raise ValueError(
            f"Expected an optimizer without a schedule; got {_kind(optimizer)} of pyro.optim: pass its two parts, such "
            "as optimizer=functools.partial(torch.optim.Adam, lr=0.01) and "
            "scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10)."
        )
    if isinstance(optimizer, PyroOptim):
        constructor: Any = optimizer.pt_optim_constructor
        if not isinstance(optimizer.pt_optim_args, dict) or optimizer.pt_clip_args:
            raise ValueError(
                "Expected an optimizer of pyro.optim with a dictionary of options for all parameters and without "
                f"clip_args; got {constructor.__name__} with "
                f"{'clip_args' if optimizer.pt_clip_args else 'a function of them'}: "
                f"{_CLIPPING if optimizer.pt_clip_args else ''}{_OPTIMIZER}"
            )
        return partial(constructor, **optimizer.pt_optim_args)
    _refuse_factory(optimizer, "optimizer", _OPTIMIZER)
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        ready = isinstance(optimizer, Optimizer)
        raise ValueError(
            "Expected a function from parameters to their optimizer; got "
            f"{f'{_kind(optimizer)}(...) of other parameters' if ready else _shown(optimizer)}: {_OPTIMIZER}"
        )
    made: MakeOptimizer = optimizer
    return made


def as_scheduler(scheduler: Any) -> MakeScheduler:
    """A function from an optimizer to its learning-rate schedule.

    Args:
        scheduler: Such a function, or a schedule class of torch.

    Raises:
        ValueError: If it is a schedule, which has an optimizer already, one of `pyro.optim`, or not callable.
    """
    if isinstance(scheduler, PyroOptim):
        raise ValueError(
            f"Expected a function from an optimizer to its schedule; got {_kind(scheduler)} of pyro.optim: {_SCHEDULER}"
        )
    _refuse_factory(scheduler, "schedule", _SCHEDULER)
    if isinstance(scheduler, LRScheduler | ReduceLROnPlateau) or not callable(scheduler):
        ready = isinstance(scheduler, LRScheduler | ReduceLROnPlateau)
        raise ValueError(
            "Expected a function from an optimizer to its schedule; got "
            f"{f'{_kind(scheduler)}(...) of another optimizer' if ready else _shown(scheduler)}: {_SCHEDULER}"
        )
    made: MakeScheduler = scheduler
    return made


def make_optimizer(make: MakeOptimizer, leaves: Sequence[Tensor]) -> Optimizer:
    """The optimizer of the leaves.

    Raises:
        ValueError: If the function needs more than the leaves, or does not make an optimizer of these; or if a step of
            the optimizer needs a closure.
    """
    import_whole("torch._dynamo")  # as torch's optimizers do, but an interrupt breaks it for later fits
    optimizer = _call(make, list(leaves), "optimizer", "parameters", _OPTIMIZER)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"Expected a function that makes a torch optimizer; it made {_shown(optimizer)}: {_OPTIMIZER}")
    held = {id(leaf) for group in optimizer.param_groups for leaf in group["params"]}
    if held.isdisjoint(id(leaf) for leaf in leaves):
        raise ValueError(
            f"Expected an optimizer of the parameters that the function is given; got a {_kind(optimizer)} of others: "
            f"{_OPTIMIZER}"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"Expected an optimizer whose step needs no closure; got {_kind(optimizer)}, which evaluates the loss "
            "again within a step: pass another, such as optimizer=functools.partial(torch.optim.Adam, lr=0.01)."
        )
    return optimizer


def make_scheduler(make: MakeScheduler, optimizer: Optimizer) -> LRScheduler | ReduceLROnPlateau:
    """The schedule of the optimizer.

    Raises:
        ValueError: If the function needs more than the optimizer, or does not make a schedule of it.
    """
    scheduler = _call(make, optimizer, "schedule", "the optimizer", _SCHEDULER)
    if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        raise ValueError(f"Expected a function that makes a torch schedule; it made {_shown(scheduler)}: {_SCHEDULER}")
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            f"Expected a schedule of the optimizer that the function is given; got a {_kind(scheduler)} of another: "
            f"{_SCHEDULER}"
        )
    return scheduler


def check_schedule_steps(scheduler: LRScheduler | ReduceLROnPlateau | None, count: int, *, by_steps: bool) -> None:
    """Refuse a schedule that cannot be stepped in a fit.

    Args:
        scheduler: The schedule.
        count: How often it is stepped.
        by_steps: Whether it is stepped after every minibatch, and not after every epoch.

    Raises:
        ValueError: If it is to be stepped by minibatches and there is none, or it needs the loss of an epoch; or it
            ends before the fit does.
    """
    if by_steps and (scheduler is None or isinstance(scheduler, ReduceLROnPlateau)):
        given = "none" if scheduler is None else "ReduceLROnPlateau, which is stepped by the loss of an epoch"
        raise ValueError(
            f"Expected a schedule that needs no loss for schedule_steps=True; got {given}: "
            f"{'pass a scheduler' if scheduler is None else 'pass another'}, or leave schedule_steps out."
        )
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < count:
        unit = "minibatches" if by_steps else "epochs"
        raise ValueError(
            f"Expected total_steps of {_kind(scheduler)} of {count:,} at least, the {unit} of the fit; got {total:,}."
        )


def _refuse_factory(part: Any, name: str, remedy: str) -> None:
    """Refuse a function of `pyro.optim` that has not been called with its options."""
    if callable(part) and not isinstance(part, type) and str(getattr(part, "__module__", "")).startswith("pyro.optim"):
        raise ValueError(
            f"Expected a function that makes the {name} of torch; got {getattr(part, '__name__', _kind(part))} of "
            f"pyro.optim without its options: {remedy}"
        )


def _call(make: Callable[[Any], Any], argument: Any, name: str, what: str, remedy: str) -> Any:
    """Call a function of one argument; one that needs more is refused in a sentence."""
    try:
        inspect.signature(make).bind(argument)
    except TypeError as error:
        raise ValueError(
            f"Expected a function that makes the {name} from {what} alone; got one with {error}: {remedy}"
        ) from error
    except ValueError:
        pass  # a builtin has no signature
    return make(argument)


def _kind(part: object) -> str:
    return type(part).__name__


def _shown(part: object) -> str:
    return f"{part!r:.60}"
