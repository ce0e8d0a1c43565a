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
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import nn

__all__ = ["contained", "full_plates"]

_LOCK = threading.RLock()
_ENLARGING = threading.local()


@contextmanager
def contained(*functions: Callable[..., Any] | None, seed: int = 0) -> Iterator[None]:
    """A block after which random states, Pyro's flags and parameters, and modules are what they were.

    Inside, generators are seeded, no gradient is recorded, arguments are not validated, and modules that the functions
    belong to or register are in evaluation mode. One thread at a time is in such a block.
    """
    with _LOCK:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        store = pyro.get_param_store()
        parameters = set(store.keys())
        try:
            pyro.set_rng_seed(seed)
            with pyro.validation_enabled(False), torch.no_grad(), _EvaluationMode(*functions):
                yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if cuda:
                torch.cuda.set_rng_state_all(cuda)
            for name in set(store.keys()) - parameters:
                del store[name]


class _EvaluationMode(Messenger):
    """Keeps the modules of Pyro callables, and those that they register, in evaluation mode inside the block."""

    def __init__(self, *functions: Callable[..., Any] | None) -> None:
        super().__init__()
        self._training: dict[int, tuple[nn.Module, bool]] = {}
        self._owners = [owner for function in functions if (owner := _owner(function)) is not None]

    def __enter__(self) -> Any:
        for owner in self._owners:
            self._evaluate(owner)
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        for module, training in self._training.values():
            module.training = training

    def _pyro_module(self, msg: Any) -> None:
        self._evaluate(msg["args"][0])

    def _evaluate(self, owner: nn.Module) -> None:
        for module in owner.modules():
            self._training.setdefault(id(module), (module, module.training))
            module.training = False


def _owner(function: Callable[..., Any] | None) -> nn.Module | None:
    function = poutine.unwrap(function)
    while isinstance(function, functools.partial):
        function = poutine.unwrap(function.func)
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def full_plates() -> Iterator[dict[str, int]]:
    """A block in which plates that would draw a random subsample have their full size; gives their names and sizes.

    A plate with an index of its own (`subsample=`) keeps it. Only plates of this thread are affected: Pyro has no handler
    for the size of a plate, so that the function that determines it is exchanged for one that looks at the thread.
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
