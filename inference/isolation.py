"""Blocks after which random states, Pyro's settings and its parameter store are restored; modules of callables."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from latentmix.models.display import Displayed
from latentmix.models.process_state import exclusive, seed_generators
from latentmix.models.pyro_modules import TrainingModes

__all__ = ["Modules", "RandomState", "Registered", "isolated", "ordinary", "plain_errors"]


@dataclass(frozen=True, repr=False)
class RandomState(Displayed):
    """States of all random generators that Pyro uses: torch (each device), NumPy, Python.

    Example:
        >>> import torch
        >>> from latentmix.inference.isolation import RandomState
        >>> state = RandomState.capture()
        >>> first = torch.randn(3)
        >>> state.restore()
        >>> torch.equal(torch.randn(3), first)
        True
    """

    torch: Tensor
    cuda: list[Tensor]
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]

    @classmethod
    def capture(cls) -> RandomState:
        """The present states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        legacy = np.random.get_state(legacy=True)
        assert isinstance(legacy, tuple)
        return cls(torch.get_rng_state(), cuda, legacy, random.getstate())

    def restore(self) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def state_dict(self) -> dict[str, Any]:
        """The states as tensors and plain numbers, which can be saved without pickle."""
        name, keys, *rest = self.numpy
        version, internal, gauss = self.python
        return {
            "torch": self.torch.clone(),
            "cuda": [state.clone() for state in self.cuda],
            "numpy": {"name": name, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": list(rest)},
            "python": {"version": version, "internal": torch.tensor(internal), "gauss": gauss},
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> RandomState:
        """The states that `state_dict` returned."""
        generator, twister = state["numpy"], state["python"]
        return cls(
            torch=state["torch"].cpu(),
            cuda=[device.cpu() for device in state["cuda"]],
            numpy=(generator["name"], generator["keys"].cpu().numpy().astype(np.uint32), *generator["rest"]),
            python=(twister["version"], tuple(twister["internal"].tolist()), twister["gauss"]),
        )


@contextmanager
def isolated(*, seed: int | None = None, validation: bool | None = None, params: Any = None) -> Iterator[None]:
    """A block after which random states, Pyro's settings and its parameter store are restored.

    Inside, the parameter store starts from `params`, and gradients are recorded, whatever the mode outside. Pyro's
    state belongs to the process: only one thread at a time is in such a block, and others wait.

    Args:
        seed: Seeds all generators at the start of the block; by default their states are kept.
        validation: Switches Pyro's validation of arguments on or off inside the block; by default it is unchanged.
        params: A state of Pyro's parameter store (`get_state`); by default an empty one.
    """
    with exclusive(), exclusive(_pyro_state()):  # the state is read when this thread holds the lock
        randomness = RandomState.capture()
        settings = pyro.settings.get()
        try:
            if seed is not None:
                seed_generators(seed)
            if validation is not None:
                pyro.enable_validation(validation)
            with pyro.get_param_store().scope(params), torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            pyro.settings.set(**settings)
            randomness.restore()
            store = pyro.get_param_store()
            for name in store:
                store[name]  # restores the attribute `unconstrained`, which `get_state` removes from the leaves


def _pyro_state() -> Callable[[], None]:
    """A function that restores the present settings, parameter store and handlers of Pyro."""
    settings, store, handlers = pyro.settings.get(), pyro.get_param_store().get_state(), list(_PYRO_STACK)

    def restore() -> None:
        pyro.settings.set(**settings)
        pyro.get_param_store().clear()
        pyro.get_param_store().set_state(store)
        _PYRO_STACK[:] = handlers

    return restore


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor; a copy of it, if it was made in inference mode, since autograd would refuse it."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


@contextmanager
def plain_errors() -> Iterator[None]:
    """A block that reduces errors of a model to their sentence, without the table of shapes that Pyro appends."""
    try:
        yield
    except ValueError as error:
        cause: BaseException = error
        while isinstance(cause.__cause__, ValueError):
            cause = cause.__cause__
        if cause is error or not str(cause).startswith("Expected"):
            raise
        raise ValueError(str(cause)) from cause


class Modules(Messenger):
    """Collects the modules of Pyro callables, and keeps them in evaluation mode inside the block.

    A callable may be a module, a method of one, or a handler around these. Modules that register themselves by
    `latentmix.models.pyro_modules.register` are collected when they run, in whatever they are wrapped. An iteration
    gives the modules.

    Args:
        functions: The callables.
        evaluation: Whether the modules are put into evaluation mode; at the end each has the mode that it had.
    """

    def __init__(self, *functions: Callable[..., Any], evaluation: bool = True) -> None:
        super().__init__()
        self.evaluation = evaluation
        self._modules: dict[int, nn.Module] = {}
        self._modes = TrainingModes()
        self._owners = [owner for function in functions if (owner := _owner(function)) is not None]

    def __enter__(self) -> Self:
        for owner in self._owners:
            self._add(owner)
        super().__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._modes.restore()

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._modules.values())

    def _pyro_module(self, msg: Any) -> None:
        self._add(msg["args"][0])

    def _add(self, module: nn.Module) -> None:
        self._modules.setdefault(id(module), module)
        if self.evaluation:
            self._modes.evaluate(module)


class Registered(Messenger):
    """Skips the registration of modules with Pyro, where the caller knows their parameters."""

    def _pyro_module(self, msg: Any) -> None:
        msg["value"], msg["done"] = False, True


def _owner(function: Callable[..., Any]) -> nn.Module | None:
    function = poutine.unwrap(function)
    while isinstance(function, functools.partial):
        function = poutine.unwrap(function.func)
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
