"""Worker processes that end with the process that has started them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial

__all__ = ["end_with", "tied"]

INTERVAL = 0.5
_watched: set[int] = set()


def end_with(parent: int) -> None:
    """End this process, at once and within a second, when its parent has ended, also if that was killed.

    A process that `parent` has not started itself, such as a worker of another machine, is left alone.

    Args:
        parent: The process that has started this one.
    """
    own = os.getpid()
    if own in _watched or not hasattr(os, "getppid") or os.getppid() != parent:
        return
    _watched.add(own)
    threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def tied[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """A function to be run by workers, which end with this process as `end_with` ends them.

    Example:
        >>> from latentmix.inference.workers import tied
        >>> tied(max)(1, 2)
        2
    """
    return partial(_run, os.getpid(), function)


def _run[**P, T](parent: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    end_with(parent)
    return function(*args, **kwargs)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)  # files are complete at any moment, since each is moved into place
