"""Modules within Pyro programs: registration of their parameters, and evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
from pyro.poutine.runtime import effectful
from torch import nn

from latentmix.models.process_state import exclusive

__all__ = ["TrainingModes", "evaluation_mode", "register"]


class TrainingModes:
    """Training modes of modules before they were put into evaluation mode, to restore them afterwards.

    Example:
        >>> from torch import nn
        >>> from latentmix.models.pyro_modules import TrainingModes
        >>> module, modes = nn.Dropout(), TrainingModes()
        >>> modes.evaluate(module)
        >>> module.training
        False
        >>> modes.restore()
        >>> module.training
        True
    """

    def __init__(self) -> None:
        self._training: dict[nn.Module, bool] = {}

    def evaluate(self, module: nn.Module) -> None:
        """Put a module and its submodules into evaluation mode; the mode before the first call is kept."""
        for part in module.modules():
            self._training.setdefault(part, part.training)
        module.eval()

    def restore(self) -> None:
        """Give every module the mode that it had."""
        for part, training in self._training.items():
            part.training = training
        self._training = {}


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """A block with modules (batch normalisation, dropout) in evaluation mode, for one thread at a time.

    Args:
        modules: The modules, submodules included; afterwards each has the mode that it had.
    """
    modes = TrainingModes()
    with exclusive():
        try:
            for module in modules:
                modes.evaluate(module)
            yield
        finally:
            modes.restore()


def register(name: str, module: nn.Module) -> None:
    """Register a module's trainable parameters with Pyro, as `pyro.module` does, but never another module's.

    Handlers see the module in a message of type `module`; a handler that sets the message's value to False skips the
    registration, where the parameters are known already.

    Args:
        name: Name of the module in the parameter store.
        module: The module.

    Raises:
        ValueError: If the parameter store already holds another module's parameters under that name; without
            this check that other module would be trained instead of this one (pyro issue 2912).
    """
    if not _announce(module, name=name):
        return
    store = pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = f"{name}$$${key}"
        pyro.param(full, parameter)
        if full in store and store[full] is not parameter:
            raise ValueError(
                f"Expected the parameter store to hold this module's {key!r} under {name!r}; got another module's (or "
                "a copy, where a parameter is not contiguous): call pyro.clear_param_store() first, or train by "
                "latentmix.inference.fit, which keeps fits apart."
            )


@effectful(type="module")
def _announce(module: nn.Module) -> bool:
    return True
