"""State of the whole process, such as torch's random generator and Pyro's handlers, changed by one thread at a time."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module

import numpy as np
import torch

__all__ = [
    "exclusive",
    "import_whole",
    "kept_filters",
    "kept_random_state",
    "kept_warnings",
    "seed_generators",
    "seed_torch",
]


class _OneThread:
    """Blocks for one thread at a time, which may be nested, and are undone in a process that another thread forks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._undo: list[Callable[[], None]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    @contextmanager
    def block(self, undo: Callable[[], None] | None = None) -> Iterator[None]:
        with self._lock:
            if undo is None:
                yield
                return
            self._undo.append(undo)
            try:
                yield
            finally:
                self._undo.pop()

    def _reset(self) -> None:
        """Release the lock in a forked process, and undo the blocks of the thread that held it, which is not there."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return
        self._lock = threading.RLock()
        while self._undo:
            with suppress(Exception):  # of a block that had not begun
                self._undo.pop()()


_imported: set[str] = set()
_state = _OneThread()
_filters = _OneThread()  # entered inside blocks of the other, never around them


def exclusive(undo: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """A block for one thread at a time, which may be nested.

    Waiting inside for another thread that enters such a block is a deadlock.

    Args:
        undo: Restores the state that the block changes. It is called in a process that another thread forks during the
            block, since the block never ends there.
    """
    return _state.block(undo)


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
    if _imported.issuperset(names):
        return
    errors = []

    def load() -> None:
        try:
            for name in names:
                import_module(name)
                _imported.add(name)
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
    with exclusive(), kept_filters(record=record) as caught:
        yield caught


@contextmanager
def kept_filters(*, record: bool = False) -> Iterator[list[warnings.WarningMessage]]:
    """A block of calls of other libraries, after which the filters of warnings are restored, one thread at a time.

    scikit-learn, pandas and others change the filters themselves; where two threads do so at a time, those of one stay
    for good. Such a block waits for others like it and for `kept_warnings`, not for `exclusive`, which nothing in it
    may enter.

    Args:
        record: Whether warnings are appended to the list that the block yields, instead of shown.
    """
    kept = warnings.catch_warnings(record=record)
    with _filters.block(lambda: kept.__exit__(None, None, None)), kept as caught:
        yield [] if caught is None else caught
