"""State of the whole process, such as torch's random generator and Pyro's handlers, changed by one thread at a time."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch

__all__ = ["exclusive", "import_whole", "kept_random_state", "kept_warnings", "seed_generators", "seed_torch"]

_lock = threading.RLock()
_undo: list[Callable[[], None]] = []


@contextmanager
def exclusive(undo: Callable[[], None] | None = None) -> Iterator[None]:
    """A block for one thread at a time, which may be nested.

    Waiting inside for another thread that enters such a block is a deadlock.

    Args:
        undo: Restores the state that the block changes. It is called in a process that another thread forks during the
            block, since the block never ends there.
    """
    with _lock:
        if undo is None:
            yield
            return
        _undo.append(undo)
        try:
            yield
        finally:
            _undo.pop()


def import_whole(*names: str) -> None:
    """Import modules in a thread of their own, since signals interrupt the main thread alone.

    Of a package whose import is interrupted some modules stay and others do not, and later imports of it fail for as
    long as the process lives. Here an interrupt ends the wait at once, and the import is completed behind it; whoever
    imports the modules in the meantime waits for that.

    Args:
        *names: Dotted names of the modules.

    Raises:
        Exception: Whatever the import raises.

    Example:
        >>> from latentmix.models.process_state import import_whole
        >>> import_whole("xml.dom", "xml.sax")
    """
    errors = []

    def load() -> None:
        try:
            for name in names:
                import_module(name)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=load, name=f"import of {names[0]}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def seed_torch(seed: int) -> None:
    """Seed torch's generators of the devices that are in use.

    `torch.manual_seed` would also note the seed for devices that are not, which take it at their first use, whenever
    that is: no later block can restore what they were.

    Args:
        seed: The seed.
    """
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def seed_generators(seed: int) -> None:
    """Seed all generators that Pyro uses: torch's, as `seed_torch` does, NumPy's and Python's.

    Args:
        seed: The seed.
    """
    seed_torch(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def kept_random_state(seed: int | None = None) -> Iterator[None]:
    """A block after which torch's random states are restored.

    Args:
        seed: Seeds torch at the start of the block; by default its state is kept.
    """
    with exclusive(), torch.random.fork_rng():
        if seed is not None:
            seed_torch(seed)
        yield


@contextmanager
def kept_warnings(*, record: bool = False) -> Iterator[list[warnings.WarningMessage]]:
    """`warnings.catch_warnings`, for one thread at a time, since its filters belong to the process.

    Args:
        record: Whether warnings are appended to the list that the block yields, instead of shown.
    """
    with exclusive(), warnings.catch_warnings(record=record) as caught:
        yield [] if caught is None else caught


def _reset_after_fork() -> None:
    """Release the lock in a forked process, and undo the blocks of the thread that held it, which is not there."""
    global _lock
    if _lock.acquire(blocking=False):
        _lock.release()
        return
    _lock = threading.RLock()
    while _undo:
        _undo.pop()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
