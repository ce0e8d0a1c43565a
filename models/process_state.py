"""State that a process has once, as torch's random generator and Pyro's handlers: one thread at a time changes it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["exclusive", "kept_random_state", "kept_warnings"]

_lock = threading.RLock()
_undo: list[Callable[[], None]] = []


@contextmanager
def exclusive(undo: Callable[[], None] | None = None) -> Iterator[None]:
    """A block that one thread at a time is in; it may be entered again inside.

    Do not wait inside for another thread that enters such a block.

    Args:
        undo: Puts back what the block changes, in a process that another thread forks meanwhile: the block never
            ends there.
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


@contextmanager
def kept_random_state(seed: int | None = None) -> Iterator[None]:
    """A block after which torch's random states are what they were.

    Args:
        seed: Seeds torch at the start of the block; by default it goes on from where it is.
    """
    with exclusive(), torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def kept_warnings(*, record: bool = False) -> Iterator[list[warnings.WarningMessage]]:
    """`warnings.catch_warnings`, whose filters are the process's, for one thread at a time."""
    with exclusive(), warnings.catch_warnings(record=record) as caught:
        yield [] if caught is None else caught


def _renew() -> None:
    """In a forked process: a free lock, and the state outside of the block of a thread that does not exist there."""
    global _lock
    if _lock.acquire(blocking=False):
        _lock.release()
        return
    _lock = threading.RLock()
    while _undo:
        _undo.pop()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
