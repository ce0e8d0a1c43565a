"""Snapshots of the state of the process, and a block that draws without a screen."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK


def snapshot() -> dict[str, Any]:
    """All process-wide state that a call could change."""
    store = pyro.get_param_store().get_state()
    legacy = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().tolist(),
        "torch seed": torch.initial_seed(),
        "seed of devices not in use": _queued_seeds(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in legacy],
        "python": random.getstate(),
        "pyro settings": pyro.settings.get(),
        "parameters": {name: (id(leaf), leaf.tolist(), leaf.requires_grad) for name, leaf in store["params"].items()},
        "constraints": {name: str(constraint) for name, constraint in store["constraints"].items()},
        "handlers": list(_PYRO_STACK),
        "validation": torch.distributions.Distribution._validate_args,
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "precision": torch.get_float32_matmul_precision(),
        "matplotlib": dict(matplotlib.rcParams),
        "backend": matplotlib.get_backend(auto_select=False),
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }


def _queued_seeds() -> list[str]:
    """Seeds that CUDA devices would take at their first use."""
    tracker = getattr(torch.cuda, "_lazy_seed_tracker", None)
    calls = [] if tracker is None else tracker.get_calls()
    return [repr(call[0]) for call in calls if call]


@contextmanager
def off_screen() -> Iterator[None]:
    """A block in which pyplot draws without a screen, as functions of ArviZ ask of it."""
    backend = plt.get_backend()
    plt.switch_backend("Agg")
    try:
        yield
    finally:
        plt.close("all")
        plt.switch_backend(backend)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def plane() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 2, dtype=torch.float64, generator=generator) + 5.0 * (torch.arange(40) % 2)[:, None]
