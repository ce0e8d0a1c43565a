"""Runs of Pyro callables that leave random states, parameters, flags and modules as they were."""

from __future__ import annotations

import functools
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["contained", "full_plates", "owner"]

_ENLARGING = threading.local()
_lock = threading.RLock()


def _exclusive(undo: Callable[[], None]) -> AbstractContextManager[Any]:
    return _lock


def _reset_after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)

exclusive: Callable[[Callable[[], None]], AbstractContextManager[Any]] = _exclusive
"""Gives a block for one thread at a time, which may be nested. A program that changes the state of the process in other
places too sets its own here; it is given what undoes the block's change, for a process forked in between.
"""


@contextmanager
def contained(*functions: Callable[..., Any] | None, seed: int = 0) -> Iterator[None]:
    """A block after which random states, Pyro's flags and parameters, and modules are what they were.

    Inside, generators are seeded, no gradient is recorded, arguments are not validated, and modules that the functions
    belong to or run are in evaluation mode. One thread at a time is in such a block.
    """
    states: list[Any] = []

    def restore() -> None:
        while states:
            set_state, state = states.pop()
            set_state(state)

    with exclusive(restore):
        states += [
            (torch.set_rng_state, torch.get_rng_state()),
            (np.random.set_state, np.random.get_state()),
            (random.setstate, random.getstate()),
        ]
        if torch.cuda.is_initialized():
            states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        store = pyro.get_param_store()
        parameters = set(store.keys())
        try:
            _seed(seed)
            with (
                pyro.validation_enabled(False),
                torch.inference_mode(False),
                torch.no_grad(),
                _evaluation_mode(*functions),
                poutine.block(),
            ):
                yield
        finally:
            restore()
            for name in set(store.keys()) - parameters:
                del store[name]


def _seed(seed: int) -> None:
    """As `pyro.set_rng_seed`, but for devices that are not in use: torch would seed those at their first use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def _evaluation_mode(*functions: Callable[..., Any] | None) -> Iterator[None]:
    """Keeps the modules that callables belong to, and those that this thread runs, in evaluation mode inside the
    block.
    """
    modes: dict[int, tuple[nn.Module, bool]] = {}
    thread = threading.get_ident()

    def evaluate(module: nn.Module, *_: Any) -> None:
        if threading.get_ident() == thread and id(module) not in modes:
            modes[id(module)] = (module, module.training)
            module.training = False

    hook = register_module_forward_pre_hook(evaluate)
    try:
        for function in functions:
            module = owner(function)
            for part in module.modules() if module is not None else ():
                evaluate(part)
        yield
    finally:
        hook.remove()
        for module, training in modes.values():
            module.training = training


def owner(function: Callable[..., Any] | None) -> nn.Module | None:
    """The module that a callable is, or is a method of, without handlers and partial arguments."""
    if function is None:
        return None
    function = poutine.unwrap(function)
    while isinstance(function, functools.partial):
        function = poutine.unwrap(function.func)
    module = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return module if isinstance(module, nn.Module) else None


@contextmanager
def full_plates() -> Iterator[dict[str, int]]:
    """A block in which plates that would draw a random subsample have their full size; gives their names and sizes.

    A plate with an index of its own (`subsample=`) keeps it. Only plates of this thread are affected: Pyro has no
    handler for the size of a plate, so that the function that determines it is exchanged for one that looks at the
    thread.
    """
    enlarged: dict[str, int] = {}
    before: list[Any] = []

    def subsample(
        name: str, size: Any = None, subsample_size: Any = None, subsample: Any = None, *rest: Any, **options: Any
    ) -> Any:
        inside = getattr(_ENLARGING, "inside", False)
        if inside and size is not None and subsample is None and subsample_size is not None and subsample_size < size:
            enlarged[name] = int(size)
            subsample_size = None
        return before[0](name, size, subsample_size, subsample, *rest, **options)

    def restore() -> None:
        if before:
            SubsampleMessenger._subsample = staticmethod(before[0])  # type: ignore[method-assign]

    with exclusive(restore):
        before.append(SubsampleMessenger._subsample)
        inside = getattr(_ENLARGING, "inside", False)
        SubsampleMessenger._subsample = staticmethod(subsample)  # type: ignore[method-assign]
        _ENLARGING.inside = True
        try:
            yield enlarged
        finally:
            _ENLARGING.inside = inside
            restore()
