"""The machine and the libraries of a measurement."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["default_threads", "machine", "processor"]

PACKAGES = (
    "latentmix",
    "torch",
    "pyro-ppl",
    "numpyro",
    "jax",
    "jaxlib",
    "numpy",
    "scikit-learn",
    "pomegranate",
    "torchgmm",
)


def machine() -> dict[str, Any]:
    """The machine, the time and the versions of libraries, `None` for those that are not installed.

    Example:
        >>> from latentmix.experiments.benchmarks.machine import machine
        >>> sorted(machine())
        ['cores', 'memory_mib', 'processor', 'python', 'system', 'time', 'versions']
    """
    return {
        "processor": processor(),
        "cores": _usable_cores(),
        "memory_mib": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def default_threads() -> int:
    """The threads that `OMP_NUM_THREADS` asks for; by default as many as there are cores that the process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and 0 < int(asked) < 10_000 else _usable_cores()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int | None:
    """The machine's memory in MiB; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
