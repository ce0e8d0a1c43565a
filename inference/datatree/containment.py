"""Runs of Pyro callables that leave random states, parameters, flags and modules as they were."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["contained", "full_plates"]

_LOCK = threading.RLock()
_ENLARGING = threading.local()


@contextmanager
def contained(*functions: Callable[..., Any] | None, seed: int = 0) -> Iterator[None]:
    """A block after which random states, Pyro's flags and parameters, and modules are what they were.

    Inside, generators are seeded, no gradient is recorded, arguments are not validated, and modules that the functions
    belong to or run are in evaluation mode. One thread at a time is in such a block.
    """
    with _LOCK:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        store = pyro.get_param_store()
        parameters = set(store.keys())
        try:
            pyro.set_rng_seed(seed)
            with (
                pyro.validation_enabled(False),
                torch.inference_mode(False),
                torch.no_grad(),
                _evaluation_mode(*functions),
                poutine.block(),
            ):
                yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if cuda:
                torch.cuda.set_rng_state_all(cuda)
            for name in set(store.keys()) - parameters:
                del store[name]


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
            owner = _owner(function)
            for module in owner.modules() if owner is not None else ():
                evaluate(module)
        yield
    finally:
        hook.remove()
        for module, training in modes.values():
            module.training = training


def _owner(function: Callable[..., Any] | None) -> nn.Module | None:
    if function is None:
        return None
    function = poutine.unwrap(function)
    while isinstance(function, functools.partial):
        function = poutine.unwrap(function.func)
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def full_plates() -> Iterator[dict[str, int]]:
    """A block in which plates that would draw a random subsample have their full size; gives their names and sizes.

    A plate with an index of its own (`subsample=`) keeps it. Only plates of this thread are affected: Pyro has no
    handler for the size of a plate, so that the function that determines it is exchanged for one that looks at the
    thread.
    """
    enlarged: dict[str, int] = {}
    original = SubsampleMessenger._subsample

    def subsample(
        name: str, size: Any = None, subsample_size: Any = None, subsample: Any = None, *rest: Any, **options: Any
    ) -> Any:
        inside = getattr(_ENLARGING, "inside", False)
        if inside and size is not None and subsample is None and subsample_size is not None and subsample_size < size:
            enlarged[name] = int(size)
            subsample_size = None
        return original(name, size, subsample_size, subsample, *rest, **options)

    with _LOCK:
        before = getattr(_ENLARGING, "inside", False)
        SubsampleMessenger._subsample = staticmethod(subsample)  # type: ignore[method-assign]
        _ENLARGING.inside = True
        try:
            yield enlarged
        finally:
            _ENLARGING.inside = before
            SubsampleMessenger._subsample = staticmethod(original)  # type: ignore[method-assign]
