"""Peaks of resident memory, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable
from pathlib import Path

__all__ = ["grown"]


def grown[T](call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and the greatest growth of resident memory during it.

    Args:
        call: A function without arguments.

    Returns:
        Its result, and the growth in MiB; NaN if the system does not report it.

    Example:
        >>> from latentmix.experiments.benchmarks.memory import grown
        >>> values, mib = grown(lambda: bytearray(2**24))
        >>> len(values)
        16777216
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator keeps would hide growth
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return call(), math.nan
    result = call()
    return result, (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A figure of the process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
